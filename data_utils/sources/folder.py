"""A corpus folder, as `prepare_corpus` leaves it: Parquet files of documents, and the manifest that makes it whole.

FOLDER/corpus.json          the manifest, written last: its shards with documents, bytes and hash
FOLDER/data/00000.parquet   text, language, source, id, hash_share (by which the split goes; not in old ones)
"""

import json
import re
from pathlib import Path

import xxhash

from errors import InputError

MANIFEST = "corpus.json"


def is_corpus_folder(path: str) -> bool:
    """Tell whether a path is a corpus folder; raise InputError where it is one that was never finished."""
    folder = Path(path)
    if (folder / MANIFEST).is_file() and (folder / "data").is_dir():  # else it is a text of that name
        return True
    if (folder / ".work").is_dir() or any(re.fullmatch(r"\d{5}", file.stem) for file in folder.glob("data/*.parquet")):
        raise InputError(f"{path}: an unfinished corpus, without {MANIFEST}; run prepare_corpus again to finish it")
    return False


def read_manifest(path: str) -> dict:
    """Return the manifest of a corpus folder; raise InputError where it does not fit its files."""
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text(encoding="utf-8"))
        files = [Path(path) / shard["file"] for shard in manifest["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}/{MANIFEST}: not a manifest; prepare the corpus again") from error
    for file in files:
        if not file.is_file():
            raise InputError(f"{path}: {file.name} of its {MANIFEST} is missing; prepare the corpus again")
    return manifest


def list_shards(path: str) -> list[str]:
    """Return the Parquet files of a corpus folder in order."""
    return [str(Path(path) / shard["file"]) for shard in read_manifest(path)["shards"]]


def folder_version(path: str) -> str:
    """Return a hash that changes when the documents of a corpus folder change."""
    shards = [(shard["file"], shard["documents"], shard.get("sha256")) for shard in read_manifest(path)["shards"]]
    return xxhash.xxh64(json.dumps(shards).encode()).hexdigest()
