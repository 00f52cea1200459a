"""Keeps what was prepared, so that it is found again; of several processes one prepares while the others wait.

prepared/KEY-HASH.arrow     rows that a step made: KEY names all that determines them, HASH is of their bytes
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import tqdm as progress
import xxhash
from datasets import Dataset, Features, config
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable
from datasets.utils import tqdm
from filelock import FileLock

from errors import say_note
from files import hash_file, write_whole

LOG_SECONDS = 30
LOG_LINE = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}, {rate_fmt}, {elapsed} gone, {remaining} left\n"


def cache_key(*parts: object) -> str:
    """Return a key for what these parts and the code that prepares data determine: an upgrade makes no stale hit."""
    code = hash_code("data_utils", "model_utils")  # the second turns text into ids
    return xxhash.xxh64("\0".join([code, *map(str, parts)]).encode(errors="surrogateescape")).hexdigest()


@cache
def hash_code(*rooms: str) -> str:
    """Return a hash of rooms of this repository: of their code, and of data that are YAML."""
    root = Path(__file__).parents[1]
    files = sorted(file for room in rooms for kind in ("py", "yaml") for file in (root / room).rglob(f"*.{kind}"))
    return xxhash.xxh64(b"".join(file.read_bytes() for file in files)).hexdigest()


def cache_folder() -> Path:
    """Return the folder of what is cached here beside the datasets (HF_DATASETS_CACHE), made if need be.

    It holds a user's texts in clear, so that nobody else may look into it.
    """
    folder = Path(config.HF_DATASETS_CACHE) / "prepared"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    with suppress(PermissionError):  # somebody else's, who let us in
        folder.chmod(0o700)  # one that an older version made
    return folder


def preparation_lock() -> FileLock:
    """Return a lock under which one process prepares data while others wait for as long as it takes.

    A lock on a file, not a barrier: barriers of torch.distributed give up after some minutes.
    """
    return FileLock(cache_folder() / "preparation.lock", timeout=-1)


def generate_rows(
    generate: Callable[..., Iterator[dict] | Iterator[pa.Table]],
    features: Features,
    key: str,
    desc: str = "preparing",
    **arguments,
) -> Dataset:
    """Return what `generate(**arguments)` yields as a Dataset, made once for each `key`; it may be empty.

    An entry of the cache that is not as it was written (a full disk, a power cut, another program) is made anew.

    Args:
        generate: yields rows, or Arrow tables of them.
        desc: what a progress bar says meanwhile.
    """
    entries = sorted(cache_folder().glob(f"{key}-*.arrow"))
    damaged = [path for path in entries if path.stem != f"{key}-{hash_file(path)}"]
    for path in damaged:
        say_note(f"{path} is damaged, and is made anew")
        path.unlink()
    entries = [path for path in entries if path not in damaged]
    path = entries[0] if entries else write_rows(tqdm(generate(**arguments), desc, unit=" rows"), features, key)
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)


def write_rows(rows: tqdm, features: Features, key: str) -> Path:
    """Write rows, or tables of them, to the cache and return their file, which is there when it is whole."""
    for cut_off in cache_folder().glob(f"{key}.*.tmp"):  # by a kill
        cut_off.unlink()
    aside = cache_folder() / f"{key}.{os.getpid()}.tmp"
    try:
        with ArrowWriter(features=features, path=str(aside)) as writer:
            for row in rows:
                if isinstance(row, pa.Table):
                    writer.write_table(row)
                    rows.update(len(row) - 1)
                else:
                    writer.write(row)
            writer.finalize()
        return aside.rename(aside.with_name(f"{key}-{hash_file(aside)}.arrow"))
    finally:
        aside.unlink(missing_ok=True)


def open_progress(name: str, total: int, done: int, unit: str) -> progress.tqdm:
    """Return a bar of a long piece of work, of which some is done; where no terminal shows it, a line now and then."""
    every = {} if sys.stderr.isatty() else {"mininterval": LOG_SECONDS, "bar_format": LOG_LINE}
    return progress.tqdm(total=total, initial=done, desc=name, unit=unit, unit_scale=unit == "B", **every)


def keep_json(path: Path, value: Any) -> None:
    """Write a value to a file as a line of JSON, and below it the line's hash."""
    line = json.dumps(value, sort_keys=True, ensure_ascii=False).encode(errors="backslashreplace").decode()
    write_whole(path, f"{line}\n{hash_text(line)}\n")


def find_json(path: Path) -> Any:
    """Return the value that a file of `keep_json` holds; None where there is none, or a damaged one, as is said."""
    try:
        line, _, found = path.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")
    except FileNotFoundError:
        return None
    except ValueError:  # no UTF-8 any more
        line, found = "", "damaged"
    if found == hash_text(line):
        return json.loads(line)
    say_note(f"{path} is damaged, and is made anew")
    return None


def hash_text(text: str) -> str:
    """Return a hash of a text."""
    return xxhash.xxh3_128(text.encode()).hexdigest()
