"""Steps of a reply: what transformers computes of its next tokens through the caches, for any kind of model."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from model_utils.families import family_of, first_ids


class ReadSource:
    """A source as the encoder read it (1, S, D), and the decoder's own and cross caches of what was written since.

    It serves no other dialogue: whatever is appended to a source changes how all of it is read.
    """

    least_room = 2**62  # so large a state leaves the prefix cache no more than the last one

    def __init__(self, model: PreTrainedModel, source: list[int]) -> None:
        ids = torch.tensor([source], device=model.device)
        self.model, self.mask, self.missing = model, torch.ones_like(ids), len(source)
        self.read = model.get_encoder()(input_ids=ids, attention_mask=self.mask)[0]
        self.cache, self.first = EncoderDecoderCache(DynamicCache(), DynamicCache()), first_ids(model.config, source)

    @property
    def layers(self) -> list:
        """What holds keys and values, of the target and of the source."""
        return [*self.cache.self_attention_cache.layers, *self.cache.cross_attention_cache.layers]

    def write(self, ids: list[int]) -> torch.Tensor:
        """Return the logits (V) after more ids, of the source first; none (0) before all of that is there."""
        self.missing -= len(ids)
        if self.missing > 0:
            return torch.empty(0)
        if self.first:
            self.first, ids = [], [*self.first, *ids[len(ids) + self.missing :]]
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.read),
            attention_mask=self.mask,
            decoder_input_ids=torch.tensor([ids], device=self.model.device),
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[0, -1]

    def cut(self, tokens: int, length: int) -> None:
        """Return None: a part of a source is read differently from all of it."""

    def copy(self, tokens: int) -> None:
        """Return None, as above."""


class ReadPrompt:
    """The cache of a decoder: of the prompt and of what was written since."""

    least_room = 0

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.cache = model, DynamicCache(config=model.config)

    @property
    def layers(self) -> list:
        """What holds keys and values."""
        return self.cache.layers

    def write(self, ids: list[int]) -> torch.Tensor:
        """Return the logits (V) after more ids, of the prompt first."""
        taken = {"input_ids": torch.tensor([ids], device=self.model.device), "past_key_values": self.cache}
        return self.model(**taken, use_cache=True, logits_to_keep=1).logits[0, -1]

    def cut(self, tokens: int, length: int) -> "ReadPrompt | None":
        """Return it with the first `tokens` of its `length`; None where a sliding window forgot what that needs."""
        if tokens < length and any(self.cache.is_sliding):
            return None
        if tokens < length:
            self.cache.crop(tokens - length)
        return self

    def copy(self, tokens: int) -> "ReadPrompt | None":
        """Return one with copies of the first `tokens`; None where a layer keeps more or less than its tokens."""
        layers = [layer for layer in self.layers if type(layer) is DynamicLayer]
        if len(layers) < len(self.layers):
            return None
        copy = ReadPrompt(self.model)
        for number, layer in enumerate(layers):
            if layer.keys is not None and layer.values is not None:  # one that shares another's has none
                copy.cache.update(layer.keys[..., :tokens, :], layer.values[..., :tokens, :], number)
        return copy


def open_reply(model: PreTrainedModel, prompt: list[int]) -> ReadSource | ReadPrompt:
    """Return what writes a reply to a prompt: it is given the prompt's ids, then those of the reply."""
    return ReadSource(model, prompt) if family_of(model.config).has_encoder else ReadPrompt(model)


def pad_rows(rows: Sequence[Sequence[int]], device: torch.device, half: str = "") -> dict[str, torch.Tensor]:
    """Return `input_ids` and `attention_mask` (B, T) of rows of ids, padded at the end; names begin with `half`."""
    ids = [torch.tensor(row) for row in rows]
    parts = {"input_ids": ids, "attention_mask": map(torch.ones_like, ids)}
    return {f"{half}{name}": pad_sequence([*part], batch_first=True).to(device) for name, part in parts.items()}


def compute_targets(
    model: PreTrainedModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Return for each target after its source the logits (T, V) that its T ids were drawn from."""
    first = [first_ids(model.config, list(source)) for source in sources]
    given = [[*ids, *target[:-1]] for ids, target in zip(first, targets, strict=True)]
    if family_of(model.config).has_encoder:
        inputs = pad_rows(sources, model.device) | pad_rows(given, model.device, "decoder_")
    else:
        inputs = pad_rows(given, model.device)
    logits = model(**inputs, use_cache=False).logits
    begins = [len(ids) - 1 for ids in first]
    return [row[place : place + len(target)] for row, place, target in zip(logits, begins, targets, strict=True)]
