"""`--minutes`: the plan of a run is made, shown, kept in its record, and put into its arguments."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel

from errors import InputError
from model_utils.shapes import count_parameters, flops_per_token
from train_utils.arguments import RunArguments, count_step_rows, dtype_name
from train_utils.checkpoint import read_record
from train_utils.clock import process_seconds
from train_utils.launch import count_cores
from train_utils.plan.machine import measure_machine, measure_training
from train_utils.plan.rule import MAX_TUNING_EPOCHS, Plan, Shape, choose_plan, describe_plan, muon_flops, plan_shape
from train_utils.steps.compilation import may_compile, repays_compilation

LEAST_TRAINING = 0.05  # share of a run by the clock, or it is too short
FINISH_SECONDS = 3.0  # the report, saving and leaving, after the last evaluation
# Text tokenized by a core: between the 4 MB of benchmarks/README.md, where two read and write 7.3 to 8.7 MB/s, and the
# 2 MB of a slower processor.
TOKENIZE_BYTES_PER_SECOND = 3e6


def finish_seconds(minutes: float) -> float:
    """Return what is kept for the end of a run of so many minutes, after its last evaluation."""
    return min(FINISH_SECONDS, 3 * minutes)


def make_plan(args: RunArguments, say: Callable, resume: str | None, choose: Callable[..., Plan]) -> Plan:
    """Measure the machine, let `choose` make a plan of `seconds` of training on a `machine`, and show it.

    A run that is resumed, from the checkpoint `resume`, goes on with the plan in its record. With `--plan_only` the
    caller leaves afterwards. Of several processes the first plans for all.
    """
    box = [measure_and_choose(args, say, resume, choose) if args.process_index == 0 else None]
    if args.world_size > 1:
        dist.broadcast_object_list(box, src=0, device=args.device)
    return box[0]


def measure_and_choose(args: RunArguments, say: Callable, resume: str | None, choose: Callable[..., Plan]) -> Plan:
    """Do what `make_plan` says, for one process."""
    record = read_record(Path(args.output_dir))
    kept = (record or {}).get("data", {}).get("plan")
    if resume and kept:
        return keep_batch(args, Plan(**{**kept, "shape": Shape(**kept["shape"])}))
    machine = measure_machine(args.device.type, dtype_name(args), Path(args.output_dir))
    gone = process_seconds()
    finish = finish_seconds(args.minutes)
    seconds = args.minutes * 60 - gone - finish
    muon = args.optim == "muon"
    plan = choose(seconds=seconds, machine=machine, compile_layers=may_compile(args), muon=muon)
    plan = keep_batch(args, plan)
    if seconds - plan.before_seconds < LEAST_TRAINING * args.minutes * 60:
        around = gone + plan.before_seconds + FINISH_SECONDS
        least = math.ceil(around / (1 - LEAST_TRAINING) / 6) / 10
        raise InputError(
            f"--minutes {args.minutes:g} is too short: {around:.0f} s go by before and after the training; give it "
            f"{least:g} at least"
        )
    say(describe_plan(plan, machine, args.minutes, gone, finish))
    return plan


def keep_batch(args: RunArguments, plan: Plan) -> Plan:
    """Return the plan with the batch that the user gave, by either of its options, if any."""
    if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & set(args.given):
        return plan
    return replace(plan, batch_rows=args.per_device_train_batch_size, accumulation=args.gradient_accumulation_steps)


def plan_pretraining(
    args: RunArguments,
    say: Callable,
    resume: str | None,
    size: Shape | None,
    vocab_size: int | None,
    text_bytes: int,
    row_tokens: int,
    bytes_per_token: float | None,
    count_unprepared: Callable[[int], int],
) -> Plan:
    """Make the plan for a text: of a model of `size`, or of the size that suits the time.

    `vocab_size` is the user's own, if any; `bytes_per_token` is that of a tokenizer that is there already;
    `count_unprepared` says how many bytes of text are still to be tokenized with so many tokens of vocabulary.
    """
    choose = partial(
        partial(plan_shape, size) if size else partial(choose_plan, vocab_size=vocab_size),
        text_bytes=text_bytes,
        row_tokens=row_tokens,
        processes=args.world_size,
        bytes_per_token=bytes_per_token,
        prepare_seconds=lambda tokens: count_unprepared(tokens) / TOKENIZE_BYTES_PER_SECOND / count_cores(),
    )
    return make_plan(args, say, resume, choose)


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
    return make_plan(args, say, resume, choose)


def apply_plan(args: RunArguments, plan: Plan) -> None:
    """Put what a plan says of batch and compilation into a run's arguments."""
    args.per_device_train_batch_size = plan.batch_rows
    args.gradient_accumulation_steps = plan.accumulation
    args.compile_layers = plan.compiled


def settle_compilation(args: RunArguments, width: int, total_flops: float, resume: str | None) -> bool:
    """Return whether a run's layers are compiled: as its plan says, else, of one by steps, what repays itself here.

    That is measured once, by the first process, and kept in the record: a run that goes on computes as it began.
    """
    record = read_record(Path(args.output_dir)) if resume else None
    wanted = may_compile(args)
    wanted = (record or {}).get("data", {}).get("compiled") if wanted is None else wanted
    box = [wanted]
    if wanted is None and args.process_index == 0:
        flops = measure_training(args.device.type, dtype_name(args), min(width, 512), 0.5) * args.world_size
        box = [repays_compilation(None, total_flops / flops, dtype_name(args))]
    if wanted is None and args.world_size > 1:
        dist.broadcast_object_list(box, src=0, device=args.device)
    return box[0]


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
    layers, size = config.num_hidden_layers, vocab_size or embedding.num_embeddings
    embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
    outside = {id(module.weight) for module in (*embeddings, model.get_output_embeddings())}
    muon = sum(muon_flops(*p.shape) for p in model.parameters() if p.ndim == 2 and id(p) not in outside)
    return Shape(width, layers, size, parameters, weights, flops + 6 * more, muon)


def on_meta(build: Callable[..., PreTrainedModel], *arguments) -> PreTrainedModel:
    """Build a model without its weights, to count them."""
    with torch.device("meta"):
        return build(*arguments)
