"""Steps of a reply: what transformers computes of its next tokens through the caches, for any kind of model."""

from collections.abc import Callable

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from model_utils.families import family_of, start_token_id


class ReadSource:
    """A source as the encoder read it (1, S, D), and the decoder's own and cross caches of what was written since."""

    def __init__(self, model: PreTrainedModel, source: list[int]) -> None:
        ids = torch.tensor([source], device=model.device)
        self.mask, self.model = torch.ones_like(ids), model
        self.read = model.get_encoder()(input_ids=ids, attention_mask=self.mask)[0]
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def write(self, ids: list[int]) -> torch.Tensor:
        """Return the logits (V) after more tokens of the target, of which the first is `start_token_id`."""
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.read),
            attention_mask=self.mask,
            decoder_input_ids=torch.tensor([ids], device=self.model.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[0, -1]


def open_reply(model: PreTrainedModel, prompt: list[int]) -> tuple[Callable[[list[int]], torch.Tensor], list[int]]:
    """Return what gives the logits (V) after more tokens of a reply, and the tokens that it takes first."""
    if family_of(model.config).has_encoder:
        return ReadSource(model, prompt).write, [start_token_id(model.config)]
    cache = DynamicCache(config=model.config)

    def write(ids: list[int]) -> torch.Tensor:
        taken = {"input_ids": torch.tensor([ids], device=model.device), "past_key_values": cache}
        return model(**taken, use_cache=True, logits_to_keep=1).logits[0, -1]

    return write, prompt
