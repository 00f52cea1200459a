"""Lets a model return the log-probability of each reply that lies in a row, in place of its logits."""

from functools import wraps

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from data_utils.dialogue.format import IGNORE_LABEL
from train_utils.steps.fast_model import has_plain_head

CHUNK_BYTES = 2**28  # of logits that are held at once: replies are a part of their rows, and are taken in chunks


def log_probabilities(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability in nats of each target (N) by hidden states (N, D) with a head (V, D)."""
    rows = max(1, CHUNK_BYTES // (4 * len(weight)))
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([-F.cross_entropy(F.linear(h, weight).float(), t, reduction="none") for h, t in parts])


def score_replies(model: PreTrainedModel) -> None:
    """Let a model that is given `targets` return log-probabilities (B, S) in nats of the S replies of a row, in place.

    In training and evaluation alike; logits of what is no reply are never computed where the head is a plain one.
    `temperatures` (B, S), if given, are those that the replies were drawn with.
    """
    head = model.get_output_embeddings()
    is_plain = head is not None and head.bias is None and has_plain_head(model)
    original = model.forward

    @wraps(original)
    def forward(input_ids=None, position_ids=None, targets=None, shift_labels=None, temperatures=None, **kwargs):
        if targets is None:
            return original(input_ids=input_ids, position_ids=position_ids, **kwargs)
        is_reply = targets[:, 1:] != IGNORE_LABEL
        wanted = targets[:, 1:][is_reply]
        replies, sizes = kwargs["replies"], kwargs["sizes"]
        rows, slots = sizes.shape
        place = (torch.arange(rows, device=sizes.device)[:, None] * slots + replies[:, 1:])[is_reply]
        heat = 1.0 if temperatures is None else temperatures.flatten()[place][:, None]
        taken = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        head = model.get_output_embeddings()
        if is_plain and type(head) is nn.Linear:  # an adapter on it is no plain one
            hidden = model.base_model(**taken)[0][:, :-1][is_reply]
            found = log_probabilities(hidden / heat, head.weight, wanted)
        else:
            logits = original(**taken).logits[:, :-1][is_reply].float()
            found = -F.cross_entropy(logits / heat, wanted, reduction="none")
        sums = found.new_zeros(rows * slots).index_add(0, place, found)
        return CausalLMOutput(logits=sums.view(rows, slots))

    model.forward = forward
