"""Files of every kind and hub datasets in, documents out: `{text, language, source, id, hash_share}`.

One way in for `train.py` and for corpora. What cannot be read costs itself alone: it is reported as a Fault with file,
place and reason, and the rest goes on; where nobody collects faults, the first one ends the run as InputError.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from data_utils.readers.arguments import ReadArguments, use_limits
from data_utils.readers.cells import take_text
from data_utils.readers.contents import describe_content
from data_utils.readers.files import EMPTY_FILE, KINDS, Fault, FaultLimit, file_suffix, raise_fault
from data_utils.readers.limits import OutOfTime, TooManyFaults
from data_utils.readers.opening import COMPRESSED, Part, describe_bomb, max_unpacked_bytes
from data_utils.readers.remote import is_address
from data_utils.text.languages import detect_language
from data_utils.text.splitting import SHARE, share_of
from errors import InputError, escape_unprintable, first_line, is_panic

if TYPE_CHECKING:  # it takes seconds to import
    from datasets import Dataset, IterableDataset

# (Kind, compression) -> the function that cuts a large file into parts. What is compressed as a whole is read from its
# beginning; CSV and Markdown have quotes and blocks across lines; a book or page is one document.
CUTS = {
    (".xml", ".bz2"): "data_utils.readers.wikipedia:cut_dump",
    (".xml", ""): "data_utils.readers.wikipedia:cut_dump",
    (".warc", ".gz"): "data_utils.readers.archives:cut_members",
    (".wet", ".gz"): "data_utils.readers.archives:cut_members",
    (".jsonl", ""): "data_utils.readers.rows:cut_lines",
    (".txt", ""): "data_utils.readers.rows:cut_lines",
    (".parquet", ""): "data_utils.readers.rows:cut_groups",
}


NO_RECORD = "no record of a web archive with text is in it"
NOTHING = {".xml": "no article of a Wikipedia dump is in it; convert other XML to text", ".warc": NO_RECORD}
NOTHING |= {".wet": NO_RECORD}
ROW_BYTES = 100  # that a row counts for beside its text


def cut_file(path: str, size: int, part_bytes: int, options: ReadArguments) -> list[Part]:
    """Return the parts of a large file that can be read by themselves, in order, at best of `part_bytes` each.

    What they give is together what the file gives. A file that can't be cut, or of which that can't be told, is one.
    """
    cut = CUTS.get((file_suffix(path), Path(path).suffix.lower() if Path(path).suffix.lower() in COMPRESSED else ""))
    if cut is None or size < 1.5 * part_bytes:
        return [Part(0, size, size)]
    try:
        return resolve_name(cut)(path, size, part_bytes, options)
    except (OSError, ValueError, ImportError):  # whoever reads it will tell
        return [Part(0, size, size)]


def read_documents_of(
    path: str,
    options: ReadArguments | None = None,
    on_fault: Callable[[Fault], object] = raise_fault,
    part: Part | None = None,
) -> Iterator[dict]:
    """Yield the documents of one file or address, as `make_documents` does.

    Args:
        path: as `find_files` returns it.
        options: how a file becomes documents.
        on_fault: called with each Fault, such as `faults.append`; as it is, the first fault is raised.
        part: one of several that `cut_file` made of the file; None: all of it.
    """
    options, tell = options or ReadArguments(), FaultLimit(on_fault)
    use_limits(options.reader_limits)  # where this process reads for another one
    rows = read_rows(path, options, tell, part)
    given, most = 0, max_text_bytes(path, part)
    for document in make_documents(rows, path, Path(path).name, options.text_column, tell):
        given += len(document["text"]) + ROW_BYTES
        if given > most:
            on_fault(Fault(path, document["id"].rpartition(":")[2], f"{describe_bomb()}; what follows is left out"))
            return
        yield document


def make_documents(
    rows: Iterable[tuple[object, dict]], path: str, name: str, column: str, tell: FaultLimit
) -> Iterator[dict]:
    """Yield `{"text", "language", "source", "id", "hash_share"}` of each (place, row).

    The language is told by the letters (a page or book may say more), the source is `name`, the id that and the place
    in the file. The text is as it was read: cleaning is a filter's. The share is that of the text, or the one that a
    corpus kept of its sources.
    """
    name = escape_unprintable(name)
    try:
        for number, row in rows:
            if column not in row:
                names = " ".join(", ".join(row)[:200].split())  # in one line, whatever stands in a header
                tell(Fault(path, str(number), f"no column '{column}'; it has: {names}; name one with --text_column"))
                continue
            try:
                text = take_text(row[column])
            except ValueError as error:
                tell(Fault(path, str(number), f"column '{column}': {error}"))
                continue
            tell.rows += 1
            found = {"text": text, "language": detect_language(text), "source": name, "id": f"{name}:{number}"}
            yield found | {SHARE: share_of({"text": text, SHARE: row.get(SHARE)})}
    except TooManyFaults as error:  # of rows that hold no text; broken ones are told by `read_rows`
        tell.on_fault(Fault(path, "", str(error)))


def max_text_bytes(path: str, part: Part | None) -> float:
    """Return how much text a file, or a part of one, may hold: no more than the best packing makes of text."""
    size = part.size if part else Path(path).stat().st_size if Path(path).is_file() else float("inf")
    return max_unpacked_bytes(size)


def read_rows(
    path: str,
    options: ReadArguments | None = None,
    on_fault: Callable[[Fault], object] = raise_fault,
    part: Part | None = None,
    row_types: tuple[type, ...] = (dict,),
) -> Iterator[tuple[object, dict]]:
    """Yield (place, row) for each row of a file; a text's, page's or book's row is `{"text"}`.

    The place is the line where a kind has lines, else the number of the row, the page's title or its address. A row of
    JSON is an object, or of another of the `row_types`.
    """
    options = options or ReadArguments("paragraph", text_column="")  # all columns
    rows_read, faults = 0, 0

    def report(place: object, reason: str) -> None:
        nonlocal faults
        if not faults and not rows_read and part is None and (found := describe_content(path, file_suffix(path))):
            place, reason = "", found
        faults += 1
        on_fault(Fault(path, str(place), reason))

    if part is None and (found := describe_content(path, file_suffix(path), as_text=True)):
        report("", found)
        return
    try:
        arguments = (path, options, report) if part is None else (path, options, report, part)
        for place, row in resolve_name(KINDS[file_suffix(path)])(*arguments):
            is_rows = isinstance(row, list) and list not in row_types  # a line that holds a list of rows
            for value in row if is_rows else [row]:
                if is_table(value):
                    report(place, "a whole table by columns; write its rows: to_json(file, orient='records')")
                elif isinstance(value, row_types):
                    rows_read += 1
                    yield place, value
                else:
                    shown = json.dumps(value, ensure_ascii=False, default=str)[:40]
                    report(place, f"a JSON object is expected, not {shown}")
    except (InputError, FileNotFoundError):
        raise
    except ImportError as error:
        need = f"reading it needs {error.name}; run: pip install -r requirements/corpus.txt"
        raise InputError(f"{path}: {need}") from error
    except BaseException as error:  # each format and compression has its own
        if not isinstance(error, Exception | OutOfTime) and not is_panic(error):
            raise
        after = f" after row {rows_read:,}" if rows_read else ""
        report("", f"not readable as {Path(path).name.partition('.')[2]}{after}: {first_line(error)}")
    if not rows_read and not faults and part is None:
        report("", NOTHING.get(file_suffix(path), EMPTY_FILE))


def is_table(value: object) -> bool:
    """Tell whether a value is a table, at each key a column, as pandas' to_json writes it unasked."""
    columns = value.values() if isinstance(value, dict) else ()
    return bool(columns) and all(isinstance(column, dict) and "0" in column for column in columns)


# The hub


def is_hub_name(path: str) -> bool:
    """Tell whether a path that does not exist here reads as a hub dataset: owner/name or owner/name:configuration."""
    is_name = bool(re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", path)) and not is_address(path)
    return is_name and not Path(path).exists() and file_suffix(path.partition(":")[0]) == ""


def load_hub(name: str, streaming: bool = False) -> "Dataset | IterableDataset":
    """Load the training split of a hub dataset; raise InputError where it is not to be had."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        path, _, configuration = name.partition(":")
        return load_dataset(path, configuration or None, split="train", streaming=streaming)
    except (OfflineModeIsEnabled, DatasetNotFoundError, ConnectionError) as error:
        raise InputError(
            f"{name}: not found here; to download a dataset of that name from the hub, set HF_HUB_OFFLINE=0"
        ) from error
