"""The options of reading, and the limits of what one file may take; light to import.

The limits are those of this process: a script chooses them once (`use_limits`), and every source that is opened then
carries them with its options, into the keys of caches and into processes that read for this one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from errors import InputError
from options import Options, option

SAMPLE_BY = ("line", "paragraph", "document")
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
AMOUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?)([a-z]*)", re.IGNORECASE)


def limit(default: float, unit: str, *, least: float = 1) -> Any:
    """Return the field of a limit: its default, its unit, and the least that it may be."""
    return field(default=default, metadata={"unit": unit, "least": least})


@dataclass(frozen=True)
class Limits:
    """What one file, or a part of it, may take before it is left out and named; docs/trust.md explains each."""

    seconds: float = limit(20, "seconds", least=0)  # of the processor, for a document; 0: no limit
    line: int = limit(32 << 20, "bytes", least=1000)  # of text, which has to be held in memory
    value: int = limit(32_000_000, "characters")  # of JSON over several lines
    document: int = limit(4_000_000, "characters")  # a longer text is cut at a line end, a row of CSV left out
    page: int = limit(32 << 20, "bytes")  # of the web; Common Crawl cuts pages at 1 MB
    wiki_page: int = limit(64 << 20, "bytes")
    wiki_tags: int = limit(100_000, "tags")  # of a page: each takes a hundred bytes of memory
    book: int = limit(256 << 20, "bytes")  # EPUB or PDF
    book_text: int = limit(64 << 20, "bytes")  # of all chapters, unpacked; a small zip may hold a huge file
    book_files: int = limit(100_000, "files")  # of an EPUB: each takes half a kilobyte of memory
    sheet: int = limit(1 << 30, "bytes")  # of a Parquet file that is compressed once more
    packed: int = limit(10**8, "bytes")  # of text that a compressed file may hold, whatever its size
    expansion: int = limit(1000, "times its size")  # that it may hold beyond that: no text packs so well
    dictionary: int = limit(1 << 29, "bytes")  # of memory for xz and zstd; xz -9 takes 65 MB, zstd --long=31 2 GiB
    broken_rows: int = limit(20_000, "rows")  # of a file; each takes some 250 bytes
    broken_fraction: float = limit(0.2, "of the rows", least=0)  # more is no accident: the file has another form

    def words(self) -> list[str]:
        """Return the limits that aren't the default ones, as they are typed."""
        changed = (one.name for one in fields(self) if getattr(self, one.name) != one.default)
        return [f"{name}={show_amount(self, name)}" for name in changed]


def parse_limits(words: Sequence[str]) -> Limits:
    """Return the limits that words say; raise ValueError for a name that is none and for an amount that fits none.

    >>> parse_limits(["line=64MiB", "broken_rows=50,000"]).words()
    ['line=64MiB', 'broken_rows=50000']
    """
    known = {one.name: one for one in fields(Limits)}
    found: dict[str, Any] = {}
    for word in " ".join(words).split():
        name, equals, amount = word.partition("=")
        if name not in known or not equals:
            raise ValueError(f"--reader_limits {word}: write NAME=AMOUNT, as line=64MiB; names: {', '.join(known)}")
        unit, match = known[name].metadata["unit"], AMOUNT.fullmatch(amount)
        factor = UNITS.get(match[2].lower()) if match and (unit == "bytes" or not match[2]) else None
        if not match or factor is None:
            units = "; write 64MiB, 1GB or a number" if unit == "bytes" else ""
            raise ValueError(f"--reader_limits {word}: '{amount}' is no number of {unit}{units}")
        number = float(re.sub("[_,]", "", match[1])) * factor
        least, most = known[name].metadata["least"], 1 if name == "broken_fraction" else 2.0**62
        if not least <= number <= most:
            raise ValueError(f"--reader_limits {word}: is outside {least:g} to {most:g}")
        found[name] = number if isinstance(known[name].default, float) or number % 1 else int(number)
    return Limits(**found)


def show_amount(limits: Limits, name: str, times: int = 1) -> str:
    """Return a limit, or some times as much, as it would be typed.

    >>> show_amount(Limits(), "line", 2), show_amount(Limits(), "packed"), show_amount(Limits(), "broken_rows")
    ('64MiB', '100MB', '20000')
    """
    amount = getattr(limits, name) * times
    if Limits.__dataclass_fields__[name].metadata["unit"] == "bytes":
        for unit, factor in (("GiB", 1 << 30), ("GB", 10**9), ("MiB", 1 << 20), ("MB", 10**6), ("kB", 1000), ("B", 1)):
            if amount % factor == 0:
                return f"{amount // factor}{unit}"
    return f"{amount:g}" if isinstance(amount, float) else str(amount)


_chosen = [Limits()]


def current_limits() -> Limits:
    """Return the limits of this process."""
    return _chosen[0]


def use_limits(words: Sequence[str]) -> None:
    """Choose the limits of this process; raise InputError for words that say none."""
    try:
        _chosen[0] = parse_limits(words)
    except ValueError as error:
        raise InputError(str(error)) from error


def more_than(name: str) -> str:
    """Return in words that a limit is passed, and the option that raises it.

    >>> more_than("broken_rows")
    'more than 20000 rows (--reader_limits broken_rows=40000 allows more)'
    """
    unit = Limits.__dataclass_fields__[name].metadata["unit"]
    limits = current_limits()
    amount = show_amount(limits, name) + ("" if unit == "bytes" else f" {unit}")
    return f"more than {amount} (--reader_limits {name}={show_amount(limits, name, 2)} allows more)"


@dataclass(kw_only=True)
class LimitOptions(Options):
    """The option of the limits."""

    reader_limits: list[str] = field(
        default_factory=lambda: current_limits().words(),
        metadata={"help": "What one file may take, as line=64MiB broken_rows=50000: docs/trust.md lists all names"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reader_limits = parse_limits(self.reader_limits).words()


@dataclass
class ReadArguments(LimitOptions):
    """How files become documents."""

    sample_by: str = option("document", "A document of a .txt file; paragraph: between blank lines", choices=SAMPLE_BY)
    text_column: str = option("text", "Column of .jsonl, .csv, .parquet that holds the text")
    chinese_variant: str = option("zh-hans", "What is read where a Wikipedia gives a choice: zh-hans, zh-hant, zh-tw")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_by not in SAMPLE_BY:  # train.py's come here without a command line
            raise ValueError(f"--sample_by {self.sample_by}: use one of {', '.join(SAMPLE_BY)}")
