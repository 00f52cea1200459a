"""Replies of an encoder and a decoder: the dialogue is read once a turn, and the reply written through both caches."""

from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from chat_utils.runtimes.decoder import Decoder, Session
from eval_utils.likelihood import window_of
from model_utils.families import family_of, start_token_id


def load_source_decoder(model: PreTrainedModel) -> "SourceDecoder | None":
    """Return the decoder of a model with an encoder; None for another."""
    return SourceDecoder(model) if family_of(model.config).has_encoder else None


@dataclass
class SourceState:
    """A source as the encoder read it (1, S, D), and the decoder's own and cross caches of what was written since."""

    read: torch.Tensor | None = None
    cache: EncoderDecoderCache = field(default_factory=lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()))


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
        state, session.state = session.state, None  # what an interrupt leaves half computed is not used again
        if session.computed + len(part) < session.prompt_tokens:
            session.state = state
            return [np.empty(0, np.float32)]  # of a part of the source nothing is drawn
        mask = torch.ones(1, session.prompt_tokens, dtype=torch.long, device=self.model.device)
        if state.read is None:
            source = torch.tensor([session.ids[: session.prompt_tokens]], device=self.model.device)
            state.read = self.model.get_encoder()(input_ids=source, attention_mask=mask)[0]
            part = [self._start, *session.ids[session.prompt_tokens : session.computed + len(part)]]
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=state.read),
            attention_mask=mask,
            decoder_input_ids=torch.tensor([part], device=self.model.device),
            past_key_values=state.cache,
            use_cache=True,
        )
        session.state = state
        return [output.logits[0, -1].float().cpu().numpy()]

    def new_state(self) -> SourceState:
        """Return the state of a source that isn't read yet."""
        return SourceState()

    def cut_state(self, state: SourceState, tokens: int, length: int) -> None:
        """Return None: a part of a source is read differently from all of it."""

    def copy_state(self, state: SourceState, tokens: int, length: int) -> None:
        """Return None, as above."""
