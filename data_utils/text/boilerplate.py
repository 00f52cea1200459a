"""Lines that many documents of one source repeat (menus, notices, footers), dropped in one pass and bounded memory."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

WINDOW_CHARACTERS = 8_000_000  # documents looked at together; they are held in memory
MIN_DOCUMENTS = 10  # that hold a line before it can be boilerplate
MIN_SHARE = 0.02  # of the source's documents in the window that hold it
MIN_LINE_CHARACTERS = 6  # shorter lines, such as brackets or "Yes.", mean nothing alone
MAX_KNOWN = 200_000  # lines remembered from one window to the next
Known = dict[tuple[str, str], None]  # source and line, the first that was found first


def drop_boilerplate(documents: Iterable[tuple[str, str, Any]]) -> Iterator[tuple[Any, str]]:
    """Yield (document, its text without boilerplate lines) of each (source, text, document), in order.

    A line is boilerplate where at least MIN_DOCUMENTS documents of its source and MIN_SHARE of them hold it. Documents
    are counted in windows of WINDOW_CHARACTERS; what was boilerplate in one is so in the next.
    """
    known: Known = {}
    window, size = [], 0
    for document in documents:
        window.append(document)
        size += len(document[1])
        if size >= WINDOW_CHARACTERS:
            yield from clean_window(window, known)
            window, size = [], 0
    yield from clean_window(window, known)


def clean_window(window: list[tuple[str, str, Any]], known: Known) -> Iterator[tuple[Any, str]]:
    """Yield (document, text) for a window; what is found is added to `known`."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)  # of each source, how many documents hold a line
    totals = Counter(source for source, *_ in window)
    lines = [find_lines(text) for _, text, _ in window]
    for (source, *_), held in zip(window, lines, strict=True):
        counts[source].update(held)
    repeated: dict[str, set[str]] = {}  # the lines to be dropped of each source
    for source, counted in counts.items():
        least = max(MIN_DOCUMENTS, MIN_SHARE * totals[source])
        known.update({(source, line): None for line, count in counted.items() if count >= least})
    while len(known) > MAX_KNOWN:
        known.pop(next(iter(known)))
    for source, counted in counts.items():
        repeated[source] = {line for line in counted if (source, line) in known}
    for (source, text, document), held in zip(window, lines, strict=True):
        if not repeated[source].isdisjoint(held):
            kept = [line for line in text.split("\n") if line.strip() not in repeated[source]]
            yield document, "\n".join(kept).strip("\n")
        else:
            yield document, text


def find_lines(text: str) -> list[str]:
    """Return the different lines of a text that could be boilerplate, in order."""
    lines = dict.fromkeys([line.strip() for line in text.split("\n") if len(line) >= MIN_LINE_CHARACTERS])
    return [line for line in lines if len(line) >= MIN_LINE_CHARACTERS]
