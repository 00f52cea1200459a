"""Muon on the matrices and AdamW on everything else, as one optimizer that Trainer builds, schedules and resumes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from model_utils.shapes import hidden_matrices
from train_utils.steps.muon import MuonSettings, step_muon

MOMENTUM = 0.95


@dataclass(frozen=True)
class Rates:
    """Peak learning rates: Muon's for the matrices; AdamW's for embeddings, and for the head, norms and biases."""

    matrices: float
    embeddings: float
    rest: float


# Peak rates at width 256 and 4,096 tokens a step, by what embedding and head know at the start: nothing; which token
# follows which (train_utils.steps.first_fit); a language. Measured: benchmarks/LOG.md.
MUON_RATES = {"random": 0.02, "fitted": 0.02, "trained": 0.004}
ADAMW_RATES = {"random": 0.03, "fitted": 0.0045, "trained": 0.001}
FITTED_STEPS = 240  # of the run in which "fitted" was measured; shorter ones should forget less of the fit
ADAMW_SHARE = 0.2  # of Muon's rate at width 256, where AdamW trains the matrices as well


def scale_rates(width: int, batch_tokens: int, start: str = "trained", steps: int = FITTED_STEPS) -> Rates:
    """Return the peak learning rates for a model's width, the tokens of a step and the steps of the run.

    - Matrices: Muon's update has a spectral norm of 1 (times sqrt(A / B) for a tall A x B), so its rate holds for every
      width (Bernstein 2025, "Deriving Muon").
    - Embeddings, head, norms: 1 / sqrt(width), between the constant and the 1 / width of Yang et al. 2022 (muP), as
      nanochat measured. After the fit sqrt(steps), up to the rate of embeddings that know nothing: a long run has the
      time to learn better ones, a short one loses more by a high rate than it learns (measured from 60 to 960 steps).
    - All: sqrt(batch), since a gradient's noise falls with its root (Malladi et al. 2022, for Adam), up to 16 times.

    >>> scale_rates(256, 4096).matrices, round(scale_rates(1024, 16384).matrices, 3)
    (0.004, 0.008)
    >>> [round(scale_rates(256, 4096, "fitted", steps).rest, 4) for steps in (60, 960, 100_000)]
    [0.0022, 0.009, 0.03]
    """
    rate = ADAMW_RATES[start]
    if start == "fitted":
        rate = min(rate * math.sqrt(steps / FITTED_STEPS), ADAMW_RATES["random"])
    batch = math.sqrt(min(batch_tokens / 4096, 256))
    rate *= batch * math.sqrt(256 / width)
    return Rates(MUON_RATES[start] * batch, rate, rate)


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer of two: each parameter group goes to Muon or AdamW by its key `algorithm`.

    One set of groups and one state, so that schedulers and checkpoints see a single optimizer. Sources: Jordan et al.
    2024 (Muon: for hidden matrices); Loshchilov and Hutter 2019 (AdamW).
    """

    def __init__(self, groups: list[dict]) -> None:
        groups = [group for group in groups if group["params"]]
        adamw = [group for group in groups if group["algorithm"] == "adamw"]
        self._adamw = torch.optim.AdamW(adamw, fused=True) if adamw else None
        adamw = self._adamw.param_groups if self._adamw else []
        super().__init__([*(group for group in groups if group["algorithm"] == "muon"), *adamw], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters from their gradients."""
        for group in self.param_groups:
            if group["algorithm"] == "muon":
                self.step_matrices(group)
        if self._adamw:
            # Linked at every step, since loading a checkpoint replaces the groups.
            self._adamw.param_groups = [group for group in self.param_groups if group["algorithm"] == "adamw"]
            self._adamw.state = self.state
            self._adamw.step()

    def step_matrices(self, group: dict) -> None:
        """Update the matrices of a group, those of one shape together."""
        shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        dtype = torch.bfloat16 if group["bf16"] else torch.float32
        transposed = group.get("transposed", False)  # which a checkpoint of an earlier version lacks
        for (rows, columns), parameters in shapes.items():
            for parameter in parameters:
                if not self.state[parameter]:
                    is_tall = rows > columns or (rows == columns and not transposed)
                    shape = (rows, 1) if is_tall else (1, columns)
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                    self.state[parameter]["scale"] = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
            states = [self.state[parameter] for parameter in parameters]
            momenta, scales = ([state[name] for state in states] for name in ("momentum_buffer", "scale"))
            settings = MuonSettings(group["lr"], group["momentum"], group["weight_decay"], dtype, transposed)
            step_muon(parameters, momenta, scales, settings)


def muon_adamw(
    model: PreTrainedModel,
    rates: Rates,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
    bf16: bool = False,
) -> MuonAdamW:
    """Build MuonAdamW for a model: 2-D weights outside embeddings and head go to Muon, the rest to AdamW.

    Args:
        weight_decay: decoupled decay of the matrices; embeddings, norms and biases have none.
        bf16: orthogonalise in bfloat16, where that is fast.
    """
    inputs = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    # GPT-2's layers keep their weights as (inputs, outputs), where nn.Linear has (outputs, inputs).
    turned = {id(module.weight) for module in model.modules() if isinstance(module, Conv1D)}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in hidden_matrices(model) if p.requires_grad]
    apart = inputs | {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in apart]
    adamw = {"algorithm": "adamw", "weight_decay": 0.0, "betas": betas, "eps": epsilon}
    muon = {"algorithm": "muon", "weight_decay": weight_decay, "momentum": MOMENTUM, "bf16": bf16}
    muon["lr"] = rates.matrices
    return MuonAdamW(
        [
            {**muon, "transposed": False, "params": [p for p in matrices if id(p) not in turned]},
            {**muon, "transposed": True, "params": [p for p in matrices if id(p) in turned]},
            {**adamw, "lr": rates.embeddings, "params": [p for p in trained if id(p) in inputs]},
            {**adamw, "lr": rates.rest, "params": rest},
        ]
    )


def choose_rates(args, model: PreTrainedModel, *, start: str, batch_tokens: int, steps: int) -> Rates:
    """Return the rates of a run of so many steps: by `scale_rates`, replaced by what the user gave.

    `--learning_rate` is AdamW's for all that it trains. Without Muon AdamW trains the matrices as well, which bear the
    width less: its rate falls as 1 / width (Yang et al. 2022).
    """
    width = model.config.get_text_config(decoder=True).hidden_size
    rates, given = scale_rates(width, batch_tokens, start, steps), args.learning_rate
    if args.optim != "muon":
        rate = given if given is not None else ADAMW_SHARE * rates.matrices * 256 / width
        return Rates(rate, rate, rate)
    matrices = args.matrix_learning_rate if args.matrix_learning_rate is not None else rates.matrices
    return Rates(matrices, *((given, given) if given is not None else (rates.embeddings, rates.rest)))


def optimizer_factory(args, rates: Rates) -> tuple[Callable, dict] | None:
    """Return what Trainer's `optimizer_cls_and_kwargs` takes for `--optim muon`; None for Trainer's own optimizers."""
    if args.optim != "muon":
        return None
    kwargs = {
        "rates": rates,
        "weight_decay": args.weight_decay,
        "betas": (args.adam_beta1, args.adam_beta2),
        "epsilon": args.adam_epsilon,
        "bf16": args.bf16,
    }
    return (lambda: muon_adamw), kwargs
