"""Decodes dialogues that a runtime holds side by side, each in a slot, and computes together."""

import weakref
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from chat_utils.runtimes.decoder import Decoder, Session


class SlotModel(ABC):
    """What a runtime with slots offers: `slots` of them, each for a dialogue of up to `window` tokens."""

    window: int
    token_bytes: int  # memory that a token takes in a slot
    slots: int

    @abstractmethod
    def decode(self, parts: list[tuple[int, int, list[int]]]) -> list[np.ndarray]:
        """Compute parts (slot, position of the first, ids), and return the logits (V, float32) after each's last id."""

    @abstractmethod
    def cut(self, slot: int, tokens: int) -> None:
        """Forget what a slot holds beyond its first `tokens`."""

    @abstractmethod
    def save(self, slot: int) -> Any:
        """Return a copy of what a slot holds."""

    @abstractmethod
    def restore(self, slot: int, data: Any) -> None:
        """Put a saved copy into a slot."""


class SlotState:
    """A dialogue's KV state: in a slot, or set aside as a saved copy; then `kept` tokens of it count."""

    least_room = 0

    def __init__(self, model: SlotModel, free_slots: list[int], data: Any = None, kept: int | None = None) -> None:
        self._model, self._free_slots = model, free_slots
        self.slot: int | None = None
        self.data, self.kept = data, kept
        self.reference = weakref.ref(self)

    def __del__(self) -> None:
        if self.slot is not None:
            self._free_slots.append(self.slot)

    def cut(self, tokens: int, length: int) -> "SlotState":
        """Return the state with its first `tokens` alone."""
        if self.slot is not None:
            self._model.cut(self.slot, tokens)
        else:
            self.kept = tokens
        return self

    def copy(self, tokens: int) -> "SlotState":
        """Return a state of its own with the first `tokens`, set aside; it is cut when it gets its slot."""
        data = self._model.save(self.slot) if self.slot is not None else self.data
        return SlotState(self._model, self._free_slots, data, kept=tokens)


class SlotDecoder(Decoder):
    """Replies in the slots of one model, computed together; with none free, an idle one is set aside."""

    def __init__(self, model: SlotModel, shares_all: bool = False) -> None:
        self.model, self.step_limit, self.shares_all = model, model.slots, shares_all
        super().__init__(model.window, model.token_bytes)
        self._free_slots = list(range(model.slots))
        self._placed: dict[int, weakref.ref[SlotState]] = {}  # by slot, the one that was used last at the end

    def feed(self, sessions: list[Session], parts: list[list[int]]) -> list[np.ndarray]:
        """Compute the parts of several replies in one step; see Decoder."""
        states = [session.state for session in sessions]
        last = next(reversed(self._placed), -1)
        for state in states:
            if state.slot != last:
                self._place(state, states)
        try:
            return self.model.decode(
                [(session.state.slot, session.computed, part) for session, part in zip(sessions, parts, strict=True)]
            )
        except BaseException:  # Ctrl-C too
            for session in sessions:
                self.model.cut(session.state.slot, session.computed)
            raise

    def _place(self, state: SlotState, busy: list[SlotState]) -> None:
        """Give a state a slot, its own or the one that was idle for longest."""
        if state.slot is None:
            if not self._free_slots:
                others = ((slot, ref()) for slot, ref in self._placed.items())
                slot, other = next((n, one) for n, one in others if one and one.slot == n and one not in busy)
                other.data = self.model.save(slot)
                self._free_slots.append(slot)
                other.slot = None
            state.slot = self._free_slots.pop()
            self.model.cut(state.slot, 0)
            if state.data is not None:
                self.model.restore(state.slot, state.data)
                state.data = None
            if state.kept is not None:
                self.model.cut(state.slot, state.kept)
                state.kept = None
        self._placed.pop(state.slot, None)
        self._placed[state.slot] = state.reference

    def new_state(self) -> SlotState:
        """Return the state of an empty beginning; it gets a slot when it is fed."""
        return SlotState(self.model, self._free_slots)
