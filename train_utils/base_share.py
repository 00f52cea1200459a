"""Mixes a share of the base's weights into a model that was trained from it, so that less of the base is forgotten."""

from typing import Any

import torch
from peft import PeftModel
from torch import nn

from errors import InputError
from model_utils.checkpoint import load_model
from model_utils.shapes import find_embedding, find_head
from train_utils.run_folder import weights_version


@torch.no_grad()
def mix_base(model: Any, *, base: str, version: str | None, share: float, new_ids: list[int]) -> str:
    """Make weights (1 - share) * trained + share * base, in place (WiSE-FT, Wortsman et al. 2022); say so in words.

    Of an adapter what it adds to the base shrinks, which is the same. Rows of `new_ids`, tokens that the base does not
    have, stay as trained. Raises InputError where the base's weights are no longer of their `version`.
    """
    if isinstance(model, PeftModel):
        for name, weight in model.named_parameters():
            if ".lora_B." in name or ".lora_embedding_B." in name:
                weight.mul_(1 - share)
    else:
        if weights_version(base) != version:
            raise InputError(
                f"{base}: its weights have changed since the training began, and a share of them belongs into the "
                "finished model; put them back and add --resume_from_checkpoint true"
            )
        mix_weights(model, load_model(base), share, new_ids)
    kept = f"; rows of {len(new_ids)} new tokens stay as trained" if new_ids else ""
    return f"{100 * (1 - share):g}% trained, {100 * share:g}% the base's (--base_share {share:g}){kept}"


def mix_weights(model: Any, base: Any, share: float, new_ids: list[int]) -> None:
    """Mix a share of a base's weights into a model's, a tensor at a time; the base may lack rows of `new_ids`.

    The base takes the room that the gradients left.
    """
    weights = dict(model.named_parameters())  # tied ones once, under the same name in both
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    ends = {id(weight) for module in (*tables, find_head(model)) for weight in module.parameters()}
    vocabulary = find_embedding(model).num_embeddings
    for name, old in base.named_parameters():
        weight = weights[name]
        if new_ids and id(weight) in ends and len(weight) == vocabulary:
            own = weight[new_ids]
            weight[: len(old)].lerp_(old.to(weight.device), share)
            weight[new_ids] = own
        else:
            weight.lerp_(old.to(weight.device), share)
