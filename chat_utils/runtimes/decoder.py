"""The runtime interface: next-token logits and a prefix (KV) cache.

`Decoder` is the base of all: transformers here, the fast step in numpy_decoder.py, and in slots.py what holds many
replies at once: transformers' batches (batched.py) and llama.cpp (llama_cpp.py).
It owns the turns of open replies and the prefix cache; a runtime says how a KV state is made and fed, the state itself
how it is cut and copied (`CachedState` in prefix_cache.py).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Set
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from chat_utils.runtimes.prefix_cache import PrefixCache
from chat_utils.runtimes.scheduler import OneThread, Turns
from chat_utils.sampling import Sampler, Sampling
from eval_utils.likelihood import window_of
from model_utils.families import first_ids
from model_utils.reply_steps import open_reply
from model_utils.shapes import find_embedding

PREFILL_TOKENS = 256  # of a prompt in one turn, so that a long prompt doesn't keep other replies waiting
# That a reply goes on in its turn, half of it where others wait: what leads up to a turn costs as much as a token of a
# small model, and so does a piece of text on its way to the caller.
TURN_SECONDS = 0.004
PREFIX_CACHE_BYTES = 256 * 2**20  # counted by the tokens that states have room for
TRIAL_TOKENS = 24  # that a decoder is tried with

# Largest difference to transformers' logits, as a share of the largest, where a decoder is to take its place: one that
# is wrong is far off, and with halves transformers itself rounds in other places.
SAME_LOGITS = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@torch.inference_mode()
def has_same_logits(model: PreTrainedModel, compute: Callable[[int, list[int]], np.ndarray]) -> bool:
    """Tell whether `compute(start, ids)` gives the logits (V, float32) after ids that transformers computes."""
    size = find_embedding(model).num_embeddings
    ids = [number * 7919 % size for number in range(min(TRIAL_TOKENS, window_of(model)))]
    prompt = torch.tensor([ids], device=model.device)
    output = model(prompt, attention_mask=torch.ones_like(prompt), logits_to_keep=1)
    expected = output.logits[0, -1].float().cpu().numpy()
    compute(0, ids[:-1])
    found = compute(len(ids) - 1, ids[-1:])
    return bool(np.abs(found - expected).max() <= SAME_LOGITS[model.dtype] * np.abs(expected).max())


class Session:
    """One reply in a decoder: its ids, the state that holds the computed ones, and what draws the next."""

    def __init__(
        self, decoder: "Decoder", ids: list[int], sampling: Sampling, stop_ids: Set[int], cache_group: str | None
    ) -> None:
        self.decoder: Decoder | None = decoder
        self.cache_group = cache_group
        self.stop_ids = stop_ids
        self.limit = 1  # tokens that are wanted of the next turn, at most
        self.ids = list(ids)
        self.prompt_tokens = self.given = len(ids)  # how many of them the caller has
        self.sampler = Sampler(sampling, decoder.list_repeated(ids))
        self.state: Any = None
        self.computed = 0  # how many of the ids the state holds
        self.cached_tokens = 0
        # Rows computed together are rounded another way than alone, by one part in a million: what must come out the
        # same again is computed alone, unless the decoder's steps always have one shape.
        self.can_share = decoder.shares_all or (sampling.seed is None and sampling.temperature > 0)

    def step(self, limit: int = 1) -> list[int]:
        """Compute what is pending and return the tokens drawn, at most `limit`, none after one of `stop_ids`.

        They are an empty list where part of a long prompt is still to come. Where the caller was interrupted in the
        last turn, they are those of that turn.
        """
        if self.decoder is None:
            raise RuntimeError("the reply is closed")
        self.limit = limit
        self.decoder.turns.step(self)
        drawn, self.given = self.ids[self.given :], len(self.ids)
        return drawn

    def advance(self, computed: int, token: int | None) -> None:
        """Note that so many ids more are computed, and the token that was drawn, if any."""
        self.computed += computed
        if token is not None:
            self.ids.append(token)

    def close(self) -> None:
        """Leave the KV state to the prefix cache, for the next turn of the same dialogue, and let go of the model."""
        decoder, self.decoder = self.decoder, None
        if decoder is not None and self.state is not None:
            decoder.prefix_cache.put(self.ids[: self.computed], self.state, self.cache_group)
            self.state = None


class Decoder(ABC):
    """Base of the runtimes.

    `step_limit`: how many replies it can compute in one step. `shares_all`: whether a reply's logits don't depend on
    who shares its step. `one_thread`: whether it must always run on the same.
    """

    step_limit = 1
    shares_all = False
    one_thread = True

    def __init__(self, window: int, token_bytes: int) -> None:
        """`token_bytes`: memory that a state takes for each token."""
        self.window = window
        self.prefix_cache = PrefixCache(PREFIX_CACHE_BYTES // max(token_bytes, 1))
        self.turns = Turns(OneThread(self._turn) if self.one_thread else self._turn, self.step_limit)

    def open(
        self, ids: list[int], sampling: Sampling, stop_ids: Set[int] = frozenset(), cache_group: str | None = None
    ) -> Session:
        """Begin a reply after the ids of its prompt (one at least), whose turns end with the first of `stop_ids`.

        `cache_group`: whose KV states it may go on with, and who may with its own; see prefix_cache.py.
        """
        return Session(self, ids, sampling, stop_ids, cache_group)

    def _turn(self, sessions: list[Session]) -> None:
        """Draw a token for each session; for one that is alone in its turn, as many as that has time for."""
        started = time.perf_counter()
        sessions = [session for session in sessions if session.given == len(session.ids)]
        if not sessions:  # an interrupted turn drew what is to be given first
            return
        self._step(sessions)
        if len(sessions) == 1:
            (session,) = sessions
            while (
                0 < len(session.ids) - session.given < session.limit
                and session.ids[-1] not in session.stop_ids
                and self._has_time(session, started)
            ):
                (logits,) = self.feed(sessions, [session.ids[-1:]])  # what _step does for more, without its cost
                session.advance(1, session.sampler.draw(logits))

    def _has_time(self, session: Session, started: float) -> bool:
        """Tell whether a session goes on in a turn: not where it could share the next step with those who wait."""
        has_waiting = self.turns.has_waiting
        seconds = TURN_SECONDS / 2 if has_waiting else TURN_SECONDS
        return time.perf_counter() - started < seconds and not (has_waiting and session.can_share)

    def _step(self, sessions: list[Session]) -> None:
        parts = []
        for session in sessions:
            if session.state is None:
                found, session.computed = self.prefix_cache.take(session.ids[:-1], session.cache_group)
                session.state, session.cached_tokens = found or self.new_state(), session.computed
            parts.append(session.ids[session.computed : session.computed + PREFILL_TOKENS])
        rows = self.feed(sessions, parts)
        drawn = []
        for session, part, logits in zip(sessions, parts, rows, strict=True):
            is_last = session.computed + len(part) == len(session.ids)
            drawn.append(session.sampler.draw(logits) if is_last else None)
        # All or none go on: where a draw fails, each is computed again by itself.
        for session, part, token in zip(sessions, parts, drawn, strict=True):
            session.advance(len(part), token)

    @abstractmethod
    def feed(self, sessions: list[Session], parts: list[list[int]]) -> list[np.ndarray]:
        """Compute each part after its session's state and return the logits (V, float32) that follow its last id.

        Where it is interrupted, a state must be as before or None.
        """

    @abstractmethod
    def new_state(self) -> Any:
        """Return the state of an empty beginning."""

    def list_repeated(self, prompt: list[int]) -> list[int]:
        """Return the ids that a repetition penalty counts beside those of the reply."""
        return prompt


class TransformersDecoder(Decoder):
    """transformers' own forward: the reference, and what runs where no faster step knows the model's class.

    A state is what `open_reply` returns; None before the first of its ids is computed.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config(decoder=True)
        width = getattr(config, "hidden_size", 1024)
        super().__init__(window_of(model), 2 * config.num_hidden_layers * width * model.dtype.itemsize)

    @torch.inference_mode()
    def feed(self, sessions: list[Session], parts: list[list[int]]) -> list[np.ndarray]:
        """Compute the part of one session; see Decoder."""
        (session,), (part,) = sessions, parts
        state, session.state = session.state, None  # what an interrupt leaves half computed is not used again
        state = state or open_reply(self.model, session.ids[: session.prompt_tokens])
        logits = state.write(part)
        session.state = state
        return [logits.float().cpu().numpy()]

    def new_state(self) -> None:
        """Return None: what computes a reply is opened with its prompt."""

    def list_repeated(self, prompt: list[int]) -> list[int]:
        """Return the ids before the reply in its own text: not a source, as in transformers' `generate`."""
        return first_ids(self.model.config, prompt)
