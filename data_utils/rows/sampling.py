"""Samples what a tokenizer is trained on: as many bytes of each language, from everywhere, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

import xxhash

PIECE_CHARACTERS = 4096  # a long document is sampled in pieces, so that no book is half of the sample


class Reservoir:
    """The texts with the smallest hashes, of `max_bytes` at most: a uniform sample of whatever is offered.

    By hash and not by chance, so that the sample does not depend on the order of the documents. Memory: the sample.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.held_bytes = max_bytes, 0
        self.heap: list[tuple[int, bytes]] = []  # (negative hash, text): the largest hash first

    def wants(self, number: int) -> bool:
        """Tell whether a text of this hash would be kept."""
        return self.held_bytes < self.max_bytes or number < -self.heap[0][0]

    def add(self, number: int, text: str) -> None:
        """Keep a text, and drop those that are too many."""
        content = text.encode()
        heappush(self.heap, (-number, content))
        self.held_bytes += len(content)
        self.drop_excess()

    def size(self) -> int:
        """Return the bytes of the sample."""
        return min(self.held_bytes, self.max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Hold no more than so much from now on."""
        self.max_bytes = max_bytes
        self.drop_excess()

    def drop_excess(self) -> None:
        """Drop the texts that are too many."""
        while self.heap and self.held_bytes - len(self.heap[0][1]) >= self.max_bytes:
            self.held_bytes -= len(heappop(self.heap)[1])

    def texts(self) -> Iterator[str]:
        """Yield the texts by hash, the last one cut to `max_bytes`."""
        left = self.max_bytes
        for _, content in sorted(self.heap, reverse=True):
            yield content[:left].decode(errors="ignore")
            left -= len(content)


def sample_texts(
    documents: Iterable[tuple[str, str]],
    max_bytes: int,
    accept: Callable[[str], str | None] = lambda text: text,
    total_bytes: int | None = None,
) -> Iterator[str]:
    """Yield texts of at most `max_bytes` for each language: equal shares where there is enough of each.

    Args:
        documents: (text, language), all of which are looked at once.
        accept: cleans a text, or returns None where it is not to be used; called for what may be kept only.
        total_bytes: of all languages together; above it the one that has most gives way. None: no limit.
    """
    reservoirs: dict[str, Reservoir] = {}
    for text, language in documents:
        reservoir = reservoirs.setdefault(language, Reservoir(max_bytes))
        if not any(reservoir.wants(number) for number, _ in cut_samples(text)):
            continue
        for number, piece in cut_samples(accept(text) or ""):
            if reservoir.wants(number):
                reservoir.add(number, piece)
                excess = sum(each.size() for each in reservoirs.values()) - total_bytes if total_bytes else 0
                if excess > 0:
                    largest = max(reservoirs.values(), key=Reservoir.size)
                    largest.shrink(largest.size() - excess)
    for reservoir in reservoirs.values():
        yield from reservoir.texts()


def cut_samples(text: str) -> Iterator[tuple[int, str]]:
    """Yield (hash, piece) for pieces of at most `PIECE_CHARACTERS`."""
    for start in range(0, len(text), PIECE_CHARACTERS):
        piece = text[start : start + PIECE_CHARACTERS]
        yield xxhash.xxh64_intdigest(piece.encode(errors="ignore")), piece
