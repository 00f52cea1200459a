"""`--minutes`: the plan of a run is made, shown, kept in its record, and put into its arguments."""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from errors import InputError
from train_utils.arguments import RunArguments, count_step_rows
from train_utils.checkpoint import read_record
from train_utils.clock import process_seconds
from train_utils.machine import measure_machine
from train_utils.model import count_parameters, flops_per_token
from train_utils.plan import MAX_TUNING_EPOCHS, Plan, Shape, choose_plan, describe_plan, plan_shape

COMPILE_SECONDS = 25.0
FINISH_SECONDS = 3.0  # the report, saving and leaving, after the last evaluation
PREPARE_BYTES_PER_SECOND = 2e6  # a tokenizer trained and a corpus tokenized, on a core


def finish_seconds(minutes: float) -> float:
    """Return what is kept for the end of a run of so many minutes, after its last evaluation."""
    return min(FINISH_SECONDS, 3 * minutes)


def make_plan(
    args: RunArguments, say: Callable, resume: str | None, text_bytes: int, choose: Callable[..., Plan]
) -> Plan:
    """Measure the machine, let `choose` make a plan of `seconds` of training on a `machine`, and show it.

    A run that is resumed, from the checkpoint `resume`, goes on with the plan in its record. With `--plan_only` the
    caller leaves afterwards. Of several processes the first plans for all.
    """
    box = [measure_and_choose(args, say, resume, text_bytes, choose) if args.process_index == 0 else None]
    if args.world_size > 1:
        dist.broadcast_object_list(box, src=0, device=args.device)
    return box[0]


def measure_and_choose(
    args: RunArguments, say: Callable, resume: str | None, text_bytes: int, choose: Callable[..., Plan]
) -> Plan:
    """Do what `make_plan` says, for one process."""
    record = read_record(Path(args.output_dir))
    kept = (record or {}).get("data", {}).get("plan")
    if resume and kept:
        return Plan(**{**kept, "shape": Shape(**kept["shape"])})
    machine = measure_machine(args.device.type, args.bf16, Path(args.output_dir))
    gone = process_seconds()
    rest = finish_seconds(args.minutes) + text_bytes / PREPARE_BYTES_PER_SECOND + min(COMPILE_SECONDS, 6 * args.minutes)
    seconds = args.minutes * 60 - gone - rest
    if seconds < 0.05 * args.minutes * 60:
        raise InputError(
            f"--minutes {args.minutes:g} is too short: {gone + rest:.0f} s go by before and after the training"
        )
    plan = choose(seconds=seconds, machine=machine)
    say(describe_plan(plan, machine, args.minutes, gone))
    return plan


def plan_pretraining(
    args: RunArguments,
    say: Callable,
    resume: str | None,
    size: Shape | None,
    vocab_size: int | None,
    text_bytes: int,
    row_tokens: int,
    bytes_per_token: float | None,
) -> Plan:
    """Make the plan for a text: of a model of `size`, or of the size that suits the time.

    `vocab_size` is the user's own, if any; `bytes_per_token` is that of a tokenizer that is there already.
    """
    choose = partial(
        partial(plan_shape, size) if size else partial(choose_plan, vocab_size=vocab_size),
        text_bytes=text_bytes,
        row_tokens=row_tokens,
        processes=args.world_size,
        bytes_per_token=bytes_per_token,
    )
    return make_plan(args, say, resume, 0 if bytes_per_token is not None else text_bytes, choose)


def plan_tuning(
    args: RunArguments, say: Callable, resume: str | None, model: PreTrainedModel, rows: int, row_tokens: int
) -> Plan:
    """Make the plan of a model that goes on with `rows` rows of T tokens, too few times to learn them by heart."""
    choose = partial(
        plan_shape,
        shape_of(model, row_tokens),
        text_bytes=rows * row_tokens,
        bytes_per_token=1,
        row_tokens=row_tokens,
        processes=args.world_size,
        max_epochs=MAX_TUNING_EPOCHS,
    )
    return make_plan(args, say, resume, 0, choose)


def apply_plan(args: RunArguments, plan: Plan) -> None:
    """Put a plan's batch into a run's arguments; one that the user gave, by either of its options, stays."""
    if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & set(args.given):
        args.per_device_train_batch_size = plan.batch_rows
        args.gradient_accumulation_steps = plan.accumulation


def limit_steps(args: RunArguments, plan: Plan, rows: int) -> dict:
    """Let a run by the clock end where `rows` rows of text are worth no more steps; return what its record keeps."""
    args.max_steps = math.ceil(plan.max_epochs * rows / count_step_rows(args))
    return asdict(plan)


def shape_of(model: PreTrainedModel, row_tokens: int, vocab_size: int | None = None) -> Shape:
    """Return the size of a model that is there already (on the meta device will do), as with another vocabulary."""
    config, embedding = model.config, model.get_input_embeddings()
    width, parameters, flops = embedding.embedding_dim, count_parameters(model), flops_per_token(model, row_tokens)
    more = (vocab_size - embedding.num_embeddings) * width if vocab_size else 0
    tied = bool(getattr(config, "tie_word_embeddings", False))
    weights = parameters - (0 if tied else embedding.weight.numel()) + more
    parameters += more if tied else 2 * more
    layers = config.num_hidden_layers
    return Shape(width, layers, vocab_size or embedding.num_embeddings, parameters, weights, flops + 6 * more)


def on_meta(build: Callable[..., PreTrainedModel], *arguments) -> PreTrainedModel:
    """Build a model without its weights, to count them."""
    with torch.device("meta"):
        return build(*arguments)
