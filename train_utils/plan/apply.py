"""Plans a run by `--minutes`: measures the machine, chooses, shows the plan, and gives the run its batch."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from errors import InputError
from model_utils.shapes import count_parameters, find_embedding, find_head, flops_per_token, hidden_matrices
from train_utils.arguments import RunArguments, dtype_name, share_first
from train_utils.clock import process_seconds
from train_utils.places import read_record
from train_utils.plan.machine import measure_machine, measure_training
from train_utils.plan.rule import MAX_TUNING_EPOCHS, Plan, Shape, Task, choose_plan, describe_plan, muon_flops
from train_utils.run import Run
from train_utils.steps.fast_model import may_compile, repays_compilation

LEAST_TRAINING = 0.05  # share of a run by the clock, or it is too short
FINISH_SECONDS = 3.0  # the report, saving and leaving, after the last evaluation


def finish_seconds(minutes: float) -> float:
    """Return what is kept for the end of a run of so many minutes, after its last evaluation."""
    return min(FINISH_SECONDS, 3 * minutes)


def make_plan(run: Run, task: Task, *, shape: Shape | None = None, vocab_size: int | None = None) -> Run:
    """Return a run by `--minutes` with its plan, which is shown, and with the plan's batch in its arguments.

    A run that is resumed goes on with the plan in its record. Of several processes the first plans for all.

    Args:
        shape: of the model, where it is settled; else the size that suits the time.
        vocab_size: of a tokenizer that is there already, if any.
    """
    plan = share_first(run.args, lambda: measure_and_choose(run, task, shape, vocab_size))
    planned = run.change(
        per_device_train_batch_size=plan.batch_rows,
        gradient_accumulation_steps=plan.accumulation,
        compile_layers=plan.compiled,
    )
    return replace(planned, plan=plan)


def measure_and_choose(run: Run, task: Task, shape: Shape | None, vocab_size: int | None) -> Plan:
    """Do what `make_plan` says, for one process."""
    args, minutes = run.args, run.args.minutes or 0.0
    kept: dict[str, Any] = (read_record(run.folder) or {}).get("data", {}).get("plan")
    if run.resume and kept:
        return keep_batch(args, Plan(shape=Shape(**kept.pop("shape")), **kept))
    machine = measure_machine(args.device.type, dtype_name(args), run.folder)
    gone = process_seconds()
    finish = finish_seconds(minutes)
    seconds = minutes * 60 - gone - finish
    settled = {"processes": args.world_size, "compile_layers": may_compile(args), "muon": args.optim == "muon"}
    chosen = choose_plan(replace(task, **settled), machine, seconds=seconds, shape=shape, vocab_size=vocab_size)
    plan = keep_batch(args, chosen)
    if seconds - plan.before_seconds < LEAST_TRAINING * minutes * 60:
        around = gone + plan.before_seconds + FINISH_SECONDS
        least = math.ceil(around / (1 - LEAST_TRAINING) / 6) / 10
        raise InputError(
            f"--minutes {minutes:g} is too short: {around:.0f} s go by before and after the training; give it "
            f"{least:g} at least"
        )
    table = partial(describe_plan, plan, machine, minutes=minutes, gone_seconds=gone, finish_seconds=finish)
    run.say(table(memory=not task.memory_told))
    return plan


def keep_batch(args: RunArguments, plan: Plan) -> Plan:
    """Return the plan with the batch that the user gave, by either of its options, if any."""
    if not {"per_device_train_batch_size", "gradient_accumulation_steps"} & set(args.given):
        return plan
    return replace(plan, batch_rows=args.per_device_train_batch_size, accumulation=args.gradient_accumulation_steps)


def plan_rows(run: Run, model: PreTrainedModel, rows: int, row_tokens: int) -> Run:
    """Return `make_plan`'s run of a model and rows of T tokens that are there, too few times to learn them by heart."""
    how: dict[str, Any] = {"max_epochs": MAX_TUNING_EPOCHS, "memory_told": True}
    task = Task(text_bytes=rows * row_tokens, row_tokens=row_tokens, bytes_per_token=1, **how)
    return make_plan(run, task, shape=shape_of(model, row_tokens))


def settle_compilation(run: Run, width: int, total_flops: float) -> bool:
    """Return whether a run's layers are compiled: as its plan says, else, of one by steps, what repays itself here.

    That is measured once, by the first process, and kept in the record: a run that goes on computes as it began.
    """
    args = run.args
    record = read_record(run.folder) if run.resume else None
    wanted = may_compile(args)
    wanted = (record or {}).get("data", {}).get("compiled") if wanted is None else wanted

    def measure() -> bool:
        flops = measure_training(args.device.type, dtype_name(args), min(width, 512), 0.5) * args.world_size
        return repays_compilation(None, total_flops / flops, dtype_name(args))

    return share_first(args, measure) if wanted is None else wanted


def limit_steps(run: Run, rows: int) -> Run:
    """Return a run that, if it is by the clock, ends where `rows` rows of text are worth no more steps."""
    return run.change(max_steps=math.ceil(run.plan.max_epochs * rows / run.step_rows)) if run.plan else run


def shape_of(model: PreTrainedModel, row_tokens: int, vocab_size: int | None = None) -> Shape:
    """Return the size of a model that is there already (on the meta device will do), as with another vocabulary."""
    config, embedding = model.config.get_text_config(decoder=True), find_embedding(model)
    width, parameters, flops = embedding.embedding_dim, count_parameters(model), flops_per_token(model, row_tokens)
    more = (vocab_size - embedding.num_embeddings) * width if vocab_size else 0
    embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding))
    outside = {id(module.weight): module.weight for module in (*embeddings, find_head(model))}
    tables = sum(weight.shape == embedding.weight.shape for weight in outside.values())  # tied ones once
    weights = parameters - (tables - 1) * embedding.weight.numel() + more
    parameters += tables * more
    layers, size = config.num_hidden_layers, vocab_size or embedding.num_embeddings
    muon = sum(muon_flops(*p.shape) for p in hidden_matrices(model))
    return Shape(width, layers, size, parameters, weights, flops + 6 * more, muon)


def on_meta(build: Callable[..., PreTrainedModel], *arguments) -> PreTrainedModel:
    """Build a model without its weights, to count them."""
    with torch.device("meta"):
        return build(*arguments)
