"""Trains an encoder and a decoder on packed pairs: masks that keep them apart, and a loss that no split changes."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from model_utils.shapes import evaluating, find_embedding, find_head
from train_utils.steps.fast_model import Compiler, decoder_layers, logits_loss, only_for_rows

HIDDEN = torch.finfo(torch.bfloat16).min  # added to a score; the least that every type holds, so that none becomes NaN


def part_mask(queries: torch.Tensor, keys: torch.Tensor, is_causal: bool = False) -> torch.Tensor:
    """Return what is added to the scores (B, 1, T, S) of queries (B, T) and keys (B, S), numbered by their pairs."""
    seen = queries[:, :, None] == keys[:, None, :]
    seen = seen.tril() if is_causal else seen
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, HIDDEN)[:, None]


def part_positions(parts: torch.Tensor) -> torch.Tensor:
    """Return positions (B, T) that begin anew with each part.

    >>> part_positions(torch.tensor([[1, 1, 1, 2, 2, 0]]))
    tensor([[0, 1, 2, 0, 1, 0]])
    """
    places = torch.arange(parts.size(1), device=parts.device).expand_as(parts)
    begins = F.pad(parts[:, 1:] != parts[:, :-1], (1, 0))
    return places - (places * begins).cummax(1).values


def run_halves(model: PreTrainedModel, forward: Callable, batch: dict[str, Any]) -> torch.Tensor:
    """Return the logits (B, T, V) of packed pairs, as `join_sides` numbers them; `forward` is the model's own.

    The encoder is called by itself, since most classes give it and the decoder's view of it one mask.
    """
    source, target = batch["source_parts"], batch["target_parts"]
    takes_positions = "decoder_position_ids" in inspect.signature(forward).parameters
    own = {"position_ids": part_positions(source)} if takes_positions else {}
    read = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=part_mask(source, source), **own)
    written = {"decoder_input_ids": batch["decoder_input_ids"], "use_cache": False}
    written["decoder_attention_mask"] = part_mask(target, target, is_causal=True)
    if takes_positions:
        written["decoder_position_ids"] = part_positions(target)
    return forward(encoder_outputs=read, attention_mask=part_mask(target, source), **written).logits


def join_halves(model: PreTrainedModel, compiled_rows: int | None = None) -> None:
    """Let a model take packed pairs, in place, and compile its layers for batches of so many rows, if asked.

    The loss is ours: T5, UMT5, BART and EncoderDecoderModel of transformers 5.23 ignore `num_items_in_batch`, so that
    their gradients grow with the passes of a step and with the processes.
    """
    original, compiler, find_loss = model.forward, Compiler(), logits_loss
    if compiled_rows:
        find_loss = compiler.compile(logits_loss)
        for half in (model.get_encoder(), model.get_decoder()):
            for layer in decoder_layers(half):
                layer.forward = only_for_rows(layer, compiler.compile(layer.forward), compiled_rows)

    @wraps(original)
    def forward(input_ids=None, labels=None, source_parts=None, num_items_in_batch=None, **kwargs):
        if source_parts is None:
            return original(input_ids=input_ids, labels=labels, **kwargs)
        logits = run_halves(model, original, {"input_ids": input_ids, "source_parts": source_parts, **kwargs})
        compute = find_loss if model.training else logits_loss
        loss = None if labels is None else compute(logits, labels[:, 1:], num_items_in_batch)
        # Measured by whoever asks; the last label is of the last logits but one.
        return CausalLMOutput(loss=loss, logits=None if model.training else F.pad(logits, (0, 0, 0, 1)))

    model.forward = forward
    setattr(model, "accepts_loss_kwargs", True)  # noqa: B010 - torch's modules declare no such attribute


@torch.no_grad()
def keeps_pairs_apart(model: PreTrainedModel) -> bool:
    """Tell by a trial whether a pair in a packed row is what it is alone: not where positions count from the row."""
    size = min(find_embedding(model).num_embeddings, find_head(model).out_features)
    ids = torch.arange(3, 15, device=model.device).remainder(size)[None]
    parts = torch.tensor([[1] * 5 + [2] * 7], device=model.device)
    found = []
    with evaluating(model):
        for start in (0, 5):  # both pairs, and the second alone
            batch = dict.fromkeys(("input_ids", "decoder_input_ids"), ids[:, start:])
            batch |= dict.fromkeys(("source_parts", "target_parts"), parts[:, start:])
            found.append(run_halves(model, model.forward, batch)[:, -7:])
    return torch.allclose(*found, atol=1e-3, rtol=1e-3)
