"""The options of a run that are set most often; light to import, so that --help and mistakes need no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from options import Options, option, refuse_useless

REPLACED_BY_CLOCK = {
    "max_steps", "num_train_epochs", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "eval_strategy",
    "save_strategy",
}  # fmt: skip
# (Option, its values, which options have no effect with them.)
WITHOUT_EFFECT = [
    ("eval_strategy", {"no"}, {"eval_steps", "eval_tokens"}),
    ("eval_strategy", {"epoch"}, {"eval_steps"}),
    ("save_strategy", {"no", "epoch"}, {"save_steps"}),
    ("lr_scheduler_type", {"constant"}, {"warmup_steps"}),
    ("optim", {"sgd", "adafactor", "rmsprop", "adagrad"}, {"adam_beta1", "adam_beta2"}),
]
EVAL_TOKENS = 32768  # of each language
EVAL_COST = 1 / 3  # of a token that is measured, in tokens that are trained


@dataclass
class RunOptions(Options):
    """What is set most often of the 130 options of TrainingArguments, with the defaults of this project, and ours."""

    output_dir: str = option("ckpt", "Folder of the checkpoint, its report and its curves")
    minutes: float | None = option(
        None, "The best model of so many minutes, all told; replaces steps", within=(0.1, 1e6)
    )
    plan_only: bool = option(False, "Print the plan and leave", needs="--minutes or --devices")
    max_steps: int = option(-1, "Optimizer steps of the run; -1: by --num_train_epochs")
    num_train_epochs: float = option(3.0, "How often the run sees each row, instead of --max_steps")
    learning_rate: float | None = option(None, "Peak rate of AdamW; unset: by the width and the batch", within=(0, 100))
    matrix_learning_rate: float | None = option(None, "Peak rate of Muon; unset: by the batch", within=(0, 100))
    optim: str = option("muon", "muon (AdamW beside the matrices), adamw, sgd, or any that Trainer knows")
    per_device_train_batch_size: int = option(
        8, "Rows of a pass of each process; with --minutes by the plan", within=(1, 2**32)
    )
    gradient_accumulation_steps: int = option(1, "Passes of a step; with --minutes by the plan", within=(1, 2**32))
    warmup_steps: float = option(0, "Steps in which the learning rate rises; below 1: share of the run")
    lr_scheduler_type: str = option("warmup_stable_decay", "Learning-rate schedule, by Trainer's names")
    decay_share: float = option(0.65, "Last share of the run, in which the rate falls to zero", within=(0, 1))
    weight_decay: float = option(0.0, "Decoupled decay of the matrices, times the rate")
    max_grad_norm: float = option(1.0, "Norm to which the gradients are cut; 0: never")
    bf16: bool | None = option(None, "Compute in bfloat16; unset: where the processor or GPU is faster with it")
    torch_compile: bool | None = option(None, "Compile the layers; unset: where the run is long enough to repay it")
    activation_checkpointing: bool | None = option(None, "Compute activations twice: less memory, slower")
    use_liger_kernel: bool = option(False, "Liger's GPU kernels instead of compiled layers; needs liger-kernel")
    eval_strategy: str = option("steps", "When to evaluate: no, steps (--eval_steps heeded then alone) or epoch")
    eval_steps: float = option(0.25, "Steps between evaluations; below 1: share of the run", within=(1e-6, 2**31))
    eval_tokens: int | None = option(
        None, "Held-out tokens a language; unset: 32,768, fewer in a short run", within=(1, 2**62)
    )
    save_steps: float = option(0.25, "Steps between checkpoints; below 1: share of the run", within=(1e-6, 2**31))
    save_seconds: float | None = option(None, "Seconds between checkpoints: what a crash may cost", within=(1, 2**31))
    save_total_limit: int | None = option(2, "How many resumable checkpoints are kept")
    logging_steps: float = option(10, "Steps between two values of the curves")
    report_to: str = option("tensorboard", "tensorboard, wandb, ..., or none")
    resume_from_checkpoint: str | None = option(None, "true: go on from the last checkpoint, if any; or its path")
    overwrite: bool = option(False, "Replace a different run that --output_dir holds")
    seed: int = option(42, "Seed of weights, order and samples", within=(0, 2**32))
    use_cpu: bool = option(False, "Train on the CPU even where there is a GPU")

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                "--save_total_limit must be 2 or more: while one checkpoint is written another must be whole"
            )
        if self.use_liger_kernel:
            if self.torch_compile:
                raise ValueError("--use_liger_kernel and --torch_compile both replace the layers; leave out one")
            if find_spec("liger_kernel") is None:
                raise ValueError("--use_liger_kernel needs a package: pip install liger-kernel")

    def check_typed(self, typed: set[str]) -> None:
        """Raise ValueError or InputError for one of the command line that another replaces; a recipe may hold any.

        Epochs of the command line replace a recipe's steps.
        """
        if self.minutes is not None:
            refuse_useless(typed, REPLACED_BY_CLOCK, "with --minutes, which sets it; leave out one of the two")
            if self.logging_steps < 1:
                raise ValueError(
                    f"--logging_steps {self.logging_steps:g} is below 1; --minutes needs a number of steps"
                )
        elif "num_train_epochs" in typed and self.max_steps > 0:
            if "max_steps" in typed:
                refuse_useless(typed, {"num_train_epochs"}, "with --max_steps; leave out one of the two")
            self.max_steps = -1
        for name, values, useless in WITHOUT_EFFECT:
            value = getattr(self, name, None)  # save_strategy is Trainer's, which isn't imported for --help
            value = getattr(value, "value", value)
            if value in values and not (self.minutes is not None and name in REPLACED_BY_CLOCK):
                refuse_useless(typed, useless, f"with --{name} {value}; leave out one of the two")
        if self.overwrite and (self.resume_from_checkpoint or "false").lower() != "false":
            raise ValueError("--overwrite true begins anew, --resume_from_checkpoint goes on; leave out one of the two")
        if "matrix_learning_rate" in typed and self.optim != "muon":
            raise ValueError(f"--matrix_learning_rate is Muon's; --optim {self.optim} has --learning_rate alone")
        if self.minutes is None and self.lr_scheduler_type != "warmup_stable_decay":
            refuse_useless(typed, {"decay_share"}, f"with --lr_scheduler_type {self.lr_scheduler_type}")

    def count_eval_tokens(self, languages: int, run_tokens: float) -> int:
        """Return how many tokens of each language an evaluation measures: so many that all cost 3% of the training.

        Fewer than 4,096 in all would tell nothing.
        """
        if self.eval_tokens is not None:
            return self.eval_tokens
        by_share = self.eval_steps < 1 and (self.minutes is not None or self.eval_strategy == "steps")
        step = self.eval_steps if by_share else 0.25  # else the user's own business
        count = math.ceil(1 / step) + getattr(self, "eval_on_start", False)
        return min(EVAL_TOKENS, max(4096, int(0.03 * run_tokens / EVAL_COST / count)) // languages)


@dataclass
class TuneOptions(RunOptions):
    """How a pretrained model is trained further."""

    output_dir: str = option("ckpt_chat", "Folder of the checkpoint, its report and curves")
    eval_on_start: bool = option(True, "Measure before training too, to compare")


@dataclass
class LoraOptions(Options):
    """Low-rank adapters instead of all weights."""

    lora: bool = option(False, "Train low-rank adapters; writes adapter/ and the merged model")
    lora_rank: int = option(16, "Rank r of the adapters", needs="--lora true", within=(1, 2**20))
    lora_alpha: int = option(32, "Scale of the adapters: alpha / r", needs="--lora true")
    lora_targets: str = option("all-linear", "Modules that get one, by name, comma-separated", needs="--lora true")

    @property
    def adapt(self) -> Callable[..., Any] | None:
        """What gives a model its adapters, if it gets some."""
        from train_utils.adapters import add_adapters

        how = {"rank": self.lora_rank, "alpha": self.lora_alpha, "targets": self.lora_targets}
        return partial(add_adapters, **how) if self.lora else None
