"""Reads rows of text, Markdown, CSV and Parquet files, with the line that each begins in.

Read here and not by `load_dataset`, which takes "NA" for nothing and "2024-01-01" for a date, knows no lines, and
cannot tell which of several files is at fault. What is broken is reported and left out; the rest goes on.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from data_utils.readers.arguments import ReadArguments, current_limits, more_than
from data_utils.readers.cells import name_cells, read_cells
from data_utils.readers.encodings import EncodingFault, detect_encoding, read_blocks, read_lines, tells_encoding
from data_utils.readers.opening import Part, Report, max_unpacked_bytes, open_file, read_whole
from data_utils.readers.remote import is_address
from data_utils.text.splitting import SHARE
from errors import first_line

BATCH_ROWS = 32  # read together: one text may have megabytes, and a file of some hundred bytes thousands of them
LINE_CHARACTERS = 40  # that a line of a row counts for beside its own
LEAST_ROW_CHARACTERS = 10_000  # a row may have, however many before it were broken
END_MARK = "<|endoftext|>"  # alone on a line it parts documents: TinyStories, and what was made for GPT-2
FRONT_LINES = 100  # a block of front matter at most
COMMENT = re.compile(r"<!--(?:(?!-->).)*+-->")


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
    whole, is_json = [Part(0, size, size)], path.lower().endswith(".jsonl")
    if is_address(path) or (not is_json and options.sample_by == "document"):
        return whole
    ends_by_line = is_json or options.sample_by == "line"
    parts, start, first, offset, number, encoding = [], 0, 1, 0, 1, None
    with open_file(path) as stream:
        for block in read_blocks(stream):
            is_list = number == 1 and is_json and (block or b"").lstrip()[:2] in (b"[\n", b"{\n")
            if block is None or is_list:  # a line that is too long to be held, or JSON over several lines
                return whole
            if encoding is None and tells_encoding(block):
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
                parts.append(Part(start, place, size=place - start, first=first))
                start, first = place, line
            offset, number = offset + len(block), number + block.count(b"\n")
    return [*parts, Part(start, size, size=size - start, first=first)]


def read_markdown(path: str, options: ReadArguments, report: Report) -> Iterator[tuple[int, dict]]:
    """Yield what `read_text` does, without front matter and comments; the markup stays, as chat models write it."""
    yield from join_lines(strip_markdown(read_file_lines(path, report)), options.sample_by)


def strip_markdown(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines without the YAML block at the beginning, where it ends, and without lines that are a comment."""
    start = list(islice(lines, FRONT_LINES))
    rules = [place for place, (_, line) in enumerate(start) if line.rstrip() == "---"]
    if rules[:1] == [0] and len(rules) > 1:
        start = start[rules[1] + 1 :]
    return (row for row in chain(start, lines) if not COMMENT.fullmatch(row[1].strip()))


def join_lines(lines: Iterator[tuple[int, str]], sample_by: str) -> Iterator[tuple[int, dict]]:
    """Yield (line, {"text"}) by what a document is: a `line`, `paragraph` or all of a `document`, up to END_MARK."""
    start, held, size, most = 1, [], 0, current_limits().document
    for number, line in lines:
        is_mark = line.strip() == END_MARK
        if not is_mark and (line.strip() or sample_by == "document"):
            start = start if held else number
            held.append(line)
            size += len(line)
        is_end = is_mark or sample_by == "line" or (sample_by == "paragraph" and not line.strip())
        if held and (is_end or size > most):
            yield start, {"text": "".join(held).rstrip("\n")}
            held, size = [], 0
    if "".join(held).strip():
        yield start, {"text": "".join(held) if sample_by == "document" else "".join(held).rstrip("\n")}


def read_csv(path: str, options: ReadArguments, report: Report) -> Iterator[tuple[int, dict]]:
    """Yield (line, row) for each row under the header; every cell is text."""
    header: list[str] | None = None
    for start, row in split_rows(read_file_lines(path, report), report):
        if header is None:
            header = [name.strip() for name in row]
            if options.text_column not in ("", *header):
                yield start, dict.fromkeys(header)
                return
        elif len(row) > len(header):
            report(start, f"the row has {len(row):,} cells, more than the header, {len(header):,}")
        else:
            yield start, name_cells(zip(header, row + [None] * (len(header) - len(row)), strict=True))


def split_rows(lines: Iterator[tuple[int, str]], report: Report) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of each row of CSV; behind one that is broken reading goes on in the line after its first.

    So a quote that is never closed costs its row, and not all behind it. What is read again counts against what was
    read well, or a sheet whose every line opens a quote would take a hundred thousand lines for each. Cells are parted
    by tabs where the first line has one, else by commas, else by what sheets of other countries have.
    """
    limit = current_limits().document
    csv.field_size_limit(limit)
    first, room = next(lines, (1, "")), 4 * limit
    named = re.fullmatch(r"sep=(.)\s*", first[1], re.IGNORECASE)  # which Excel heeds, and some write for it
    delimiter = named[1] if named else next((mark for mark in "\t,;|" if mark in first[1]), ",")
    lines = lines if named else chain([first], lines)
    waiting: deque[tuple[int, str]] = deque()  # lines that a broken row had taken
    while True:
        held: list[tuple[int, str]] = []

        most = min(max(room, LEAST_ROW_CHARACTERS), limit)

        def feed(held: list[tuple[int, str]] = held, left: int = most) -> Iterator[str]:
            while left > 0 and (line := waiting.popleft() if waiting else next(lines, None)):
                held.append(line)
                left -= len(line[1]) + LINE_CHARACTERS
                yield line[1]

        try:
            row = next(csv.reader(feed(), strict=True, delimiter=delimiter), None)
        except csv.Error as error:
            report(held[0][0], f"not valid CSV: {error}")
            waiting.extendleft(reversed(held[1:]))
            room -= sum(len(line) + LINE_CHARACTERS for _, line in held)
            continue
        if row is None:
            return
        room = min(room + 4 * sum(len(line) for _, line in held), 4 * limit)
        if row:
            yield held[0][0], row


def read_parquet(path: str, options: ReadArguments, report: Report, part: Part | None = None) -> Iterator[tuple]:
    """Yield (number, row) for each row of a Parquet file; a broken row group is reported and left out.

    Only the column of the text is read, where there is one, so that damage in another one costs nothing. A cell that
    Python can't hold (an impossible date) is the exception that says so. Of a file that is cut nothing can be read:
    what it holds is written at its end.
    """
    # Compressed once more, it has to be unpacked whole.
    is_packed = not re.search(r"\.parquet$", path, re.IGNORECASE)
    with open_file(path, decompress=False) as stream:
        try:
            packed = pa.BufferReader(read_whole(path, "sheet", report)) if is_packed else None
            file = pq.ParquetFile(packed or stream, page_checksum_verification=True)
        except pa.ArrowInvalid:
            stream.seek(0)
            if packed and not packed.size():  # told already
                return
            if stream.read(4) == b"PAR1":
                report("", "the file is cut: the index of a Parquet file stands at its end; get it again")
                return
            raise
        names = file.schema_arrow.names
        if options.text_column in names:
            names = [name for name in dict.fromkeys((options.text_column, SHARE)) if name in names]
        elif options.text_column:
            yield 1, dict.fromkeys(names)
            return
        number = part.first - 1 if part else 0
        for group in range(part.start, part.end) if part else range(file.num_row_groups):
            known = file.metadata.row_group(group)
            end = number + known.num_rows
            try:
                check_expansion(known, names)
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names):
                    for row in zip(*map(read_cells, batch.columns), strict=True):
                        number += 1
                        yield number, name_cells(zip(batch.schema.names, row, strict=True))
            except (OSError, ValueError, MemoryError) as error:
                report(number + 1, f"not readable as parquet to row {end}: {first_line(error)}")
            number = end


def check_expansion(group: pq.RowGroupMetaData, names: list[str]) -> None:
    """Raise ValueError for a row group of which a column is said to unpack to far more than a text does."""
    for column in map(group.column, range(group.num_columns)):
        size = column.total_uncompressed_size
        is_read = column.path_in_schema.split(".")[0] in names
        if is_read and size > max_unpacked_bytes(column.total_compressed_size):
            raise ValueError(f"it unpacks to {more_than('expansion')}")


def cut_groups(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut a Parquet file between its row groups."""
    parts, start, first, held, number = [], 0, 1, 0, 1
    with open_file(path, decompress=False) as stream:
        metadata = pq.ParquetFile(stream).metadata
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            packed = sum(row_group.column(place).total_compressed_size for place in range(row_group.num_columns))
            if held and held + packed > part_bytes:
                parts.append(Part(start, group, size=held, first=first))
                start, first, held = group, number, 0
            held, number = held + packed, number + row_group.num_rows
        parts.append(Part(start, metadata.num_row_groups, size=held, first=first))
    return parts
