"""Says before a base is loaded what its training takes of the memory at the peak, and refuses what can't fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from errors import InputError
from model_utils.finding import find_checkpoint
from model_utils.shapes import build_from, open_config
from train_utils.plan.apply import on_meta
from train_utils.plan.devices import MASTER_BYTES, Sizes, measure_model, row_bytes, state_bytes
from train_utils.plan.machine import free_bytes, held_bytes
from train_utils.plan.rule import in_millions
from train_utils.run import Run

FOUR_BITS = 0.53  # bytes of a weight in 4 bits: with a scale for each 64 of them, itself in 8 bits
PROGRAM_BYTES = 1.1e9  # torch, the other libraries and the data, where they share the memory with the model
LORA_RANK = 16  # of the adapters that are proposed


def tell_memory(
    run: Run, base: str, row_tokens: int, *, adapt: Callable[[PreTrainedModel], Any] | None, in_4bit: bool
) -> None:
    """Say what a fine-tuning of a base takes; raise InputError, with what would fit, where it is more than is free.

    Nothing is loaded: the base's shape is read.

    Args:
        adapt: puts adapters beside the weights of a model; None: all weights are trained.
    """
    config = open_config(find_checkpoint(base), base)
    if not run.is_first:
        return
    args, model = run.args, on_meta(build_from, config, base)
    rows = args.per_device_train_batch_size if "per_device_train_batch_size" in args.given or not args.minutes else 1
    settled = {"muon": args.optim == "muon", "checkpointed": bool(args.activation_checkpointing)}
    sizes = measure_model(model, row_tokens, compute_bytes=2 if args.bf16 else 4, **settled)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - sizes.ends
    held = matrices if in_4bit else 0
    trained = None
    if adapt is not None:
        trained = sum(p.numel() for p in adapt(model).parameters() if p.requires_grad)
    device = args.device.type
    free, program = free_bytes(device) + held_bytes(device), 0 if device == "cuda" else PROGRAM_BYTES
    parts = sum_parts(sizes, rows, trained, held) | {"program": program}
    most = sum(parts.values())
    told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items() if size >= 0.05 * most)
    which = f", of which {in_millions(trained)} M are trained" if trained else ""
    run.say(
        f"memory: {in_millions(sizes.parameters)} M parameters{which}; at the peak about {most / 1e9:.1f} GB "
        f"({told}) of {free / 1e9:.1f} GB free"
    )
    if most <= free:
        return
    lora = trained or 2 * LORA_RANK * 8 * sizes.width * sizes.layers
    ways = {
        "--activation_checkpointing true": (replace(sizes, checkpointed=True), rows, trained, held),
        f"--row_tokens {row_tokens // 2}": (replace(sizes, row_tokens=row_tokens // 2), rows, trained, held),
        "--per_device_train_batch_size 1": (sizes, 1, trained, held),
        "--lora true": (sizes, rows, lora, held),
        "--lora true --load_in_4bit true --activation_checkpointing true --per_device_train_batch_size 1": (
            replace(sizes, checkpointed=True), 1, lora, matrices,
        ),
    }  # fmt: skip
    needs = {way: program + sum(sum_parts(*given).values()) for way, given in ways.items()}
    fitting = [f"{way} ({size / 1e9:.1f} GB)" for way, size in needs.items() if size <= free]
    raise InputError(
        f"{base}: training it takes about {most / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
        + (f"what would fit: {', or '.join(fitting[:3])}" if fitting else "choose a smaller base")
    )


def sum_parts(sizes: Sizes, rows: int, trained: int | None, in_4bit: int) -> dict[str, float]:
    """Return the bytes of a training at its peak by parts, in float32 but for `in_4bit` of the weights.

    `trained` are the parameters of adapters; None: all are trained.
    """
    state = state_bytes(sizes, "DDP", 1)
    if trained is not None:
        weights = MASTER_BYTES * (sizes.parameters - in_4bit + trained) + FOUR_BITS * in_4bit
        # Frozen weights are cast for their pass too, and kept so until the gradient has gone through them.
        state |= {"weights": weights, "gradients": MASTER_BYTES * trained, "optimizer": 2 * MASTER_BYTES * trained}
        state["optimizer's work"] = 0
    return state | row_bytes(sizes, rows)
