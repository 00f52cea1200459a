"""Rows of text, JSON, CSV and Parquet files, each also compressed, with the line that each begins in.

Read here and not by `load_dataset`, which takes "NA" for nothing and "2024-01-01" for a date, knows no lines, and
cannot tell which of several files is at fault.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path

import fsspec
import pyarrow.parquet as pq

from errors import InputError

KINDS = (".txt", ".md", ".jsonl", ".json", ".csv", ".parquet")
COMPRESSED = (".gz", ".zst")
SAMPLE_BY = ("line", "paragraph", "document")

csv.field_size_limit(sys.maxsize)


def find_files(path: str) -> list[Path]:
    """Return the data files that a path, a glob or a folder stands for, sorted; raise InputError if there are none."""
    if has_magic(path) and not Path(path).exists():
        files = [Path(name) for name in sorted(glob(path, recursive=True))]  # noqa: PTH207  (patterns may be absolute)
    elif Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file() and file_suffix(file) in KINDS)
    else:
        files = [Path(path)]
    files = [file for file in files if file.is_file()]
    kinds = f"{' '.join(KINDS)}, each also .gz or .zst"
    if not files:
        raise InputError(f"{path}: no such file, or nothing in it that can be read ({kinds})")
    for file in files:
        if file_suffix(file) not in KINDS:
            raise InputError(f"{file}: unknown file type; use one of {kinds}")
    return files


def file_suffix(path: Path) -> str:
    """Return the file type without the compression: '.jsonl' for 'a.jsonl.zst'."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def file_version(path: Path) -> str:
    """Return what changes when a file changes: its size and time."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def read_rows(path: str, sample_by: str = "paragraph") -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for each row of a file; a text's row is `{"text"}`, by `sample_by`.

    Of .json and .parquet, which have no lines, the number is the row's. Raises InputError that names the file, and the
    line where there is one.
    """
    suffix = file_suffix(Path(path))
    is_empty = True
    try:
        with fsspec.open(str(path), "rb", compression="infer") as stream:
            if suffix == ".parquet":
                rows = read_parquet(path if Path(path).suffix.lower() == suffix else io.BytesIO(stream.read()))
            elif suffix in (".txt", ".md"):
                rows = read_texts(read_lines(stream, path), sample_by)
            else:
                rows = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv}[suffix](stream, path)
            for number, row in rows:
                if not isinstance(row, dict):
                    raise InputError(f"{path}:{number}: a JSON object is expected, not {str(row)[:40]!r}")
                is_empty = False
                yield number, row
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:  # each format and compression has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not readable as {Path(path).name.partition('.')[2]}: {reason}") from error
    if is_empty:
        raise InputError(f"{path}: the file is empty")


def read_lines(stream: io.BufferedIOBase, path: str) -> Iterator[tuple[int, str]]:
    """Yield (number, line) with `\\n` at its end; the byte order mark of Windows is dropped."""
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise InputError(
                f"{path}:{number}: not valid UTF-8 (byte {byte:#04x}); convert the file to UTF-8"
            ) from error
        yield number, text.replace("\r\n", "\n")


def read_texts(lines: Iterator[tuple[int, str]], sample_by: str) -> Iterator[tuple[int, dict]]:
    """Yield (line, {"text"}) for each line, paragraph or the whole that is not blank."""
    start, held = 1, []
    for number, line in lines:
        if line.strip() or sample_by == "document":
            start = start if held else number
            held.append(line)
        if held and (sample_by == "line" or (sample_by == "paragraph" and not line.strip())):
            yield start, {"text": "".join(held).rstrip("\n")}
            held = []
    if "".join(held).strip():
        yield start, {"text": "".join(held) if sample_by == "document" else "".join(held).rstrip("\n")}


def read_jsonl(stream: io.BufferedIOBase, path: str) -> Iterator[tuple[int, object]]:
    """Yield (line, value) for each line that is not blank."""
    for number, line in read_lines(stream, path):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}") from error


def read_json(stream: io.BufferedIOBase, path: str) -> Iterator[tuple[int, object]]:
    """Yield (number, value) for each value of a JSON list, or the one value of the file."""
    text = "".join(line for _, line in read_lines(stream, path))
    if not text.strip():
        return
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg} at column {error.colno}") from error
    yield from enumerate(values if isinstance(values, list) else [values], 1)


def read_csv(stream: io.BufferedIOBase, path: str) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for each row under the header; every cell is text."""
    reader = csv.DictReader((line for _, line in read_lines(stream, path)), strict=True)
    start = 2
    try:
        for row in reader:
            if None in row:
                raise InputError(f"{path}:{start}: the row has more cells than the header, {len(reader.fieldnames)}")
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not valid CSV: {error}") from error


def read_parquet(source: str | io.BytesIO) -> Iterator[tuple[int, dict]]:
    """Yield (number, row) for each row of a Parquet file."""
    batches = pq.ParquetFile(source).iter_batches(1000)
    yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
