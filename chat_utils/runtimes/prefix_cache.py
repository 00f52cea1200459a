"""Prefix cache: keeps the KV states of finished replies, so that a dialogue's next turn computes only what is new.

How many tokens of a prompt are found, and how fast, tells what others have asked. So a state belongs to a group: who
is of another one gets no more of it than `public_ids`, which all may know. Source: vLLM's `cache_salt`.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

SMALLEST_STATE_TOKENS = 256  # a shorter one takes as much memory
FEWEST_COPIED_TOKENS = 16  # fewer are computed faster than copied: the template's first words, which all share
ANYBODY = ""  # the group of callers that nothing tells apart: one of them goes on with a dialogue that it knows whole


class CachedState(Protocol):
    """The KV state of a dialogue in a runtime; it takes memory for `least_room` tokens at least."""

    least_room: int

    def cut(self, tokens: int, length: int) -> Any | None:
        """Return the state with the first `tokens` of its `length` alone; None where it has forgotten too much."""

    def copy(self, tokens: int) -> Any | None:
        """Return a state of its own with the first `tokens`, no larger than they need; None as above."""


@dataclass
class Entry:
    """A state that holds `ids`, of which all may know the first `public`; whose it is; the tokens it has room for."""

    ids: list[int]
    state: CachedState
    group: str | None
    public: int
    room: int

    def count_known(self, ids: list[int], group: str | None, public: int) -> int:
        """Return how many ids of a group's prompt, of which `public` are, this state may give it."""
        if self.group == group and group != ANYBODY:
            return count_shared(self.ids, ids)
        is_whole = self.group == group and ids[: len(self.ids)] == self.ids
        return len(self.ids) if is_whole else min(self.public, public)


class PrefixCache:
    """The states of finished replies, latest last; bounded by the tokens that they have room for."""

    def __init__(self, max_tokens: int) -> None:
        self.public_ids: list[int] = []  # of the operator's own system prompt
        self._max_tokens = max_tokens
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._tokens = 0  # that they have room for

    def take(self, ids: list[int], group: str | None = None) -> tuple[Any | None, int]:
        """Return a state and how many of the ids it holds: of the one that begins most alike, else None and 0.

        The group's own dialogue is handed over; of another dialogue the common prefix (a system prompt) is copied. What
        is ANYBODY's is copied too: a state that is gone would tell whoever made it what another one asked.
        """
        with self._lock:
            public = count_shared(self.public_ids, ids)
            alike = (
                (entry.count_known(ids, group, public), entry.group == group, place)
                for place, entry in enumerate(self._entries)
            )
            shared, is_own, best = max(alike, default=(0, False, 0))
            if shared > 0:
                entry, state = self._entries[best], None
                if is_own and group != ANYBODY and 2 * shared >= len(entry.ids):
                    self._drop(best)
                    state = entry.state.cut(shared, len(entry.ids))
                elif shared >= FEWEST_COPIED_TOKENS:
                    state = entry.state.copy(shared)
                if state is not None:
                    return state, shared
        return None, 0

    def put(self, ids: list[int], state: CachedState, group: str | None = None) -> None:
        """Keep a state that holds these ids; the oldest go where there are too many."""
        with self._lock:
            room = max(len(ids), state.least_room, SMALLEST_STATE_TOKENS)
            self._entries.append(Entry(ids, state, group, count_shared(self.public_ids, ids), room))
            self._tokens += room
            while len(self._entries) > 1 and self._tokens > self._max_tokens:
                self._drop(0)

    def _drop(self, place: int) -> None:
        self._tokens -= self._entries.pop(place).room


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
