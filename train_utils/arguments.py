"""Gives transformers' TrainingArguments the defaults of this project, and settles what depends on the machine."""

import os
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.distributed as dist
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import OptimizerNames
from transformers.utils import is_torch_tf32_available

from train_utils.plan.machine import measure_peak
from train_utils.run_options import RunOptions
from train_utils.sharding import check_sharding, parse_fsdp, settle_sharding


# What Trainer must have may be unset in RunOptions, until __post_init__ settles it.
@dataclass
class RunArguments(RunOptions, TrainingArguments):  # ty: ignore[incompatible-attribute-override, incompatible-mutable-override]
    """transformers' TrainingArguments with the defaults of this project, and what every run of ours adds."""

    def __post_init__(self) -> None:
        RunOptions.__post_init__(self)
        if self.minutes is not None:
            # The clock says when to stop and, by shares of the run, when to evaluate and save (train_utils.clock).
            self.eval_strategy = "no" if self.eval_steps < 1 else "steps"
            self.save_strategy = "no" if self.save_steps < 1 else "steps"
            self.lr_scheduler_type, self.lr_scheduler_kwargs, self.warmup_steps = "constant", None, 0
        optim = {"adamw": OptimizerNames.ADAMW_TORCH_FUSED.value}.get(self.optim, self.optim)
        # TrainingArguments knows no Muon: it is given back after the checks.
        self.optim = OptimizerNames.ADAMW_TORCH_FUSED.value if optim == "muon" else optim
        self.use_cpu = self.use_cpu or not has_accelerator()
        if self.use_liger_kernel and self.use_cpu:
            raise ValueError("--use_liger_kernel needs a GPU")
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor changes what a loss means; bits per byte need the plain one")
        if self.auto_find_batch_size:
            raise ValueError("--auto_find_batch_size changes the batch that rates and plan are for; give a smaller one")
        self.settle_precision()
        if self.tf32 is None and not self.use_cpu and is_torch_tf32_available():
            self.tf32 = True  # for what stays in float32
        self.fsdp = parse_fsdp(self.fsdp)
        check_sharding(self)
        # Layers are compiled in place (train_utils.steps.fast_model), which leaves no trace in the checkpoint.
        self.compile_layers, self.torch_compile = self.torch_compile, False
        TrainingArguments.__post_init__(self)
        settle_sharding(self)
        if accelerator_config(self).split_batches:
            raise ValueError("split_batches divides the batch; give --per_device_train_batch_size for each process")
        # One process has one GPU: torch's DataParallel would copy the model at each step, and not its fast forward.
        self._n_gpu = min(self.n_gpu, 1)
        if optim == "muon":
            self.optim = optim

    def settle_precision(self) -> None:
        """Decide in which numbers to compute: by the options, then by the launcher's, then by what is fast here."""
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.bf16 is None and not self.fp16:
            self.fp16 = launched == "fp16"
            self.bf16 = launched == "bf16" or (not self.fp16 and has_fast_bf16(self.use_cpu))
        self.bf16 = bool(self.bf16)
        if launched != "no":  # or accelerate would take that one
            os.environ["ACCELERATE_MIXED_PRECISION"] = dtype_name(self).replace("fp32", "no")


def add_trainer_options(options: type[RunOptions]) -> type[RunArguments]:
    """Return the class of RunOptions, or of a child of it, with every option of TrainingArguments."""
    if options is RunOptions:
        return RunArguments
    name = f"{options.__name__}AndTrainers"
    body = {"__module__": __name__, "__doc__": options.__doc__}
    globals()[name] = dataclass(type(name, (options, RunArguments), body))  # Trainer pickles its arguments, by name
    return globals()[name]


def accelerator_config(args: TrainingArguments) -> AcceleratorConfig:
    """Return what arguments say to accelerate; Trainer's own check has made an object of it."""
    return cast(AcceleratorConfig, args.accelerator_config)


def wait_for_all(args: TrainingArguments) -> None:
    """Wait until every process of a run is here."""
    if args.distributed_state is not None:
        args.distributed_state.wait_for_everyone()


def share_first(args: TrainingArguments, find: Callable[[], Any]) -> Any:
    """Return what `find` returns in the first process, in each process of a run."""
    box = [find() if args.process_index == 0 else None]
    if args.world_size > 1:
        dist.broadcast_object_list(box, src=0, device=args.device)
    return box[0]


def count_step_rows(args: TrainingArguments) -> int:
    """Return the rows of an optimizer step, of all processes."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def dtype_name(args: TrainingArguments) -> str:
    """Return in which numbers a run computes: bf16, fp16 or fp32."""
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"


def change_arguments(args: RunArguments, **changes: Any) -> RunArguments:
    """Return a copy of arguments with some values changed: what was parsed stays as it was parsed."""
    changed = copy(args)
    for name, value in changes.items():
        if not hasattr(args, name):
            raise AttributeError(f"{name} is no argument of a run")
        setattr(changed, name, value)
    return changed


def avoid_waiting(args: RunArguments) -> RunArguments:
    """Return arguments without what makes a run wait at every step, where the user has not asked for it.

    - `logging_nan_inf_filter` reads each loss back from the GPU, to hide one that is no number; such a run is ended
      (callbacks.StopOnDivergence).
    - A batch is copied to the GPU while it computes, so that the next one is collated meanwhile too.
    - No parameter of a language model is unused; to look for some costs a pass over all.
    """
    changes: dict[str, Any] = {}
    if "logging_nan_inf_filter" not in args.given:
        changes["logging_nan_inf_filter"] = False
    if "accelerator_config" not in args.given and args.device.type == "cuda":
        changes["accelerator_config"] = replace(accelerator_config(args), non_blocking=True)
    if args.ddp_find_unused_parameters is None:
        changes["ddp_find_unused_parameters"] = False
    return change_arguments(args, **changes)


def has_accelerator() -> bool:
    """Tell whether torch sees a GPU or another accelerator that Trainer can use."""
    return torch.accelerator.is_available()


def has_fast_bf16(use_cpu: bool) -> bool:
    """Tell whether bfloat16 is faster than float32 on the device in use.

    On a CPU with instructions for it this is measured in half a second: matrix products run 2.5 to 3 times as fast with
    AMD's avx512_bf16 and Intel's amx_bf16, and half as fast with Intel's avx512_bf16 alone. Others emulate bfloat16.
    """
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")):
        return False
    return measure_peak("cpu", "bf16", seconds=0.2) > measure_peak("cpu", "fp32", seconds=0.2)
