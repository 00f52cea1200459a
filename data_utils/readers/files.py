"""Finds the data files of folders, globs and fsspec addresses, says what it passes over, and judges faults."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from data_utils.readers.arguments import current_limits, more_than
from data_utils.readers.contents import describe_content
from data_utils.readers.limits import TooManyFaults
from data_utils.readers.opening import COMPRESSED
from data_utils.readers.remote import ask, is_address, open_store
from errors import InputError, first_line, say_note
from files import check_link

# Kind -> the function that reads it, as module:function: a library that only one kind needs is loaded with that kind.
KINDS = {
    ".txt": "data_utils.readers.rows:read_text",
    ".md": "data_utils.readers.rows:read_markdown",
    ".jsonl": "data_utils.readers.json_rows:read_json",
    ".json": "data_utils.readers.json_rows:read_json",
    ".csv": "data_utils.readers.rows:read_csv",
    ".tsv": "data_utils.readers.rows:read_csv",
    ".parquet": "data_utils.readers.rows:read_parquet",
    ".html": "data_utils.readers.webpages:read_html",
    ".htm": "data_utils.readers.webpages:read_html",
    ".xhtml": "data_utils.readers.webpages:read_html",
    ".warc": "data_utils.readers.archives:read_warc",
    ".wet": "data_utils.readers.archives:read_warc",
    ".xml": "data_utils.readers.wikipedia:read_dump",
    ".epub": "data_utils.readers.books:read_epub",
    ".pdf": "data_utils.readers.books:read_pdf",
}
ROW_KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
EMPTY_FILE = "the file is empty"
SHOWN_KINDS = 20
HIDDEN_FOLDERS = ("__MACOSX",)  # beside those that begin with a dot, such as .git and .ipynb_checkpoints
# What lies beside a Wikipedia dump, places and titles, or beside the data of a cloned or saved dataset.
NO_TEXT = re.compile(r"-multistream-index\d*\.txt|^(?:dataset_infos?|dataset_dict|state)\.json$")


class Fault(NamedTuple):
    """What could not be read: the file, the place in it ('' for all of it), and the reason."""

    file: str
    place: str
    reason: str


def raise_fault(fault: Fault) -> None:
    """Raise a fault as InputError: what a reader does with the first one where nobody collects them."""
    place = f":{fault.place}" if fault.place else ""
    raise InputError(f"{fault.file}{place}: {fault.reason}")


def find_files(path: str) -> list[str]:
    """Return the data files that a path, a glob, a folder or an address stands for, sorted.

    Raises InputError where there are none, or where one is of no kind that can be read.
    """
    if not path:
        raise InputError("an empty path; name a file or a folder")
    if is_address(path):
        files = find_remote_files(path)
    elif has_magic(path) and not Path(path).exists():
        files = [name for name in sorted(glob(path, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
    elif Path(path).is_dir():
        files = find_folder_files(path)
    elif Path(path).is_file():
        files = [path]
    else:
        check_link(Path(path))
        is_there = Path(path).exists()
        what = "is a pipe or a device; write what it gives to a file" if is_there else "no such file or folder"
        raise InputError(f"{path}: {what}")
    kinds = f"{' '.join(KINDS)}, each also {' '.join(COMPRESSED)}"
    if not files:
        raise InputError(f"{path}: no such file, or nothing in it that can be read ({kinds})")
    for file in files:
        if file_suffix(file) not in KINDS:
            found = "" if is_address(path) else describe_content(str(file), "")
            raise InputError(f"{file}: {found or 'unknown file type'}; use one of {kinds}")
    return [str(file) for file in files]


def find_folder_files(path: str) -> list[Path]:
    """Return the data files below a folder, sorted; what is passed over is said.

    A link to a file is read as that file, as the cache of a hub has them, and said where it leads out of the folder.
    """
    files, others, hidden, linked, gone = [], Counter(), [], [], []
    for folder, folders, names in os.walk(path, onerror=lambda error, gone=gone: gone.append(Path(error.filename))):
        if {"state.json", "dataset_info.json"} <= set(names):
            raise InputError(f"{folder}: an Arrow folder of Dataset.save_to_disk; write it as Parquet: "
                             "load_from_disk(folder).to_parquet(file)")  # fmt: skip
        hidden += [Path(folder, name) for name in (*folders, *names) if is_hidden(name)]
        folders[:] = [name for name in folders if not is_hidden(name)]
        linked += [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]
        shown = [Path(folder, name) for name in names if not is_hidden(name)]
        found = [file for file in shown if file.is_file()]
        gone += [file for file in shown if not file.is_file()]  # links to nowhere, pipes
        files += filter(is_data_file, found)
        kinds_of = {file: file_suffix(file) for file in found if not is_data_file(file)}
        others.update(file.name if kind in ("", *KINDS) else kind for file, kind in kinds_of.items())
    readmes = [file for file in files if re.fullmatch(r"readme([._-].*)?\.md", file.name, re.IGNORECASE)]
    readmes = readmes if any(file_suffix(file) in ROW_KINDS for file in files) else []
    top = Path(path).resolve()
    outside = [file for file in files if file.is_symlink() and not file.resolve().is_relative_to(top)]
    for passed, words in (
        (hidden, "hidden, left out"),
        (linked, "a linked folder, left out: name it to have it read"),
        (gone, "can't be opened, left out"),
        (readmes, "describes the data, left out"),
        (outside, "leads out of the folder, read"),
    ):
        say_passed(path, [str(file.relative_to(path)) for file in passed], words)
    kinds = [f"{kind} ({count:,})" for kind, count in others.most_common()]
    say_passed(path, kinds, "of no kind that is read, left out", most=SHOWN_KINDS)
    return sorted(set(files) - set(readmes))


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of a folder is none that a user has put there."""
    return name.startswith(".") or name in HIDDEN_FOLDERS


def say_passed(path: str, names: list[str], words: str, most: int = 3) -> None:
    """Say what of a folder is passed over, or read though one may not expect it."""
    if names:
        say_once(f"{path}: {name_first(names, most)}: {words}")


def name_first(names: Sequence[str], most: int = 3) -> str:
    """Return the first names of many in words.

    >>> name_first(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


@cache
def say_once(message: str) -> None:
    """Print a note on standard error the first time that it comes up; files are looked for more than once."""
    say_note(message)


def pass_empty(file: str, named: str) -> None:
    """Say that a file of those that a path stands for is empty; raise InputError where it was `named` by itself."""
    if file == named:
        raise InputError(f"{file}: {EMPTY_FILE}")
    say_once(f"{file}: {EMPTY_FILE}, left out")


def find_remote_files(path: str) -> list[str]:
    """Return the data files at an fsspec address: a file, a folder or a glob."""
    system, place = open_store(path)
    try:
        if has_magic(place):
            found = ask(path, lambda: system.glob(place, detail=True))
            names = [name for name, info in found.items() if info["type"] == "file"]
        elif file_suffix(place) in KINDS or not ask(path, lambda: system.isdir(place)):
            return [path] if ask(path, lambda: system.exists(place)) else []
        else:
            names = [name for name in ask(path, lambda: system.find(place)) if is_data_file(name)]
    except (ValueError, OSError) as error:  # no access
        raise InputError(f"{path}: cannot be opened: {first_line(error)}") from error
    return [system.unstrip_protocol(name) for name in sorted(names)]


def file_suffix(path: str | Path) -> str:
    """Return the file type without the compression.

    >>> file_suffix("a.jsonl.zst"), file_suffix("s3://bucket/CC-MAIN-1.warc.wet.gz"), file_suffix("README")
    ('.jsonl', '.wet', '')
    """
    # A Wikipedia dump in parts: pages-articles1.xml-p1p41242.bz2
    suffixes = [re.sub(r"^(\.xml)-p\d+p\d+$", r"\1", suffix.lower()) for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_data_file(path: str | Path) -> bool:
    """Tell whether a file of a folder is read.

    >>> is_data_file("zhwiki-pages-articles-multistream-index.txt.bz2"), is_data_file("a.txt.gz")
    (False, True)
    """
    return file_suffix(path) in KINDS and not NO_TEXT.search(Path(path).name)


def file_bytes(path: str | Path) -> int:
    """Return the bytes of a file; 0 where the store of an address doesn't tell."""
    if is_address(str(path)):
        system, place = open_store(str(path))
        return ask(str(path), lambda: system.size(place)) or 0
    return Path(path).stat().st_size


def file_version(path: str | Path) -> str:
    """Return what changes when a file changes: its size and time."""
    if is_address(str(path)):
        system, place = open_store(str(path))
        return str(ask(str(path), lambda: system.ukey(place)))
    stat = Path(path).stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


SHOWN_FAULTS = 5


class FaultLimit:
    """Passes the faults of a file on; `rows` counts what is read well beside them.

    Raises TooManyFaults where they are more than broken_rows, and more than broken_fraction of the file.
    """

    def __init__(self, on_fault: Callable[[Fault], object]) -> None:
        self.on_fault, self.faults, self.rows = on_fault, 0, 0

    def __call__(self, fault: Fault) -> None:
        """Pass on a fault."""
        self.on_fault(fault)
        self.faults += 1
        count, limits = self.faults + self.rows, current_limits()
        if self.faults % limits.broken_rows == 0 and self.faults > limits.broken_fraction * count:
            raise TooManyFaults(f"{self.faults:,} of {count:,} rows can't be used; what follows is left out: "
                                f"{more_than('broken_rows')}")  # fmt: skip


def name_faults(faults: Sequence[Fault]) -> str:
    """Return the first faults in one line, each with file, place and reason, where it isn't that of the one before."""
    shown, before = [], ""
    for fault in faults[:SHOWN_FAULTS]:
        reason = "the same" if fault.reason == before else fault.reason
        shown.append(f"{fault.file}{':' if fault.place else ''}{fault.place}: {reason}")
        before = fault.reason
    return "; ".join(shown) + (f"; and {len(faults) - SHOWN_FAULTS:,} more" if len(faults) > SHOWN_FAULTS else "")


def judge_faults(faults: Sequence[Fault], rows: int, skip: bool, remedy: str) -> str:
    """Return the line that tells which of so many rows are left out, '' for none.

    Raises InputError, which names them, where there are any and `skip` is false, or where they are more than
    broken_fraction of the rows. `remedy` says how to have them left out.
    """
    if not faults:
        return ""
    count = f"{len(faults):,} of {rows:,} rows"
    most = current_limits().broken_fraction
    if len(faults) > most * rows:
        limit = f"; {count} can't be used, more than the {most:.0%} that may be left out"
        limit += f" (--reader_limits broken_fraction={min(1, 2 * most):g} allows more)" if skip else ""
        raise InputError(name_faults(faults) + (limit if rows > 1 else ""))
    if not skip:
        raise InputError(f"{name_faults(faults)}; {count} can't be used: repair them, or {remedy}")
    return f"left out: {count}: {name_faults(faults)}"
