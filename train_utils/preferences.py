"""Learning from preferences: the loss of pairs and of likes and dislikes, its figures, and when it has gone far enough.

Sources: DPO (Rafailov et al. 2023) with the likelihood of the chosen reply beside it, against its fall (Pang et al.
2024), smoothed labels (Mitchell 2023), log-probabilities by length (Meng et al. 2024; Lambert et al. 2024); KTO for
likes and dislikes alone (Ethayarajh et al. 2024).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback

from data_utils.caching import cache_key, generate_rows
from data_utils.rows.preferences import NUMBERS, collate_pairs
from model_utils.shapes import evaluating
from train_utils.callbacks import show_line
from train_utils.finishing import is_evaluation
from train_utils.run import Run

# AdamW's peak at width 256.
PAIRS_RATE = 1e-4
ROUNDS_RATE = 2e-4
MAX_FALL = 0.02


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of preferences, of what `score_replies` returns; Trainer's `compute_loss_func`.

    `beta` is how much a nat of likelihood against the reference counts; `sft_weight` that of the chosen reply's own
    loss; `label_smoothing` the share of pairs that are believed to be the other way round; `by_length` divides
    log-probabilities by the reply's tokens.

    Each pair counts once, whatever batch, accumulation or process it is in. KTO's reference point stays at 0, where it
    begins, since the model begins as the reference: an estimate of it would depend on the batch.
    """

    beta: float = 0.1
    sft_weight: float = 1.0
    label_smoothing: float = 0.0
    by_length: bool = False

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
        """Return the loss of a batch: `outputs.logits` (B, S), `labels` (B, S / 2, 6) as `collate_pairs` makes them."""
        losses = self.pair_losses(outputs.logits.float().view(*labels.shape[:2], 2), labels)
        is_there = labels[..., 2:4].sum(-1) > 0
        items = is_there.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return losses.sum() / items

    def pair_losses(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss (B, S / 2) of each pair, 0 where there is none, of log-probabilities (B, S / 2, 2)."""
        sizes, weights = labels[..., 2:4], labels[..., 5]
        rewards = self.rewards(scores, labels)
        margins = rewards[..., 0] - rewards[..., 1]
        smoothing = self.label_smoothing
        of_pairs = -(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins)
        of_singles = torch.where(sizes[..., 0] > 0, torch.sigmoid(-rewards[..., 0]), torch.sigmoid(rewards[..., 1]))
        losses = torch.where((sizes > 0).all(-1), of_pairs, of_singles)
        likelihood = scores[..., 0] / sizes[..., 0].clamp_min(1)
        return weights * (losses - self.sft_weight * likelihood)

    def rewards(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return beta times what log-probabilities (B, S / 2, 2) have gained against the reference."""
        gained = scores - labels[..., :2]
        return self.beta * (gained / labels[..., 2:4].clamp_min(1) if self.by_length else gained)

    def measure(self, evaluated: EvalPrediction) -> dict[str, float]:
        """Return the figures of an evaluation: Trainer's `compute_metrics`.

        The loss; the reward's margin, and the share of pairs in which chosen beats rejected; nats a token of chosen and
        rejected replies; bits that a byte of the chosen ones takes.
        """
        labels = torch.from_numpy(np.asarray(evaluated.label_ids))
        scores = torch.from_numpy(np.asarray(evaluated.predictions)).float().view(*labels.shape[:2], 2)
        sizes, weights = labels[..., 2:4], labels[..., 5]
        is_pair, is_there = (sizes > 0).all(-1), sizes.sum(-1) > 0
        margins = (rewards := self.rewards(scores, labels))[..., 0] - rewards[..., 1]
        figures = {"loss": (self.pair_losses(scores, labels)[is_there].sum() / is_there.sum()).item()}
        if is_pair.any():
            figures |= {"preference_accuracy": (margins[is_pair] > 0).double().mean().item()}
            figures |= {"reward_margin": margins[is_pair].mean().item()}
        for side, name in enumerate(("chosen", "rejected")):
            if (has := sizes[..., side] > 0).any():
                figures[f"{name}_nats"] = -(scores[..., side][has].sum() / sizes[..., side][has].sum()).item()
        if (size := labels[..., 4].sum()) > 0:
            chosen = scores[..., 0][(sizes[..., 0] > 0) & (weights > 0)].sum()
            figures["bits_per_byte"] = -(chosen / np.log(2) / size).item()
        return figures


def add_references(rows: Dataset, model: PreTrainedModel, *, key: str, batch_rows: int, bf16: bool) -> Dataset:
    """Return the rows with `references`: the log-probabilities (S) that the model gives now, computed once and kept.

    Args:
        model: that `score_replies` was applied to; it becomes the reference. key: what changes when its weights do.
        batch_rows: rows of a pass. bf16: as in the training, so that the model begins at its reference.
    """

    def compute():
        found = score_rows(rows.with_format("numpy"), model, batch_rows, bf16)
        yield from ({"references": scores} for scores in found)

    found = generate_rows(
        compute, Features({"references": NUMBERS}), cache_key("references", key, rows._fingerprint, bf16)
    )
    return concatenate_datasets([rows, found], axis=1)


def score_rows(rows: Any, model: PreTrainedModel, batch_rows: int = 1, bf16: bool = False) -> Iterator[np.ndarray]:
    """Yield the log-probabilities (S) of the replies of each row under a model that `score_replies` was applied to."""
    own = torch.Generator()  # not the run's: adapters are drawn afterwards, and alike where the cache has these
    loader = DataLoader(rows, batch_size=batch_rows, collate_fn=collate_pairs, generator=own)
    names = ("input_ids", "position_ids", "targets", "replies", "sizes")
    with evaluating(model), torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        for batch in loader:
            yield from model(**{name: batch[name].to(model.device) for name in names}).logits.float().cpu().numpy()


def copy_trained(model: Any) -> list[torch.Tensor]:
    """Return copies of the weights that are trained."""
    return [weight.detach().clone() for weight in model.parameters() if weight.requires_grad]


class StopOnFall(TrainerCallback):
    """Ends a training where the held-out likelihood of chosen, or true, replies has fallen by more than a share: the
    model talks worse than it did, whatever it prefers. Weights and figures go back to the evaluation before.
    """

    def __init__(self, max_fall: float) -> None:
        self.max_fall, self.fell = max_fall, False
        self.good: tuple[int, list[torch.Tensor]] = (0, [])  # step and trained weights of the last good evaluation
        self.measured = self.good  # and of the last one

    def on_train_begin(self, args, state, control, model: Any = None, **kwargs):
        """Keep the weights that the run begins with, or goes on with."""
        self.good = self.measured = state.global_step, copy_trained(model)

    def on_train_end(self, args, state, control, model: Any = None, **kwargs):
        """Go back, where the run was stopped for a fall."""
        if not self.fell:
            return
        step, weights = self.good
        trained = (weight for weight in model.parameters() if weight.requires_grad)
        with torch.no_grad():
            for weight, kept in zip(trained, weights, strict=True):
                weight.copy_(kept)
        state.log_history[:] = [one for one in state.log_history if one["step"] <= step or not is_evaluation(one)]
        if state.is_world_process_zero:
            show_line(None, f"went back to the weights of step {step}; a lower --learning_rate may go further")

    def on_evaluate(self, args, state, control, metrics=None, model: Any = None, **kwargs):
        """Compare with the first evaluation of the run, which its log holds."""
        if state.global_step != self.measured[0]:
            self.good, self.measured = self.measured, (state.global_step, copy_trained(model))
        for name, value in (metrics or {}).items():
            is_held_out = name.endswith("bits_per_byte") and "training" not in name
            if not is_held_out or self.fell:
                continue
            first = next((entry[name] for entry in state.log_history if name in entry), value)
            if value > first * (1 + self.max_fall):
                control.should_training_stop = self.fell = True
                if state.is_world_process_zero:
                    part = name.removeprefix("eval_").removesuffix("_bits_per_byte")
                    fall = f"held-out {part} replies take {value / first - 1:.1%} more bits than before"
                    show_line(None, f"step {state.global_step}: stopped, since {fall} (--max_fall)")


def stop_on_fall(max_fall: float | None, *, has_reward: bool) -> list[TrainerCallback]:
    """Return what ends a training at a fall; where none is given, none with a reward of the user's own.

    Such a reward may ask for other replies than the true ones: of sums, more came out right while wrong answers, surer
    than before, made the true ones less likely.
    """
    limit = None if max_fall is None and has_reward else MAX_FALL if max_fall is None else max_fall
    return [] if limit is None else [StopOnFall(limit)]


def choose_preference_rate(run: Run, model: PreTrainedModel, *, draws: bool) -> Run:
    """Return a run with the learning rate of preferences, where the user gave none; it falls as 1 / width.

    Source: Yang et al. 2022.

    Args:
        draws: whether the model learns from its own replies.
    """
    rate = (ROUNDS_RATE if draws else PAIRS_RATE) * 256 / model.config.hidden_size
    return run if run.args.learning_rate is not None else run.change(learning_rate=rate)
