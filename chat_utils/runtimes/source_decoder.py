"""Replies of an encoder and a decoder: the dialogue is read once a turn, and the reply written through both caches."""

import numpy as np
import torch
from transformers import PreTrainedModel

from chat_utils.runtimes.decoder import Decoder, Session
from eval_utils.likelihood import window_of
from model_utils.families import family_of, start_token_id
from model_utils.reply_steps import ReadSource


def load_source_decoder(model: PreTrainedModel) -> "SourceDecoder | None":
    """Return the decoder of a model with an encoder; None for another."""
    return SourceDecoder(model) if family_of(model.config).has_encoder else None


class SourceDecoder(Decoder):
    """transformers' forward of a model with an encoder.

    The states of one dialogue serve no other: whatever is appended to a source changes how all of it is read.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self._start = model, start_token_id(model.config)
        # So large a token leaves the prefix cache no more than the last state, of which nothing is ever taken.
        super().__init__(window_of(model), 2**62)

    @torch.inference_mode()
    def feed(self, sessions: list[Session], parts: list[list[int]]) -> list[np.ndarray]:
        """Take the part of one session; its source is read when all of it is there. See Decoder."""
        (session,), (part,) = sessions, parts
        (state,), session.state = session.state, None  # what an interrupt leaves half computed is not used again
        if session.computed + len(part) < session.prompt_tokens:
            session.state = (state,)
            return [np.empty(0, np.float32)]  # of a part of the source nothing is drawn
        if state is None:
            state = ReadSource(self.model, session.ids[: session.prompt_tokens])
            part = [self._start, *session.ids[session.prompt_tokens : session.computed + len(part)]]
        logits = state.write(part)
        session.state = (state,)
        return [logits.float().cpu().numpy()]

    def new_state(self) -> tuple[None]:
        """Return the state of a source that isn't read yet."""
        return (None,)

    def cut_state(self, state: tuple, tokens: int, length: int) -> None:
        """Return None: a part of a source is read differently from all of it."""

    def copy_state(self, state: tuple, tokens: int, length: int) -> None:
        """Return None, as above."""
