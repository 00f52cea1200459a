"""Heads that copy: what followed a token before is made likelier to follow it again, before any layer is trained.

Such heads (induction heads, Olsson et al. 2022) carry names and topics through a text, and form late: after 7 million
tokens a small model took as many bits for a text read twice as for one read once. So two are written down, from the
fitted embedding and head, and learned further as all is. A head of the first layer looks one token back and writes what
it sees into directions that embeddings hardly use; one of the second looks for places whose mark is the present token,
and makes the token that stands there likelier. The model's form is not touched. Measured: benchmarks/LOG.md.
"""

from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from data_utils.rows.packing import Rows
from model_utils.families import family_of
from model_utils.shapes import find_embedding, find_head
from train_utils.steps.first_fit import count_source

FAST = 3  # rotary pairs by which a head tells one token back from two; more turn too slowly
SLOW = 0.006  # radians a token: pairs that turn less are left for what a token is, wherever it stands
NORM = 15.0  # of the matrices that are written: what the first steps of Muon change does not blur them
SHARPNESS = 1.5  # gain of the norms of queries and keys
MARK = 1.5  # what the first head writes, beside what embeddings have there
STRENGTH = 0.3  # of the copy; more costs more in text without repeats than it gains in text with them


class Codes(NamedTuple):
    """What normalized embeddings have in common and where they differ, weighted by the root of their tokens' use."""

    inputs: torch.Tensor  # (V, D), what the first layer is given
    weights: torch.Tensor  # (V, 1), their sum 1
    mean: torch.Tensor  # the length of their mean
    common: torch.Tensor  # (D), the direction of their mean
    axes: torch.Tensor  # (D - 1, D), at right angles to it, those in which they differ most first
    spread: torch.Tensor  # (D - 1, 1), their deviation along each


def can_copy(model: PreTrainedModel) -> bool:
    """Tell whether a model has the parts: two layers of plain attention whose queries and keys are normalized."""
    config, decoder = model.config, model.get_decoder()
    if not family_of(config).normalizes_heads or len(decoder.layers) < 2:
        return False
    is_plain = all(layer.self_attn.sliding_window is None for layer in decoder.layers[:2])
    slow = int((decoder.rotary_emb.inv_freq < SLOW).sum())
    return is_plain and slow > 0 and len(decoder.rotary_emb.inv_freq) >= slow + FAST and config.hidden_size > 4 * slow


@torch.no_grad()
def start_copying(model: PreTrainedModel, blocks: Rows) -> None:
    """Write down the two heads of a model that was fitted to blocks of T ids (B, T), in place, if `can_copy` it."""
    decoder = model.get_decoder()
    first, second = (layer.self_attn for layer in decoder.layers[:2])
    embedding, head, size = find_embedding(decoder).weight, find_head(model).weight, first.head_dim
    codes = find_codes(embedding.float(), count_source(blocks))
    turns = decoder.rotary_emb.inv_freq
    fast = torch.arange(FAST, device=turns.device)
    slow = (turns < SLOW).nonzero()[:, 0]
    fast, slow = (torch.cat([pairs, pairs + size // 2]) for pairs in (fast, slow))

    # 1. Queries that are the same for all tokens, and keys that fit them where they stand one token before.
    part = embedding.float() @ codes.common[:, None]
    least = embedding.float().square().mean(-1, keepdim=True).sqrt() * codes.mean / 2
    embedding += (least - part).clamp_min(0) * codes.common
    query, key = torch.zeros(2, size, device=turns.device)
    query[:FAST] = 1
    key[fast] = torch.cat([turns[:FAST].cos(), turns[:FAST].sin()])
    set_heads(first, fast, *(part[fast, None] * codes.common for part in (query, key)))

    # 2. Which token that is, written where embeddings differ least; the head no longer reads there.
    count = len(slow)
    read, place = codes.axes[:count] / codes.spread[:count], codes.axes[-count:]
    mark = MARK * codes.spread[-count:].mean()
    first.v_proj.weight[:count] = read
    first.o_proj.weight[:, :count] = mark * embedding.square().mean().sqrt() * place.T
    head -= head.float() @ place.T @ place

    # 3. Queries of what a token is, keys of what stood before it, in pairs that hardly turn.
    set_heads(second, slow, read, place)

    # 4. What is found there becomes likelier: the map from inputs to rows of the head that fits best, of rank `size`.
    rows = head.float() - (codes.weights * head).sum(0)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)
    between, within = ((codes.weights * part).T @ codes.inputs for part in (rows, codes.inputs))
    within += 0.01 * within.diagonal().mean() * torch.eye(len(within), device=within.device)
    left, strengths, right = torch.linalg.svd(torch.linalg.solve(within, between, left=False))
    rank = min(size, len(strengths))
    roots = strengths[:rank].sqrt()
    second.v_proj.weight[:rank] = roots[:, None] * right[:rank]
    second.o_proj.weight[:, :rank] = STRENGTH * left[:, :rank] * roots


def find_codes(embedding: torch.Tensor, ids: np.ndarray) -> Codes:
    """Return the codes of an embedding (V, D) of tokens that are used as in a text's ids."""
    inputs = embedding / embedding.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
    uses = np.bincount(ids.reshape(-1), minlength=len(embedding)) + 1
    weights = torch.from_numpy(np.sqrt(uses / uses.sum())[:, None]).to(embedding)
    weights = weights / weights.sum()
    common = (weights * inputs).sum(0)
    mean = common.norm()
    common = common / mean
    apart = inputs - inputs @ common[:, None] * common
    apart = apart - (weights * apart).sum(0)
    # Rising; the first is the common direction, which is made to be -1: where tokens are few, others are 0 too.
    squares, axes = torch.linalg.eigh((weights * apart).T @ apart - torch.outer(common, common))
    return Codes(inputs, weights, mean, common, axes.T.flip(0)[:-1], squares.flip(0)[:-1, None].clamp_min(1e-6).sqrt())


def set_heads(attention: torch.nn.Module, places: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> None:
    """Add queries and keys (N, D) to the rows `places` (N) of an attention's first head, and sharpen them."""
    for name, rows in (("q", queries), ("k", keys)):
        weight = getattr(attention, f"{name}_proj").weight
        weight[places] += (NORM * rows / torch.linalg.matrix_norm(rows, 2)).to(weight.dtype)
        getattr(attention, f"{name}_norm").weight[places] = SHARPNESS
