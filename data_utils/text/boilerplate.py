"""Lines that many documents of one source repeat (menus, notices, footers), dropped in one pass and bounded memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import xxhash

WINDOW_CHARACTERS = 8_000_000  # documents looked at together; they are held in memory
MIN_DOCUMENTS = 10  # that hold a line before it can be boilerplate
MIN_SHARE = 0.02  # of the source's documents in the window that hold it
MIN_LINE_CHARACTERS = 6  # shorter lines, such as brackets or "Yes.", mean nothing alone
MAX_KNOWN = 200_000  # lines remembered from one window to the next


def drop_boilerplate(
    documents: Iterable[Any],
    text_of: Callable[[Any], str] = lambda document: document["text"],
    source_of: Callable[[Any], object] = lambda document: document["source"],
) -> Iterator[tuple[Any, str]]:
    """Yield (document, its text without boilerplate lines), in order.

    A line is boilerplate where at least MIN_DOCUMENTS documents of its source and MIN_SHARE of them hold it. Documents
    are counted in windows of WINDOW_CHARACTERS; what was boilerplate in one is so in the next.
    """
    known: dict[int, int] = {}  # hash of a line -> its length
    window, size = [], 0
    for document in documents:
        window.append(document)
        size += len(text_of(document))
        if size >= WINDOW_CHARACTERS:
            yield from clean_window(window, known, text_of, source_of)
            window, size = [], 0
    yield from clean_window(window, known, text_of, source_of)


def clean_window(
    window: list, known: dict[int, int], text_of: Callable[[Any], str], source_of: Callable[[Any], object]
) -> Iterator[tuple[Any, str]]:
    """Yield (document, text) for a window; what is found is added to `known`."""
    counts: dict[object, Counter[str]] = {}  # of each source, how many documents hold a line
    lines = []
    totals: Counter = Counter()
    for document in window:
        source = source_of(document)
        lines.append(find_lines(text_of(document)))
        counts.setdefault(source, Counter()).update(lines[-1])
        totals[source] += 1
    repeated: dict[object, set[str]] = {}  # the lines to be dropped of each source
    for source, counted in counts.items():
        least = max(MIN_DOCUMENTS, MIN_SHARE * totals[source])
        found = [line for line, count in counted.items() if count >= least]
        known.update((line_key(line, source), len(line)) for line in found)
    while len(known) > MAX_KNOWN:
        known.pop(next(iter(known)))
    lengths = set(known.values())  # of most lines nothing more need be known
    for source, counted in counts.items():
        repeated[source] = {line for line in counted if len(line) in lengths and line_key(line, source) in known}
    for document, held in zip(window, lines, strict=True):
        text, dropped = text_of(document), repeated.get(source_of(document), ())
        if dropped and not dropped.isdisjoint(held):
            text = "\n".join([line for line in text.split("\n") if line.strip() not in dropped]).strip("\n")
        yield document, text


def find_lines(text: str) -> list[str]:
    """Return the different lines of a text that could be boilerplate, in order."""
    lines = dict.fromkeys([line.strip() for line in text.split("\n") if len(line) >= MIN_LINE_CHARACTERS])
    return [line for line in lines if len(line) >= MIN_LINE_CHARACTERS]


def line_key(line: str, source: object) -> int:
    """Return the hash of a line within its source."""
    return xxhash.xxh3_64_intdigest(f"{source}\0{line}".encode())
