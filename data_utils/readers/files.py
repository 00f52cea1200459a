"""Where files are: folders, globs and fsspec addresses in, a path for each file out; and how a fault is told."""

import re
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

import fsspec

from data_utils.readers.opening import COMPRESSED
from errors import InputError, first_line
from options import option

# Kind -> the function that reads it, as module:function: a library that only one kind needs is loaded with that kind.
KINDS = {
    ".txt": "data_utils.readers.rows:read_text",
    ".md": "data_utils.readers.rows:read_markdown",
    ".jsonl": "data_utils.readers.rows:read_jsonl",
    ".json": "data_utils.readers.rows:read_json",
    ".csv": "data_utils.readers.rows:read_csv",
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
SAMPLE_BY = ("line", "paragraph", "document")
NO_TEXT = re.compile(r"-multistream-index\d*\.txt")  # lies beside a Wikipedia dump: places and titles


@dataclass
class ReadArguments:
    """How files become documents."""

    sample_by: str = option("document", "A document of a .txt file: line, paragraph (blank lines) or document")
    text_column: str = option("text", "Column of .jsonl, .csv, .parquet that holds the text")
    chinese_variant: str = option("zh-hans", "What is read where a Wikipedia gives a choice: zh-hans, zh-hant, zh-tw")
    max_seconds: float = option(20, "Processor seconds for a document before it is left out; 0: no limit")

    def __post_init__(self) -> None:
        if self.sample_by not in SAMPLE_BY:
            raise ValueError(f"--sample_by {self.sample_by}: use one of {', '.join(SAMPLE_BY)}")


class Fault(NamedTuple):
    """What could not be read: the file, the place in it ('' for all of it), the reason, and its bytes where known."""

    file: str
    place: str
    reason: str
    lost_bytes: int = 0


def raise_fault(fault: Fault) -> None:
    """Raise a fault as InputError: what a reader does with the first one where nobody collects them."""
    place = f":{fault.place}" if fault.place else ""
    raise InputError(f"{fault.file}{place}: {fault.reason}")


def is_address(path: str) -> bool:
    """Tell whether a path is an fsspec address, `s3://bucket/file`, and no file of this machine."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*(::|://)", path))


def find_files(path: str) -> list[str]:
    """Return the data files that a path, a glob, a folder or an address stands for, sorted.

    Raises InputError where there are none, or where one is of no kind that can be read.
    """
    if is_address(path):
        files = find_remote_files(path)
    elif has_magic(path) and not Path(path).exists():
        files = [name for name in sorted(glob(path, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
    elif Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file() and is_data_file(file))
    else:
        files = [path] if Path(path).is_file() else []
    kinds = f"{' '.join(KINDS)}, each also {' '.join(COMPRESSED)}"
    if not files:
        raise InputError(f"{path}: no such file, or nothing in it that can be read ({kinds})")
    for file in files:
        if file_suffix(file) not in KINDS:
            raise InputError(f"{file}: unknown file type; use one of {kinds}")
    return [str(file) for file in files]


def find_remote_files(path: str) -> list[str]:
    """Return the data files at an fsspec address: a file, a folder or a glob."""
    try:
        system, place = fsspec.core.url_to_fs(path)
        if has_magic(place):
            names = [name for name in system.glob(place) if system.isfile(name)]
        elif file_suffix(place) in KINDS or not system.isdir(place):
            return [path] if system.exists(place) else []
        else:
            names = [name for name in system.find(place) if is_data_file(name)]
    except (ValueError, ImportError, OSError) as error:  # unknown protocol, its package missing, no access
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
        system, place = fsspec.core.url_to_fs(str(path))
        return system.size(place) or 0
    return Path(path).stat().st_size


def file_version(path: str | Path) -> str:
    """Return what changes when a file changes: its size and time."""
    if is_address(str(path)):
        system, place = fsspec.core.url_to_fs(str(path))
        return str(system.ukey(place))
    stat = Path(path).stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"
