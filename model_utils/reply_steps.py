"""Steps of a reply: what transformers computes of its next tokens through the caches, for any kind of model."""

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
        self.cache, self.first = EncoderDecoderCache(DynamicCache(), DynamicCache()), [start_token_id(model.config)]

    @property
    def layers(self) -> list:
        """What holds keys and values, of the target and of the source."""
        return [*self.cache.self_attention_cache.layers, *self.cache.cross_attention_cache.layers]

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


class ReadPrompt:
    """A prompt that a decoder is to read, and its cache of that and of what was written since."""

    def __init__(self, model: PreTrainedModel, prompt: list[int]) -> None:
        self.model, self.first, self.cache = model, prompt, DynamicCache(config=model.config)

    @property
    def layers(self) -> list:
        """What holds keys and values."""
        return self.cache.layers

    def write(self, ids: list[int]) -> torch.Tensor:
        """Return the logits (V) after more tokens, of which the first are the prompt's."""
        taken = {"input_ids": torch.tensor([ids], device=self.model.device), "past_key_values": self.cache}
        return self.model(**taken, use_cache=True, logits_to_keep=1).logits[0, -1]


def open_reply(model: PreTrainedModel, prompt: list[int]) -> ReadSource | ReadPrompt:
    """Return what writes a reply; `first` are the tokens that it takes first."""
    return ReadSource(model, prompt) if family_of(model.config).has_encoder else ReadPrompt(model, prompt)
