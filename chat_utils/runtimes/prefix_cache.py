"""Computed beginnings of dialogues, kept so that the next turn computes only what is new."""

import threading
from collections.abc import Sequence
from typing import Any

SMALLEST_STATE_TOKENS = 256  # a shorter one takes as much memory
FEWEST_COPIED_TOKENS = 16  # fewer are computed faster than copied: the template's first words, which all share


class StatePool:
    """The states of finished replies, latest last; bounded by the tokens that they have room for."""

    def __init__(self, decoder, max_tokens: int) -> None:
        self._decoder, self._max_tokens = decoder, max_tokens
        self._lock = threading.Lock()
        self._entries: list[tuple[list[int], Any]] = []

    def take(self, ids: list[int]) -> tuple[Any, int]:
        """Return a state and how many of the ids it holds: of the one that begins most alike, else a new one.

        Another dialogue's beginning (the same system prompt) is copied; the dialogue's own is handed over.
        """
        with self._lock:
            alike = [(count_shared(old, ids), place) for place, (old, _) in enumerate(self._entries)]
            shared, best = max(alike, default=(0, 0))
            if shared > 0:
                old, entry = self._entries[best]
                state = None
                if 2 * shared >= len(old):
                    del self._entries[best]
                    state = self._decoder.cut_state(entry, shared, len(old))
                elif shared >= FEWEST_COPIED_TOKENS:
                    state = self._decoder.copy_state(entry, shared, len(old))
                if state is not None:
                    return state, shared
        return self._decoder.new_state(), 0

    def put(self, ids: list[int], state: Any) -> None:
        """Keep a state that holds these ids; the oldest go where there are too many."""
        with self._lock:
            self._entries.append((ids, state))
            while len(self._entries) > 1 and self._count_tokens() > self._max_tokens:
                del self._entries[0]

    def _count_tokens(self) -> int:
        return sum(
            max(self._decoder.count_room(state, len(ids)), SMALLEST_STATE_TOKENS) for ids, state in self._entries
        )


def count_shared(old: Sequence, new: Sequence) -> int:
    """Return how many ids (or characters) two lists begin with alike.

    >>> count_shared([1, 2, 3], [1, 2, 4, 5])
    2
    """
    shared = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        shared += 1
    return shared
