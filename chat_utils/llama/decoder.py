"""llama.cpp as a runtime of the engine: a GGUF file of the checkpoint, no Python between the operations of a token."""

import ctypes
import weakref
from pathlib import Path

import numpy as np

from chat_utils.decoding import Decoder, Session
from chat_utils.llama.model import LlamaModel

MAX_SLOTS = 8  # replies computed in one step; more than these take turns


class LlamaState:
    """A dialogue's computed beginning: in a slot of the context, or set aside as bytes; then `kept` tokens count."""

    def __init__(self, free_slots: list[int], data: ctypes.Array | None = None) -> None:
        self._free_slots = free_slots
        self.slot: int | None = None
        self.data, self.kept = data, None
        self.reference = weakref.ref(self)

    def __del__(self) -> None:
        if self.slot is not None:
            self._free_slots.append(self.slot)


class LlamaCppDecoder(Decoder):
    """Replies in the slots of one llama.cpp context, computed together; with none free, an idle one is set aside."""

    def __init__(self, file: Path, exact: bool = False) -> None:
        self.model = LlamaModel(file, exact, MAX_SLOTS)
        self.step_limit = self.model.slots
        super().__init__(self.model.window, self.model.token_bytes)
        self._free_slots = list(range(self.model.slots))
        self._placed: dict[int, weakref.ref[LlamaState]] = {}  # by slot, the one that was used last at the end

    def feed(self, sessions: list[Session], parts: list[list[int]]) -> list[np.ndarray]:
        """Compute the parts of several replies in one step; see Decoder."""
        states = [session.state for session in sessions]
        for state in states:
            self._place(state, states)
        try:
            return self.model.decode(
                [(session.state.slot, session.computed, part) for session, part in zip(sessions, parts, strict=True)]
            )
        except BaseException:  # Ctrl-C too
            for session in sessions:
                self.model.cut(session.state.slot, session.computed)
            raise

    def _place(self, state: LlamaState, busy: list[LlamaState]) -> None:
        """Give a state a slot, its own or the one that was idle for longest."""
        if state.slot is None:
            if not self._free_slots:
                others = ((slot, ref()) for slot, ref in self._placed.items())
                other = next(one for slot, one in others if one and one.slot == slot and one not in busy)
                other.data = self.model.save(other.slot)
                self._free_slots.append(other.slot)
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

    def new_state(self) -> LlamaState:
        """Return the state of an empty beginning; it gets a slot when it is fed."""
        return LlamaState(self._free_slots)

    def cut_state(self, state: LlamaState, tokens: int, length: int) -> LlamaState:
        """Return the state with its first `tokens` alone."""
        if state.slot is not None:
            self.model.cut(state.slot, tokens)
        else:
            state.kept = tokens
        return state

    def copy_state(self, state: LlamaState, tokens: int, length: int) -> LlamaState:
        """Return a state of its own with the first `tokens`, set aside; it is cut when it gets its slot."""
        copy = LlamaState(self._free_slots, self.model.save(state.slot) if state.slot is not None else state.data)
        copy.kept = tokens
        return copy
