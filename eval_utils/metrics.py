"""Measures held-out text by an `evaluate.Metric` of ours: `evaluate.load` needs the network."""

import math
from typing import Any

import datasets
import evaluate
import numpy as np
import torch
from transformers import EvalPrediction

SAMPLE_ROWS = 256


class TokenFigures(evaluate.Metric):
    """Loss and its exponential, accuracy, and bits per byte of text, comparable across tokenizers.

    Of each token its `nats`, 1 where it was predicted `right`, and the `bytes` of text that it stands for: special
    tokens stand for none, and don't count among bits per byte.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(dict.fromkeys(("nats", "right", "bytes"), datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="", features=features
        )

    def _compute(self, *, nats: Any = None, right: Any = None, bytes: Any = None, **_) -> dict[str, float]:
        nats, sizes, loss = np.asarray(nats), np.asarray(bytes), float(np.mean(nats))
        bits_per_byte = float(nats[sizes > 0].sum() / math.log(2) / max(sizes.sum(), 1))
        figures = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits_per_byte}
        return {**figures, "accuracy": float(np.mean(right))}


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits (B, T, V) to each token's loss in nats and whether it was predicted: (B, T - 1, 2).

    So Trainer neither gathers nor keeps the tensor of the vocabulary's size. A token without a label gets what id 0
    would have.
    """
    logits, targets = logits[:, :-1].float(), labels[:, 1:].long().clamp_min(0)
    nats = logits.logsumexp(-1) - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.stack([nats, (logits.argmax(-1) == targets).float()], dim=-1)


def make_compute_metrics(byte_counts: list[int]):
    """Return Trainer's `compute_metrics`: loss, accuracy, perplexity and bits per byte from `token_losses`.

    The loss takes the place of Trainer's own, which is the mean over batches of each batch's mean: another figure where
    rows differ in their number of labels, or batches in their number of rows.

    `byte_counts` holds for each id how many bytes of text it stands for.
    """
    sizes = np.asarray(byte_counts, dtype=np.float64)

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        labels = np.asarray(evaluated.label_ids)[:, 1:]
        counted = labels != -100
        nats, right = (np.asarray(evaluated.predictions)[..., i][counted].astype(np.float64) for i in (0, 1))
        return TokenFigures().compute(nats=nats, right=right, bytes=sizes[labels[counted]]) or {}

    return compute_metrics


def bytes_per_label(rows: Any, byte_counts: list[int]) -> float:
    """Return how many bytes of text a token that is trained stands for, from SAMPLE_ROWS rows of T tokens.

    They are spread evenly over all: a Dataset, and what is made of one, holds one source after another.
    """
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_ROWS), dtype=int)
    taken = (rows[int(number)] for number in chosen)
    labels = [np.asarray(row.get("labels", row["input_ids"]))[1:] for row in taken]
    labels = np.concatenate([np.empty(0, np.int64), *labels])
    labels = labels[labels != -100]
    return float(np.asarray(byte_counts)[labels].sum() / max(labels.size, 1)) or 1.0
