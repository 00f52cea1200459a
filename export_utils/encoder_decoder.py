"""The two graphs of a model with an encoder: what reads a source once, and what writes a target's next tokens."""

from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

VARIED = torch.export.Dim.AUTO
Pair = dict[str, Any]  # "key" and "value" of a layer, (B, heads, T, D / heads)


def list_halves(model: PreTrainedModel) -> dict[str, tuple[nn.Module, dict, dict]]:
    """Return of each graph, by its file: its module, inputs to trace it with, and which of their sizes vary."""
    source = torch.ones(2, 5, dtype=torch.long)
    of_ids, of_pair = {0: VARIED, 1: VARIED}, {"key": {0: VARIED, 2: VARIED}, "value": {0: VARIED, 2: VARIED}}
    reader = SourceReader(model)
    read: dict[str, Any] = {"input_ids": source, "attention_mask": torch.ones_like(source)}
    layers = reader(**read)["present"]
    for layer in layers:  # 4 tokens were written, 3 follow: no two sizes are equal, so that each varies by itself
        layer["decoder"] = {name: array[:, :, :4] for name, array in layer["encoder"].items()}
    written = {"input_ids": source[:, :3], "encoder_attention_mask": read["attention_mask"], "past_key_values": layers}
    shapes = {"input_ids": of_ids, "encoder_attention_mask": of_ids}
    shapes["past_key_values"] = [{"encoder": of_pair, "decoder": of_pair}] * len(layers)
    return {
        "encoder_model.onnx": (reader, read, {"input_ids": of_ids, "attention_mask": of_ids}),
        "decoder_model.onnx": (TargetWriter(model), written, shapes),
    }


class Half(nn.Module):
    """A module around a model, of which a graph computes a part."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model


class SourceReader(Half):
    """Reads a source (B, S): gives the keys and values of the decoder's cross-attention, all that is needed of it."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, list]:
        """Return `present`, a pair of each layer."""
        read = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        # A step with any token fills the cache; what does not lead to it is left out of the graph.
        step = {"decoder_input_ids": input_ids[:, :1], "past_key_values": cache, "use_cache": True}
        self.model(encoder_outputs=read, attention_mask=attention_mask, **step)
        return {"present": [{"encoder": pair} for pair in list_pairs(cache.cross_attention_cache)]}


class TargetWriter(Half):
    """Writes on: takes tokens (B, T) of a target, gives logits (B, T, V) and the decoder's own cache with them."""

    def forward(
        self, input_ids: torch.Tensor, encoder_attention_mask: torch.Tensor, past_key_values: list[dict[str, Pair]]
    ) -> dict[str, Any]:
        """Return `logits`, and `present`, a pair of each layer."""
        own, cross = (fill_cache([layer[half] for layer in past_key_values]) for half in ("decoder", "encoder"))
        # Of what the encoder returned only the length is asked, where the cross cache is full.
        read = torch.zeros(*encoder_attention_mask.shape, self.model.get_encoder().config.get_text_config().hidden_size)
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=read),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            past_key_values=EncoderDecoderCache(own, cross),
            use_cache=True,
        )
        return {"logits": output.logits, "present": [{"decoder": pair} for pair in list_pairs(own)]}


def list_pairs(cache: DynamicCache) -> list[Pair]:
    """Return the keys and values of each layer."""
    return [{"key": layer.keys, "value": layer.values} for layer in cache.layers if isinstance(layer, DynamicLayer)]


def fill_cache(pairs: list[Pair]) -> DynamicCache:
    """Return a cache of the keys and values of each layer."""
    cache = DynamicCache()
    for pair in pairs:
        layer = DynamicLayer()
        layer.lazy_initialization(pair["key"], pair["value"])
        layer.keys, layer.values = pair["key"], pair["value"]
        cache.layers.append(layer)
    return cache
