"""How a run is trained: TrainingArguments with the defaults of this project."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from options import check_range

REPLACED_BY_CLOCK = {
    "max_steps", "num_train_epochs", "warmup_steps", "lr_scheduler_type", "eval_strategy", "save_strategy",
}  # fmt: skip


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with the defaults of this project, and what every run of ours adds."""

    # Shown first by --help: what is set most often of the 130 options of TrainingArguments.
    COMMON: ClassVar[list[str]] = [
        "output_dir", "minutes", "plan_only", "max_steps", "num_train_epochs", "learning_rate", "matrix_learning_rate",
        "optim", "per_device_train_batch_size", "gradient_accumulation_steps", "warmup_steps", "lr_scheduler_type",
        "decay_share", "weight_decay", "max_grad_norm", "bf16", "torch_compile", "eval_steps", "save_steps",
        "logging_steps", "resume_from_checkpoint", "overwrite", "seed", "use_cpu",
    ]  # fmt: skip

    output_dir: str = field(default="ckpt", metadata={"help": "Folder of the checkpoint, its report and its curves"})
    optim: str = field(
        default="muon",
        metadata={"help": "muon (Muon on matrices, AdamW on the rest), adamw, sgd, or any name that Trainer knows"},
    )
    minutes: float | None = field(
        default=None, metadata={"help": "Train the best model of so many minutes, from start to end; replaces steps"}
    )
    plan_only: bool = field(default=False, metadata={"help": "Print the plan and leave; needs --minutes"})
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of AdamW; unset: by the model's width and the batch"}
    )
    matrix_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of Muon on the matrices; unset: by the batch"}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Compute in bfloat16; unset: where the processor or GPU is faster with it"}
    )
    torch_compile: bool | None = field(
        default=None, metadata={"help": "Compile the layers; unset: where the run is long enough to repay it"}
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "true: go on from the last complete checkpoint, if there is any; or the path of one"},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace a different run that --output_dir holds"})
    eval_strategy: str = field(default="steps", metadata={"help": "When to evaluate: no, steps or epoch"})
    eval_steps: float = field(default=0.25, metadata={"help": "Steps between evaluations; below 1: share of the run"})
    save_steps: float = field(default=0.25, metadata={"help": "Steps between checkpoints; below 1: share of the run"})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many resumable checkpoints are kept"})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two values of the curves"})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, wandb, ..., or none"})
    lr_scheduler_type: str = field(
        default="warmup_stable_decay", metadata={"help": "Learning-rate schedule, by Trainer's names"}
    )
    decay_share: float = field(
        default=0.65, metadata={"help": "Last share of the run, in which the rate falls to zero (warmup_stable_decay)"}
    )

    def __post_init__(self) -> None:
        for name, low in (("seed", 0), ("gradient_accumulation_steps", 1), ("per_device_train_batch_size", 1)):
            check_range(name, getattr(self, name), low, 2**32)
        for name in ("learning_rate", "matrix_learning_rate"):
            check_range(name, getattr(self, name) or 0, 0, 100)
        check_range("decay_share", self.decay_share, 0, 1)
        if self.plan_only and self.minutes is None:
            raise ValueError("--plan_only needs --minutes, of which it prints the plan")
        if self.minutes is not None:
            check_range("minutes", self.minutes, 0.1, 1e6)
            # The clock says when to evaluate, save and stop (train_utils.clock).
            self.eval_strategy = self.save_strategy = "no"
            self.lr_scheduler_type, self.warmup_steps = "constant", 0
        optim = {"adamw": OptimizerNames.ADAMW_TORCH_FUSED.value}.get(self.optim, self.optim)
        # TrainingArguments knows no Muon: it is given back after the checks.
        self.optim = OptimizerNames.ADAMW_TORCH_FUSED.value if optim == "muon" else optim
        self.use_cpu = self.use_cpu or not has_accelerator()
        if self.bf16 is None:
            self.bf16 = not self.fp16 and has_fast_bf16(self.use_cpu)
        # Layers are compiled in place (train_utils.model), which leaves no trace in the checkpoint.
        self.compile_layers, self.torch_compile = self.torch_compile, False
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                "--save_total_limit must be 2 or more: while one checkpoint is written another must be whole"
            )
        super().__post_init__()
        if optim == "muon":
            self.optim = optim
        self.embeddings = "trained"  # what they know at the start: train.py says where it is less

    def check_typed(self, typed: set[str]) -> None:
        """Raise ValueError for an option of the command line that --minutes replaces; a recipe may hold any."""
        replaced = sorted(typed & REPLACED_BY_CLOCK) if self.minutes is not None else []
        if replaced:
            raise ValueError(f"--{replaced[0]} has no effect with --minutes, which sets it; leave out one of the two")


def has_accelerator() -> bool:
    """Tell whether torch sees a GPU or another accelerator that Trainer can use."""
    return torch.accelerator.is_available()


def has_fast_bf16(use_cpu: bool) -> bool:
    """Tell whether bfloat16 is faster than float32 on the device in use; by its instructions, not by a guess.

    On a CPU with avx512_bf16 or amx_bf16 matrix products run 2.5 to 3 times as fast; on others bfloat16 is emulated.
    """
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
