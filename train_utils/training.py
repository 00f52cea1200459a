"""Trains a model towards an Objective with the stock Trainer, and leaves the finished checkpoint and its report."""

import gc
import math
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import apply_liger_kernel
from transformers.trainer_callback import PrinterCallback

from data_utils.rows.packing import Rows, thin_rows
from errors import InputError, first_line
from eval_utils.metrics import bytes_per_label, make_compute_metrics
from files import release
from model_utils.shapes import count_parameters, flops_per_token
from model_utils.tokenizer import token_byte_counts
from train_utils.arguments import RunArguments, avoid_waiting, change_arguments, dtype_name, wait_for_all
from train_utils.callbacks import MarkComplete, Progress, Samples, StopOnDivergence, StopOnSignal, TellEpoch
from train_utils.clock import Clock
from train_utils.finishing import begin_record, finish_run
from train_utils.guard import Guard, Monitor
from train_utils.objectives import Objective
from train_utils.plan.apply import finish_seconds, limit_steps, settle_compilation
from train_utils.plan.machine import keep_freed_memory, measure_peak
from train_utils.run import Run
from train_utils.run_options import EVAL_COST
from train_utils.sharding import copy_empty, gather_weights, is_alone, is_sharded, is_split, prepare_sharding
from train_utils.steps.copying import can_copy, start_copying
from train_utils.steps.first_fit import find_last_norm, fit_bigrams
from train_utils.steps.optimizer import Rates, choose_rates, optimizer_factory


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is settled of a run before its first step.

    `token_flops` are those of a trained token; `byte_counts` holds for each id how many bytes of text it stands for.
    """

    steps: int
    token_flops: float
    compiled: bool
    rates: Rates
    byte_counts: list[int]


def train_and_save(run: Run, model: Any, tokenizer: PreTrainedTokenizerBase, objective: Objective) -> int:
    """Train a model with the stock Trainer and leave the finished folder; return the script's exit code."""
    keep_freed_memory(run.args.device.type)
    run = limit_steps(run, len(objective.train_rows))
    eval_rows = thin_evaluation(run, objective)
    course = settle_course(run, model, objective, token_byte_counts(tokenizer))
    empty = copy_empty(model)
    speed_up(run, model, objective, compiled=course.compiled)
    run.say(
        f"model: {model.config.model_type}, {count_parameters(model) / 1e6:.2f} M parameters, on "
        f"{run.args.device.type} in {dtype_name(run.args)}, {'compiled' if course.compiled else 'not compiled'}"
    )
    clock = start_clock(run, model, objective, eval_rows=sum(map(len, eval_rows.values())))
    progress = make_progress(run, objective, course, clock)
    samples = Samples(objective.sample, f"eval_{list(eval_rows)[-1]}", run.watch)
    stop, guard = StopOnSignal(run.args.save_seconds), Guard()
    monitor = Monitor(guard, run.step_rows * objective.row_tokens)
    watching = [guard, StopOnDivergence(), monitor, samples, stop]
    telling = [TellEpoch(objective.train_rows), MarkComplete(run.watch)]
    callbacks = [progress, *watching, *telling, *objective.callbacks]
    # The clock first: at a step's end it says whether a pause follows, which progress leaves out.
    callbacks = [clock, *callbacks] if clock else callbacks
    trainer = make_trainer(run, model, objective, course=course, eval_rows=eval_rows, callbacks=callbacks)
    guard.attach(trainer, run.resume)
    if run.is_first:
        begin_record(run, {**objective.facts, "compiled": course.compiled})
    run.watch.lap("preparing")
    trainer.train(resume_from_checkpoint=run.resume)
    if stop.saved:
        release(run.folder)
        run.say(f"stopped at step {trainer.state.global_step} and saved; to go on, add: --resume_from_checkpoint true")
        return 128 + (stop.received or 0)
    if is_split(trainer):
        model = gather_weights(trainer, empty)
    if run.is_first:
        finish_run(run, trainer, model, tokenizer, objective)
        release(run.folder)
        run.say(f"done: {run.folder}/ holds the model, loss.png and report.md; next: {objective.next_step}")
    wait_for_all(run.args)
    # DDP's Reducer goes first: as the last to hold the process group it would wait, with the interpreter's lock, for
    # gloo's thread, which can be waiting for that lock.
    del trainer
    gc.collect()
    if run.args.distributed_state is not None:
        run.args.distributed_state.destroy_process_group()  # or its threads can abort a process that leaves
    return 0


def give_head_start(run: Run, model: Any, blocks: Rows) -> str:
    """Fit embedding and head of a new model to the pairs of tokens in blocks, and let two of its heads copy.

    Return what the model knows then: "fitted", or "random" where its form does not allow it. A run that goes on has it
    in its checkpoint.
    """
    norm = find_last_norm(model)
    if norm and not run.resume:
        loss = fit_bigrams(model.to(run.args.device), norm, blocks, bool(run.args.bf16))
        copies = can_copy(model)
        if copies:
            start_copying(model, blocks)
        copying = "; two heads copy" if copies else ""
        run.say(f"head start: embedding and head fitted to pairs of tokens, loss {loss:.2f}{copying}")
        run.watch.lap("head start")
    return "fitted" if norm else "random"


def thin_evaluation(run: Run, objective: Objective) -> dict[str, Dataset]:
    """Return the held-out rows that an evaluation measures, so many of each part as its share of the run pays for."""
    run_rows = run.count_rows(len(objective.train_rows), objective.row_tokens)
    tokens = run.args.count_eval_tokens(len(objective.eval_rows), run_rows * objective.row_tokens)
    return {part: thin_rows(rows, tokens // objective.row_tokens) for part, rows in objective.eval_rows.items()}


def settle_course(run: Run, model: PreTrainedModel, objective: Objective, byte_counts: list[int]) -> Course:
    """Settle what depends on the model, the rows and the length of a run."""
    args, step_tokens = run.args, run.step_rows * objective.row_tokens
    token_flops = flops_per_token(model, objective.row_tokens)
    epochs = len(objective.train_rows) / run.step_rows * args.num_train_epochs
    steps = args.max_steps if args.max_steps > 0 else math.ceil(epochs)
    width = model.config.get_text_config(decoder=True).hidden_size
    compiled = settle_compilation(run, width, token_flops * steps * step_tokens)
    planned = run.plan.tokens // step_tokens if run.plan else steps
    steps_of_rates = max(1, min(planned, steps))
    rates = choose_rates(args, model, start=objective.start, batch_tokens=step_tokens, steps=steps_of_rates)
    return Course(steps=steps, token_flops=token_flops, compiled=compiled, rates=rates, byte_counts=byte_counts)


def speed_up(run: Run, model: PreTrainedModel, objective: Objective, *, compiled: bool) -> None:
    """Make the steps of a model fast, in place."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if run.args.use_liger_kernel:  # its own head with the loss takes the place of ours
        apply_liger_kernel(base, run.args.liger_kernel_config)
    else:
        objective.speed_up(base, run.args.per_device_train_batch_size if compiled else None)


def start_clock(run: Run, model: Any, objective: Objective, *, eval_rows: int) -> Clock | None:
    """Return the clock of a run by `--minutes`, of which an evaluation measures so many rows."""
    args = run.args
    if args.minutes is None:
        return None
    # Weights that are mixed with the base's wait until it is loaded again; an adapter needs no base for that.
    mixes = objective.finish is not None and not isinstance(model, PeftModel)
    mixing_seconds = run.watch.seconds.get("model", 0.0) if mixes else 0.0
    clock = Clock(
        minutes=args.minutes,
        decay_share=args.decay_share,
        max_steps=args.max_steps,
        finish_seconds=finish_seconds(args.minutes) + mixing_seconds,
        eval_share=args.eval_steps,
        save_share=args.save_steps,
        finish_steps=EVAL_COST * eval_rows / run.step_rows,
        evaluates_last=objective.finish is None or not is_alone(args),
    )
    if run.resume:
        clock.resume(run.resume)
    return clock


def make_progress(run: Run, objective: Objective, course: Course, clock: Clock | None) -> Progress:
    """Return the callback that shows how a run gets on."""
    peak_flops = measure_peak(run.args.device.type, dtype_name(run.args)) * run.args.world_size
    label_bytes = bytes_per_label(objective.train_rows, course.byte_counts) if objective.is_language else None
    return Progress(
        tokens_per_step=run.step_rows * objective.row_tokens,
        flops_per_token=course.token_flops,
        peak_flops=peak_flops,
        bytes_per_token=label_bytes,
        clock=clock,
        watch=run.watch,
    )


def trainer_arguments(run: Run, objective: Objective, course: Course) -> RunArguments:
    """Return what Trainer is given: the run's arguments with what was settled on the way."""
    args = run.args
    changes: dict[str, Any] = {
        "learning_rate": course.rates.rest,
        "train_sampling_strategy": objective.sampling,
        "use_liger_kernel": False,  # the kernels are in already
        "remove_unused_columns": False,  # a row holds what its collator takes
    }
    if args.lr_scheduler_type == "warmup_stable_decay" and not args.lr_scheduler_kwargs:
        decay_steps = min(round(args.decay_share * course.steps), course.steps - args.get_warmup_steps(course.steps))
        changes["lr_scheduler_kwargs"] = {"num_decay_steps": max(0, decay_steps), "decay_type": "linear"}
    return avoid_waiting(change_arguments(args, **changes))


def make_trainer(
    run: Run,
    model: PreTrainedModel,
    objective: Objective,
    *,
    course: Course,
    eval_rows: dict[str, Dataset],
    callbacks: list[TrainerCallback],
) -> Trainer:
    """Return the stock Trainer of a run; raises InputError for a reporter or optimizer whose package is not there."""
    args = trainer_arguments(run, objective, course)
    # Of both Trainer takes more than it says: any rows by number, and a function that returns the class.
    rows: Any = objective.train_rows
    factory: Any = optimizer_factory(args, course.rates)
    try:
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=rows.with_format("numpy") if isinstance(rows, Dataset) else rows,
            eval_dataset={part: rows.with_format("numpy") for part, rows in eval_rows.items()},
            data_collator=objective.collate,
            compute_loss_func=objective.compute_loss,
            compute_metrics=objective.compute_metrics or make_compute_metrics(course.byte_counts),
            preprocess_logits_for_metrics=objective.reduce_logits,
            optimizer_cls_and_kwargs=factory,
            callbacks=callbacks,
        )
        if is_sharded(args):
            prepare_sharding(trainer)
        # Trainer would do it in train(), when the run's record is there already; sharded models must wait for that.
        if not is_split(trainer):
            trainer.create_optimizer()
    except (ImportError, RuntimeError, ValueError) as error:
        if "install" not in str(error):
            raise
        raise InputError(first_line(error)) from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    return trainer
