"""Muon on the matrices and AdamW on everything else, as one optimizer that Trainer builds, schedules and resumes."""

from collections.abc import Callable

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """One optimizer of two: each parameter group goes to Muon or AdamW by its key `algorithm`.

    One set of groups and one state, so that schedulers and checkpoints see a single optimizer. Sources: Jordan et al.
    2024 (Muon: momentum, orthogonalised by Newton-Schulz, for hidden matrices); Loshchilov and Hutter 2019 (AdamW).
    """

    def __init__(self, groups: list[dict]) -> None:
        self._inner = {
            "muon": torch.optim.Muon([g for g in groups if g["algorithm"] == "muon"], momentum=0.95),
            "adamw": torch.optim.AdamW([g for g in groups if g["algorithm"] == "adamw"], fused=True),
        }
        super().__init__([group for inner in self._inner.values() for group in inner.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Update all parameters from their gradients."""
        for name, inner in self._inner.items():
            # Linked at every step, since loading a checkpoint replaces the groups.
            inner.param_groups = [group for group in self.param_groups if group["algorithm"] == name]
            inner.state = self.state
            inner.step()


def muon_adamw(
    model: nn.Module,
    matrix_learning_rate: float,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
) -> MuonAdamW:
    """Build MuonAdamW for a model: 2-D weights outside embeddings and head go to Muon, the rest to AdamW.

    Args:
        matrix_learning_rate: Muon's peak rate; the update's spectral norm is about 1, so it holds for any width.
        learning_rate: AdamW's peak rate for embeddings, head, norms and biases.
        weight_decay: decoupled decay of the matrices; embeddings, norms and biases have none.
    """
    apart = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    head = model.get_output_embeddings()
    if head is not None:
        apart |= {id(p) for p in head.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in apart]
    rest = [p for p in trained if p.ndim != 2 or id(p) in apart]
    adamw = {"algorithm": "adamw", "lr": learning_rate, "weight_decay": 0.0, "betas": betas, "eps": epsilon}
    muon = {"algorithm": "muon", "lr": matrix_learning_rate, "weight_decay": weight_decay}
    return MuonAdamW([{**muon, "params": matrices}, {**adamw, "params": rest}])


def optimizer_factory(args) -> tuple[Callable, dict] | None:
    """Return what Trainer's `optimizer_cls_and_kwargs` takes for `--optim muon`; None for Trainer's own optimizers."""
    if args.optim != "muon":
        return None
    kwargs = {
        "matrix_learning_rate": args.matrix_learning_rate,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "betas": (args.adam_beta1, args.adam_beta2),
        "epsilon": args.adam_epsilon,
    }
    return (lambda: muon_adamw), kwargs
