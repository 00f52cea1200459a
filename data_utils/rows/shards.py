"""A source tokenized once to memory-mapped shards, which are opened at once at any size.

FOLDER/00000.bin          ids of the training documents, joined, each ending in the end token; uint16 or uint32
FOLDER/00000.npy          uint64: where in 00000.bin each document begins, in tokens
FOLDER/00000.eval.jsonl   held-out documents, `{"text", "language"}`, of each language up to a limit
FOLDER/00000.json         what the shard holds, hashes of its files, and where the input goes on; written last
FOLDER/index.json         all shards, and by what they are read; written last of all
FOLDER/.checked           the launch whose first process compared all hashes
"""

import json
import os
import platform
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xxhash
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_folder, find_json, keep_json, open_progress
from data_utils.sources.source import Source, data_version
from data_utils.text.splitting import SHARE
from errors import say_note
from files import hash_file, remove_cut_off, whole, write_whole
from model_utils.text_encoder import encode_texts

FORMAT = 3  # of these files and of what is in them: to be counted up when either changes
SHARD_TOKENS = 2**25  # what a kill costs at most to do again
BATCH_CHARACTERS = 2**20  # text in one call of the tokenizer
EVAL_BYTES = 2**20  # held-out text kept of a language in a shard; what is above is neither trained on nor evaluated
CHECKED_BYTES = 2**30  # read in less than a second
INDEX = "index.json"


def tokenize_source(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_key: str,
    eval_fraction: float,
    shard_tokens: int = SHARD_TOKENS,
) -> Path:
    """Tokenize a source to shards, unless that is done, and return their folder in the cache.

    Killed at any moment, it goes on after the last whole shard, and what comes out is the same to the byte. Held-out
    documents (by hash) are kept aside. Memory: a few batches of `BATCH_CHARACTERS`, or the longest document.
    """
    folder = shards_folder(source, tokenizer_key, eval_fraction, shard_tokens)
    if is_whole(folder) and is_undamaged(folder):
        return folder
    folder.mkdir(exist_ok=True)
    parts = source.parts()
    typecode = "H" if len(tokenizer) <= 2**16 else "I"
    shards = read_whole_shards(folder, typecode)
    done = sum(counts["bytes"] for shard in shards for counts in shard["languages"].values())
    progress = open_progress(f"tokenizing {source.path}", source.text_bytes(), done=done, unit="B")
    batches = batch_documents(source, parts, eval_fraction, *(shards[-1]["next"] if shards else (0, 0)))

    def encode(batch: list[tuple]) -> list[tuple]:
        texts = [text for text, _, held_out, _ in batch if not held_out]
        ids = iter(encode_texts(tokenizer, texts, typecode))
        return [(None if held_out else next(ids), *rest) for rest in batch for held_out in (rest[2],)]

    writer = None
    for batch in map_ahead(encode, batches):
        size = 0
        for ids, text, language, _, place in batch:
            writer = writer or TokenShardWriter(folder, len(shards), typecode)
            size += writer.add(ids, text, language)
            if writer.tokens >= shard_tokens:
                shards.append(writer.close(place))
                writer = None
        progress.update(size)
    progress.close()
    if writer:
        shards.append(writer.close((len(parts), 0)))
    keep_json(folder / INDEX, {"format": FORMAT, "dtype": f"uint{16 if typecode == 'H' else 32}", "shards": shards})
    return folder


def shards_folder(source: Source, tokenizer_key: str, eval_fraction: float, shard_tokens: int = SHARD_TOKENS) -> Path:
    """Return where a source's shards are or will be."""
    key = f"{FORMAT}\0{data_version([source])}\0{source.reading}\0{tokenizer_key}\0{eval_fraction}\0{shard_tokens}"
    return cache_folder() / f"shards-{xxhash.xxh64(key.encode()).hexdigest()}"


def is_whole(folder: Path) -> bool:
    """Tell whether a source's shards are all there, each as long as the index says."""
    index = find_json(folder / INDEX)
    if index is None:
        return False
    try:
        shards = [shard["tokens"] * np.dtype(index["dtype"]).itemsize for shard in index["shards"]]
        return all((folder / f"{number:05d}.bin").stat().st_size == size for number, size in enumerate(shards))
    except OSError:
        return False


def is_undamaged(folder: Path) -> bool:
    """Tell whether every file of whole shards has the bytes that were written; the first that hasn't is said.

    All is read once for each run, of several processes on a machine by the first: 2 to 5 GB/s from memory or a local
    disk, which is 4 to 10 seconds for ten billion tokens. Above CHECKED_BYTES a bar shows how far it is.
    """
    launch, mark = name_launch(), folder / ".checked"
    if launch and mark.exists() and mark.read_text(encoding="utf-8") == launch:
        return True
    hashes = {name: value for shard in find_json(folder / INDEX)["shards"] for name, value in shard["hashes"].items()}
    sizes = {name: (folder / name).stat().st_size for name in hashes if (folder / name).exists()}
    total = sum(sizes.values())
    bar = open_progress("checking shards", total=total, done=0, unit="B") if total > CHECKED_BYTES else nullcontext()
    with bar as shown:
        for name, value in hashes.items():
            if name not in sizes or hash_file(folder / name) != value:
                say_note(f"{folder / name} is damaged; it, and what stands behind it, is made anew")
                return False
            if shown:
                shown.update(sizes[name])
    if launch:
        write_whole(mark, launch)
    return True


def name_launch() -> str:
    """Return what the processes of one launch on this machine have in common, '' for a process by itself."""
    if "LOCAL_RANK" not in os.environ:
        return ""
    return f"{platform.node()} {os.getppid()} {psutil.Process(os.getppid()).create_time()}"


def read_whole_shards(folder: Path, typecode: str) -> list[dict]:
    """Return the records of the first shards of a folder, as far as they are whole; drop an index that is not."""
    (folder / INDEX).unlink(missing_ok=True)
    shards = []
    for path in sorted(folder.glob("*[0-9].json")):
        record = find_json(path)
        if record is None or record["bytes_a_token"] != array(typecode).itemsize:
            break
        files = {folder / name: value for name, value in record["hashes"].items()}
        if any(not file.exists() or hash_file(file) != value for file, value in files.items()):
            break
        shards.append(record)
    return shards


def batch_documents(
    source: Source, parts: list[str], eval_fraction: float, part: int, start: int
) -> Iterator[list[tuple[str, str, bool, tuple[int, int]]]]:
    """Yield batches of (text, language, held out, place after it), from document `start` of part `part` on."""
    batch, characters = [], 0
    for number in range(part, len(parts)):
        for place, row in enumerate(source.read(parts[number], start), start + 1):
            if row["text"]:
                batch.append((row["text"], row["language"], row[SHARE] < eval_fraction, (number, place)))
                characters += len(row["text"])
            if characters >= BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
        start = 0
    if batch:
        yield batch


def map_ahead(function: Callable[[Any], Any], items: Iterable[Any], ahead: int = 2) -> Iterator[Any]:
    """Yield `function(item)` in order, computed in threads while the items are read and the results are used."""
    with ThreadPoolExecutor(ahead) as pool:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class TokenShardWriter:
    """One shard while it is written."""

    def __init__(self, folder: Path, number: int, typecode: str) -> None:
        self.path = folder / f"{number:05d}"
        remove_cut_off(folder)
        for half_written in folder.glob(f"{number:05d}.*"):
            half_written.unlink()
        self.file = self.path.with_suffix(".bin").open("wb")
        self.offsets, self.tokens, self.typecode = array("Q"), 0, typecode
        self.hash = xxhash.xxh3_128()  # of the ids as they are here: what a disk makes of them is compared with that
        self.languages: dict[str, dict[str, int]] = {}
        self.held_out: dict[str, list[str]] = {}
        self.held_out_bytes: dict[str, int] = {}

    def add(self, ids: array | None, text: str, language: str) -> int:
        """Add a document of these ids, or a held-out one (None); return the bytes of its text."""
        size = len(text.encode())
        if ids is None:
            before = self.held_out_bytes.get(language, 0)
            if before < EVAL_BYTES:
                self.held_out.setdefault(language, []).append(text)
            self.held_out_bytes[language] = before + size
            return size
        counts = self.languages.setdefault(language, {"documents": 0, "bytes": 0, "tokens": 0})
        for name, value in (("documents", 1), ("bytes", size), ("tokens", len(ids))):
            counts[name] += value
        self.offsets.append(self.tokens)
        self.file.write(ids)
        self.hash.update(ids)
        self.tokens += len(ids)
        return size

    def close(self, place: tuple[int, int]) -> dict[str, Any]:
        """Write the rest of the shard, its record last, and return the record."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        with whole(self.path.with_suffix(".npy")) as aside:
            np.save(aside, np.frombuffer(self.offsets, dtype=np.uint64))
        rows = [{"text": text, "language": name} for name, texts in sorted(self.held_out.items()) for text in texts]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(self.path.with_suffix(".eval.jsonl"), lines)
        hashes = {self.path.with_suffix(".bin").name: self.hash.hexdigest()}
        for suffix in (".npy", ".eval.jsonl"):
            hashes[self.path.with_suffix(suffix).name] = hash_file(self.path.with_suffix(suffix))
        record = {"tokens": self.tokens, "documents": len(self.offsets), "languages": self.languages, "next": place,
                  "hashes": hashes, "bytes_a_token": array(self.typecode).itemsize}  # fmt: skip
        keep_json(self.path.with_suffix(".json"), record)
        return record
