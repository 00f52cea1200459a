"""Rows of text, Markdown, JSON, CSV and Parquet files, with the line that each begins in.

Read here and not by `load_dataset`, which takes "NA" for nothing and "2024-01-01" for a date, knows no lines, and
cannot tell which of several files is at fault. What is broken is reported and left out; the rest goes on.
"""

import csv
import io
import json
import re
import sys
from collections import deque
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from data_utils.readers.encodings import EncodingFault, detect_encoding, read_blocks, read_lines
from data_utils.readers.files import ReadArguments, is_address
from data_utils.readers.opening import Part, Report, open_file, read_whole
from errors import first_line

MAX_DOCUMENT_CHARACTERS = 4_000_000  # a longer text is cut at a line end: memory stays bounded
FRONT_LINES = 100  # a block of front matter at most
COMMENT_LINES = 10_000  # a comment at most: as much is held in memory

csv.field_size_limit(sys.maxsize)


def read_text(
    path: str, options: ReadArguments, report: Report, part: Part | None = None
) -> Iterator[tuple[int, dict]]:
    """Yield (line, {"text"}) for each line, each paragraph or the whole of a text file, where it is not blank."""
    yield from join_lines(read_file_lines(path, report, part), options.sample_by)


def read_file_lines(path: str, report: Report, part: Part | None = None) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a file, or of a part of one, which `cut_lines` made."""
    with open_file(path, report, part=part) as stream:
        encoding = None if part is None else "utf-8" if part.start else "utf-8-sig"
        yield from read_lines(stream, report, part.first if part else 1, encoding)


def cut_lines(path: str, size: int, part_bytes: int, options: ReadArguments) -> list[Part]:
    """Cut a file of UTF-8 where a line, or with `--sample_by paragraph` a text, ends.

    All of it is read once, about 1 GB/s, since the parts must know the numbers of their lines; so not from an address.
    A text that is one document and other encodings aren't cut.
    """
    whole = [Part(0, size, size)]
    if is_address(path) or (path.lower().endswith(".txt") and options.sample_by == "document"):
        return whole
    ends_by_line = path.lower().endswith(".jsonl") or options.sample_by == "line"
    parts, start, first, offset, number, encoding = [], 0, 1, 0, 1, None
    with open_file(path) as stream:
        for block in read_blocks(stream):
            if encoding is None and (not block.isascii() or b"\0" in block):
                try:
                    encoding = detect_encoding(block)
                except EncodingFault:
                    return whole
                if not encoding.startswith("utf-8"):
                    return whole
            is_due = offset + len(block) - start >= part_bytes
            end = len(block) if ends_by_line else block.rfind(b"\n\n") + 2
            if is_due and end > 1 and offset + end < size - part_bytes // 2:
                place, line = offset + end, number + block.count(b"\n", 0, end)
                parts.append(Part(start, place, place - start, first))
                start, first = place, line
            offset, number = offset + len(block), number + block.count(b"\n")
    return [*parts, Part(start, size, size - start, first)]


def read_markdown(path: str, options: ReadArguments, report: Report) -> Iterator[tuple[int, dict]]:
    """Yield what `read_text` does, without front matter and comments; the markup stays, as chat models write it."""
    yield from join_lines(strip_markdown(read_file_lines(path, report)), options.sample_by)


def strip_markdown(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines without the YAML block at the beginning and without comments that begin a line.

    Either is one only where its end comes; what stands behind the end of a comment stays.
    """
    waiting: deque[tuple[int, str]] = deque()  # read already, to be looked at again
    while first := waiting.popleft() if waiting else next(lines, None):
        number, line = first
        is_front = number == 1 and line.rstrip() == "---"  # else it is a rule
        if not (is_front or line.lstrip().startswith("<!--")):
            yield first
            continue
        block, ended = [first], not is_front and "-->" in line
        while not ended and len(block) < (FRONT_LINES if is_front else COMMENT_LINES):
            following = waiting.popleft() if waiting else next(lines, None)
            if following is None:
                break
            block.append(following)
            ended = following[1].rstrip() == "---" if is_front else "-->" in following[1]
        if not ended:
            yield first
            waiting.extendleft(reversed(block[1:]))
        elif not is_front:
            number, line = block[-1]
            rest = line.partition("-->")[2].lstrip()
            if rest:
                waiting.appendleft((number, rest))


def join_lines(lines: Iterator[tuple[int, str]], sample_by: str) -> Iterator[tuple[int, dict]]:
    """Yield (line, {"text"}) by what a document is: a `line`, a `paragraph` or the whole `document`."""
    start, held, size = 1, [], 0
    for number, line in lines:
        if line.strip() or sample_by == "document":
            start = start if held else number
            held.append(line)
            size += len(line)
        is_end = sample_by == "line" or (sample_by == "paragraph" and not line.strip())
        if held and (is_end or size > MAX_DOCUMENT_CHARACTERS):
            yield start, {"text": "".join(held).rstrip("\n")}
            held, size = [], 0
    if "".join(held).strip():
        yield start, {"text": "".join(held) if sample_by == "document" else "".join(held).rstrip("\n")}


def read_jsonl(path: str, _: ReadArguments, report: Report, part: Part | None = None) -> Iterator[tuple[int, object]]:
    """Yield (line, value) for each line that is not blank."""
    for number, line in read_file_lines(path, report, part):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                report(number, describe_json_fault(error))


def read_json(path: str, _: ReadArguments, report: Report) -> Iterator[tuple[int, object]]:
    """Yield (number, value) for each value of a JSON list, or the one value of the file."""
    text = "".join(line for _, line in read_lines(io.BytesIO(read_whole(path)), report))
    if not text.strip():
        return
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        report(getattr(error, "lineno", ""), describe_json_fault(error))
        return
    yield from enumerate(values if isinstance(values, list) else [values], 1)


def describe_json_fault(error: Exception) -> str:
    """Return in words what is wrong with JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    return "not valid JSON: nested too deeply"


def read_csv(path: str, _: ReadArguments, report: Report) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for each row under the header; every cell is text."""
    reader = csv.DictReader((line for _, line in read_file_lines(path, report)), strict=True)
    while True:
        start = reader.line_num + 1 if reader.line_num else 2
        try:
            row = next(reader, None)
        except csv.Error as error:
            report(start, f"not valid CSV: {error}")
            continue
        if row is None:
            return
        if None in row:
            report(start, f"the row has more cells than the header, {len(reader.fieldnames)}")
        else:
            yield start, row


def read_parquet(path: str, _: ReadArguments, report: Report, part: Part | None = None) -> Iterator[tuple[int, dict]]:
    """Yield (number, row) for each row of a Parquet file; a broken row group is reported and left out.

    Of a file that is cut nothing can be read: what it holds is written at its end.
    """
    # Compressed once more, it has to be unpacked whole.
    is_packed = not re.search(r"\.parquet$", path, re.IGNORECASE)
    with open_file(path, decompress=False) as stream:
        try:
            file = pq.ParquetFile(pa.BufferReader(read_whole(path)) if is_packed else stream)
        except pa.ArrowInvalid:
            stream.seek(0)
            if stream.read(4) == b"PAR1":
                report("", "the file is cut: the index of a Parquet file stands at its end; get it again")
                return
            raise
        number = part.first - 1 if part else 0
        for group in range(part.start, part.end) if part else range(file.num_row_groups):
            end = number + file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(1000, row_groups=[group]):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
            except (OSError, ValueError) as error:
                report(number + 1, f"not readable as parquet to row {end}: {first_line(error)}")
            number = end


def cut_groups(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut a Parquet file between its row groups."""
    parts, start, first, held, number = [], 0, 1, 0, 1
    with open_file(path, decompress=False) as stream:
        metadata = pq.ParquetFile(stream).metadata
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            packed = sum(row_group.column(place).total_compressed_size for place in range(row_group.num_columns))
            if held and held + packed > part_bytes:
                parts.append(Part(start, group, held, first))
                start, first, held = group, number, 0
            held, number = held + packed, number + row_group.num_rows
        parts.append(Part(start, metadata.num_row_groups, held, first))
    return parts
