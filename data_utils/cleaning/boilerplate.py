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
    known: dict[int, None] = {}
    window, size = [], 0
    for document in documents:
        window.append(document)
        size += len(text_of(document))
        if size >= WINDOW_CHARACTERS:
            yield from clean_window(window, known, text_of, source_of)
            window, size = [], 0
    yield from clean_window(window, known, text_of, source_of)


def clean_window(
    window: list, known: dict[int, None], text_of: Callable[[Any], str], source_of: Callable[[Any], object]
) -> Iterator[tuple[Any, str]]:
    """Yield (document, text) for a window; what is found is added to `known`."""
    counts: Counter[int] = Counter()
    totals = Counter(source_of(document) for document in window)
    sources = {}
    for document in window:
        source = source_of(document)
        keys = set(line_keys(text_of(document), source))
        counts.update(keys)
        if totals[source] >= MIN_DOCUMENTS:
            sources.update(dict.fromkeys(keys, source))
    for key, count in counts.items():
        if count >= MIN_DOCUMENTS and count >= MIN_SHARE * totals[sources[key]]:
            known[key] = None
    while len(known) > MAX_KNOWN:
        known.pop(next(iter(known)))
    for document in window:
        text, source = text_of(document), source_of(document)
        if not known or not known.keys().isdisjoint(line_keys(text, source)):
            kept = [line for line in text.split("\n") if line_key(line, source) not in known]
            text = "\n".join(kept).strip("\n") if len(kept) <= text.count("\n") else text
        yield document, text


def line_keys(text: str, source: object) -> list[int]:
    """Return the keys of the lines of a text that could be boilerplate."""
    return [line_key(line, source) for line in text.split("\n") if len(line) >= MIN_LINE_CHARACTERS]


def line_key(line: str, source: object) -> int | None:
    """Return the hash of a line within its source, None for one too short."""
    line = line.strip()
    return xxhash.xxh3_64_intdigest(f"{source}\0{line}".encode()) if len(line) >= MIN_LINE_CHARACTERS else None
