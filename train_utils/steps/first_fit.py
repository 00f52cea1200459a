"""A head start: embedding and head fitted to which token follows which, before the layers are trained.

The layers begin as the identity, so a new model is its embedding, last norm and head alone: a table of bigrams of rank
D. Fitted to counts, each step learns from millions of tokens at the cost of a thousand: seconds instead of the first
tenth of a short run (measured: benchmarks/LOG.md). The model's form is not touched.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import PreTrainedModel

from data_utils.rows.packing import Rows
from model_utils.families import family_of
from model_utils.shapes import find_embedding, find_head
from train_utils.steps.fast_model import has_plain_head

STEPS, CONTEXTS, RATE = 40, 1024, 0.03
MAX_TOKENS = 4_000_000  # of text that are counted
SMOOTHING = 2.0  # pseudo-counts of the plain frequencies, for contexts that are rare


def find_last_norm(model: PreTrainedModel) -> torch.nn.Module | None:
    """Return the norm before a model's head; None where bigrams can't be fitted, the head being tied or scaled."""
    decoder = model.get_decoder()
    norm = getattr(decoder, family_of(model.config).last_norm, None)
    tied = find_embedding(decoder).weight is find_head(model).weight
    return norm if norm is not None and not tied and has_plain_head(model) else None


def fit_bigrams(model: PreTrainedModel, norm: torch.nn.Module, blocks: Rows, bf16: bool, steps: int = STEPS) -> float:
    """Fit embedding and head of a new model, in place, to the pairs of tokens in blocks of T ids (B, T).

    `norm` is what `find_last_norm` found. An encoder begins with the embedding of its decoder. Returns the loss in nats
    a token of the last step.
    """
    embedding, head = find_embedding(model.get_decoder()).weight, find_head(model).weight
    device, size = embedding.device, embedding.shape[0]
    starts, following, uses = sort_pairs(count_source(blocks), size)
    unigram = torch.bincount(following, minlength=size).float() + 1
    unigram = (unigram / unigram.sum()).to(device)
    chance = uses.float().sqrt() + 0.1  # rare contexts are drawn more often than they are used, and weigh less
    optimizer = torch.optim.AdamW([embedding, head], lr=RATE, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    contexts = max(64, min(CONTEXTS, size // 2, 2**24 // size))
    loss = torch.tensor(math.nan)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 3) * (1 - step / steps)
        rows = torch.multinomial(chance, contexts, generator=generator)
        weights = (uses[rows] / chance[rows]).to(device)
        # All pairs of the drawn contexts: their numbers in `following`, and which row each belongs to.
        counts = uses[rows]
        places = torch.repeat_interleave(starts[rows] - counts.cumsum(0) + counts, counts) + torch.arange(
            int(counts.sum())
        )
        owners = torch.repeat_interleave(torch.arange(contexts), counts)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = F.linear(norm(F.embedding(rows.to(device), embedding)), head).float()
        flat = (owners * size + following[places]).to(device)
        seen = torch.zeros(contexts, device=device).index_add(0, owners.to(device), logits.flatten()[flat])
        total = counts.to(device) + SMOOTHING
        nats = logits.logsumexp(-1) - (seen + SMOOTHING * (logits @ unigram)) / total
        loss = nats @ weights / weights.sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.zero_grad()
    with torch.no_grad():
        find_embedding(model).weight.copy_(embedding)
    return loss.item()


def count_source(blocks: Rows) -> np.ndarray:
    """Return blocks (B, T) of at most MAX_TOKENS, taken evenly from all."""
    every = max(1, math.ceil(len(blocks) * len(blocks[0]["input_ids"]) / MAX_TOKENS))
    rows = blocks.with_format("numpy") if isinstance(blocks, Dataset) else blocks
    return np.stack([rows[number]["input_ids"] for number in range(0, len(rows), every)])


def sort_pairs(blocks: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens that follow each token, grouped: where each group starts, all followers, each group's length.

    >>> sort_pairs(np.array([[1, 0, 1, 2]]), 3)
    (tensor([0, 1, 3]), tensor([1, 0, 2]), tensor([1, 2, 0]))
    """
    first, second = (torch.from_numpy(part.reshape(-1).astype(np.int64)) for part in (blocks[:, :-1], blocks[:, 1:]))
    uses = torch.bincount(first, minlength=size)
    return uses.cumsum(0) - uses, second[first.argsort(stable=True)], uses
