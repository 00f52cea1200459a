"""Shards a model over processes by Accelerate's FSDP2, on CPUs too, and refuses by name what can't be done here."""

import os
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from errors import InputError, RunError
from train_utils.steps.fast_model import decoder_layers

SHARDED_WEIGHTS = "pytorch_model_fsdp"  # how a name in a sharded checkpoint begins: accelerate's FSDP_MODEL_NAME

ENDS = ("get_input_embeddings", "get_output_embeddings")


def is_on(variable: str) -> bool:
    """Tell whether `accelerate launch` has set a switch for this process."""
    return os.environ.get(variable, "").lower() in ("true", "1")


def is_sharded(args: TrainingArguments) -> bool:
    """Tell whether a run shards its model by FSDP: by `--fsdp`, or by accelerate's configuration."""
    return bool(args.fsdp) or is_on("ACCELERATE_USE_FSDP")


def is_split(trainer: Trainer) -> bool:
    """Tell whether no process holds a Trainer's model whole: by FSDP or DeepSpeed, none can ask it alone."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def is_deepspeed(args: TrainingArguments) -> bool:
    """Tell whether a run is by DeepSpeed: by `--deepspeed`, or by accelerate's configuration."""
    return bool(args.deepspeed) or is_on("ACCELERATE_USE_DEEPSPEED")


def is_alone(args: TrainingArguments) -> bool:
    """Tell whether one process does a run by itself and holds its model whole."""
    return args.world_size == 1 and not is_sharded(args) and not is_deepspeed(args)


def parse_fsdp(value: Any) -> Any:
    """Return what `--fsdp` says as Trainer takes it, None for false; raise ValueError for what is neither."""
    words = str(value or "false").lower()
    if words not in ("true", "false", "full_shard", "full_shard auto_wrap"):
        raise ValueError(f"--fsdp {value}: is neither true nor false; all else goes to --fsdp_config")
    return None if words == "false" else True


def check_sharding(args: Any) -> None:
    """Raise ValueError that names what was asked and can't be done here; nothing has been prepared yet."""
    if is_deepspeed(args):
        if args.use_cpu:
            raise ValueError("DeepSpeed needs GPUs; CPU processes shard by configs/accelerate/fsdp2.yaml")
        if find_spec("deepspeed") is None:
            raise ValueError("DeepSpeed needs a package: pip install deepspeed")
        if args.optim == "muon":
            raise ValueError("Muon needs whole matrices, and DeepSpeed has none; add --optim adamw, or shard by FSDP2")
    for variable, what in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "a parallelism_config")):
        if is_on(f"ACCELERATE_USE_{variable}"):
            raise ValueError(f"accelerate's configuration asks for {what}, which is not trained by here; use FSDP2")
    if not is_sharded(args):
        if args.fsdp_config:
            raise ValueError("--fsdp_config has no effect without --fsdp true")
        return
    if isinstance(args.fsdp_config, str) and not Path(args.fsdp_config).is_file():
        raise ValueError(f"--fsdp_config {args.fsdp_config}: no such file")
    if "RANK" not in os.environ:
        raise ValueError("FSDP shards over processes, and this is one alone; start some by accelerate launch")


def settle_sharding(args: Any) -> None:
    """Check and complete the settings of `--fsdp`, or those of accelerate's configuration, in place."""
    if not is_sharded(args):
        return
    if args.fsdp and "state_dict_type" not in args.fsdp_config:
        args.fsdp_plugin_args["state_dict_type"] = "SHARDED_STATE_DICT"  # Trainer's own gathers all in one process
    version = args.fsdp_plugin_args["fsdp_version"] if args.fsdp else int(os.environ.get("FSDP_VERSION", "1"))
    if version != 2:
        raise ValueError("FSDP1 is no longer developed; set fsdp_version: 2")
    plugin = make_plugin(args)
    if args.use_cpu and isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ValueError("fsdp_offload_params has no effect on a CPU, where parameters are already; leave it out")
    if plugin.cpu_ram_efficient_loading:  # accelerate's default: a base would be empty in all processes but one
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading gives its weights to one process alone, and any may be asked for replies "
            "or references before the training; set it to false"
        )


def make_plugin(args: TrainingArguments) -> FullyShardedDataParallelPlugin:
    """Return accelerate's settings of FSDP."""
    return FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))


def prepare_sharding(trainer: Trainer) -> None:
    """Let a Trainer shard its model by FSDP2 on CPUs as on GPUs: its layers one by one, by their own class.

    Accelerate 1.15 takes FSDP for accelerators alone and runs DDP on CPUs (AcceleratorState); all that follows in it
    and in Trainer works there as it is.
    """
    args, state, model = trainer.args, trainer.accelerator.state, cast(Any, trainer.model)
    if not trainer.is_fsdp_enabled:
        state.fsdp_plugin, state.distributed_type = make_plugin(args), DistributedType.FSDP
        trainer.is_fsdp_enabled = True
        if trainer.accelerator.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(trainer.accelerator.mixed_precision)
    trainer.add_callback(CheckShards)
    plugin: Any = state.fsdp_plugin
    if plugin.transformer_cls_names_to_wrap is None:
        plugin.transformer_cls_names_to_wrap = layer_classes(model)
    if isinstance(model, PeftModel) or shares_ends(model):
        # Accelerate finds no last norm in an adapted model, and would gather the head when it is called alone: our
        # losses read it. Of modules with one weight it knows two. Both models keep embedding and head with the whole.
        trainer.create_optimizer()
        vars(trainer.model).update(dict.fromkeys(ENDS, lambda: None))
    if args.activation_checkpointing:  # Trainer's would gather a layer once more
        plugin.activation_checkpointing, args.activation_checkpointing = True, False


def shares_ends(model: Any) -> bool:
    """Tell whether the weight of embedding or head stands in a third module too: T5's stands in four."""
    ends = [getattr(model, name)() for name in ENDS]
    weights = {id(end.weight) for end in ends}
    return any(id(getattr(module, "weight", None)) in weights for module in model.modules() if module not in ends)


class CheckShards(TrainerCallback):
    """Says what a process holds of the model, and ends a run whose weights are not sharded, before its first step."""

    def on_train_begin(self, args, state, control, model: Any = None, **kwargs):
        for name in ENDS:
            vars(model).pop(name, None)
        parameters = list(model.parameters())
        whole = sum(p.numel() for p in parameters if p.is_floating_point() and not isinstance(p, DTensor))
        if whole:
            raise RunError(f"{whole:,} parameters are whole in each process, and were to be sharded; leave FSDP out")
        here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters)
        if state.is_world_process_zero:
            share = f"{here / 1e6:.2f} of {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters"
            print(f"sharded: this process, one of {args.world_size}, holds {share}")


def layer_classes(model: nn.Module) -> list[str]:
    """Return the classes of a model's layers: those that may not be split, of which it may name some that it lacks."""
    there = {type(module).__name__ for module in model.modules()}
    named = there & set(getattr(model, "_no_split_modules", None) or ())
    return sorted(named or {type(layer).__name__ for layer in decoder_layers(model)})


def copy_empty(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose weights take no memory: sharded ones can't become whole again in place."""
    empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return deepcopy(model, empty)


def gather_weights(trainer: Trainer, empty: Any) -> Any:
    """Put the weights of a sharded model, whole, into its empty copy, in the first process alone; all must call it.

    Of a base in 4 bits the adapters are enough: the finished model is made of the base's own files.
    """
    is_first, model = trainer.is_world_process_zero(), cast(nn.Module, trainer.model)
    in_4bit = getattr(model, "is_loaded_in_4bit", False)
    if trainer.is_deepspeed_enabled:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    else:
        # A tensor at a time, to the first process alone.
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=in_4bit)
        weights = get_model_state_dict(model, options=options)
    if is_first:
        empty.load_state_dict(weights, assign=True, strict=not in_4bit)
        (empty.get_base_model() if isinstance(empty, PeftModel) else empty).tie_weights()
    return empty


def check_resume(checkpoint: str | None, args: TrainingArguments) -> None:
    """Raise InputError where a checkpoint was sharded and the run that goes on from it is not, or the other way."""
    if checkpoint is None or is_deepspeed(args):
        return
    was_sharded = any(Path(checkpoint).glob(f"{SHARDED_WEIGHTS}*"))
    if was_sharded != is_sharded(args):
        words = ("sharded by FSDP", "not sharded")
        was, now = words if was_sharded else words[::-1]
        raise InputError(f"{checkpoint}: is {was}, this run is {now}; go on as it began, with any number of processes")
