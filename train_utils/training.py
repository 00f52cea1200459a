"""One run, from a model and rows to a folder that holds the trained checkpoint and its report."""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProgressCallback, Trainer
from transformers.integrations import apply_liger_kernel
from transformers.trainer_callback import PrinterCallback

from errors import InputError, first_line
from eval_utils.metrics import bytes_per_label, make_compute_metrics, measure_tokens
from files import whole
from model_utils.checkpoint import save_model
from model_utils.shapes import count_parameters, flops_per_token
from train_utils.arguments import RunArguments, avoid_waiting, count_step_rows, dtype_name
from train_utils.callbacks import MarkComplete, Progress, Samples, StopOnDivergence, StopOnSignal
from train_utils.checkpoint import continue_record, read_record, start_record, write_record
from train_utils.clock import Clock
from train_utils.plan.apply import finish_seconds, settle_compilation
from train_utils.plan.machine import keep_freed_memory, measure_peak
from train_utils.report import describe_memory, peak_memory, plot_loss, write_report
from train_utils.run_options import EVAL_COST
from train_utils.steps.fast_model import make_fast
from train_utils.steps.optimizer import choose_rates, optimizer_factory
from train_utils.stopwatch import Stopwatch


@dataclass
class Run:
    """What a run is recorded by.

    `resume` is the checkpoint to go on from; `row_tokens` is T; `stop_token_ids` end a
    generated text; `byte_counts` holds for each id how many bytes of text it stands for; `watch` tells where the time
    went.
    """

    script: str
    settings: dict[str, Any]
    data: dict[str, Any]
    resume: str | None
    row_tokens: int
    stop_token_ids: list[int]
    byte_counts: list[int]
    watch: Stopwatch


def train_and_save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: RunArguments,
    train_rows: Dataset,
    eval_rows: dict[str, Dataset],
    collate: Callable,
    sample: Callable,
    run: Run,
    next_step: str,
) -> int:
    """Train a model with the stock Trainer and leave the finished folder; return the script's exit code.

    Args:
        train_rows: rows of T tokens. eval_rows: held-out rows of each language.
        collate: rows to a batch of (B, T) tensors. sample: model to (prompt, continuation) pairs, at each evaluation.
    """
    say = print if args.process_index == 0 else lambda *_: None
    output_dir = Path(args.output_dir)
    token_flops = flops_per_token(model, run.row_tokens)
    step_rows = count_step_rows(args)
    step_tokens = step_rows * run.row_tokens
    steps = args.max_steps if args.max_steps > 0 else math.ceil(len(train_rows) / step_rows * args.num_train_epochs)
    keep_freed_memory(args.device.type)
    peak_flops = measure_peak(args.device.type, dtype_name(args)) * args.world_size
    width = model.get_input_embeddings().embedding_dim
    compiled = settle_compilation(args, width, token_flops * steps * step_tokens, run.resume)
    planned = run.data["plan"]["tokens"] // step_tokens if "plan" in run.data else steps
    rates = choose_rates(args, model, step_tokens, max(1, min(planned, steps)))
    args.learning_rate = rates.rest
    if args.lr_scheduler_type == "warmup_stable_decay" and not args.lr_scheduler_kwargs:
        decay_steps = min(round(args.decay_share * steps), steps - args.get_warmup_steps(steps))
        args.lr_scheduler_kwargs = {"num_decay_steps": max(0, decay_steps), "decay_type": "linear"}
    clock = None
    if args.minutes is not None:
        clock = Clock(
            args.minutes,
            args.decay_share,
            args.max_steps,
            finish_seconds(args.minutes),
            args.eval_steps,
            args.save_steps,
            EVAL_COST * sum(map(len, eval_rows.values())) / step_rows,
        )
        if run.resume:
            clock.resume(run.resume)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if args.use_liger_kernel:  # its own head with the loss takes the place of ours
        apply_liger_kernel(base, args.liger_kernel_config)
        args.use_liger_kernel = False  # or Trainer would put it over what follows
    else:
        make_fast(base, args.per_device_train_batch_size if compiled else None)
    measure_tokens(base)
    say(
        f"model: {model.config.model_type}, {count_parameters(model) / 1e6:.2f} M parameters, on {args.device.type} in "
        f"{dtype_name(args)}, {'compiled' if compiled else 'not compiled'}"
    )
    avoid_waiting(args)
    stop = StopOnSignal()
    token_bytes = bytes_per_label(train_rows, run.byte_counts)
    progress = Progress(step_tokens, token_flops, peak_flops, token_bytes, clock, run.watch)
    samples = Samples(sample, f"eval_{list(eval_rows)[-1]}", run.watch)
    callbacks = [progress, StopOnDivergence(), samples, stop, MarkComplete(run.watch)]
    try:
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=train_rows.with_format("numpy") if hasattr(train_rows, "with_format") else train_rows,
            eval_dataset={language: rows.with_format("numpy") for language, rows in eval_rows.items()},
            data_collator=collate,
            compute_metrics=make_compute_metrics(run.byte_counts),
            optimizer_cls_and_kwargs=optimizer_factory(args, rates),
            # The clock first: at a step's end it says whether a pause follows, which progress leaves out.
            callbacks=[clock, *callbacks] if clock else callbacks,
        )
        # Trainer would do it in train(), when the run's record is there already; sharded models must wait for that.
        if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            trainer.create_optimizer()
    except (ImportError, RuntimeError, ValueError) as error:  # a reporter or optimizer whose package is not there
        if "install" not in str(error):
            raise
        raise InputError(first_line(error)) from error
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if args.process_index == 0:
        if run.resume:
            continue_record(output_dir, Path(run.resume))
        else:
            start_record(output_dir, run.script, run.settings, {**run.data, "compiled": compiled})
    run.watch.lap("preparing")
    trainer.train(resume_from_checkpoint=run.resume)
    if stop.saved:
        say(f"stopped at step {trainer.state.global_step} and saved; to go on, add: --resume_from_checkpoint true")
        return 128 + stop.received
    if args.process_index == 0:
        finish_run(trainer, tokenizer, output_dir, run, samples.last, progress)
        say(f"done: {output_dir}/ holds the model, loss.png and report.md; next: {next_step}")
    args.distributed_state.wait_for_everyone()
    # DDP's Reducer goes first: as the last to hold the process group it would wait, with the interpreter's lock, for
    # gloo's thread, which can be waiting for that lock.
    del trainer
    gc.collect()
    args.distributed_state.destroy_process_group()  # or its threads can abort a process that leaves
    return 0


def finish_run(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: Path,
    run: Run,
    samples: list[tuple[str, str]],
    progress: Progress,
) -> None:
    """Write what a finished run leaves: the model (and its adapter), run.yaml, loss.png and report.md."""
    model = trainer.model
    if isinstance(model, PeftModel):
        with whole(output_dir / "adapter") as aside:
            model.save_pretrained(aside)
        model = model.merge_and_unload()
    history = trainer.state.log_history
    evaluations = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    final = {name: value for entry in evaluations for name, value in entry.items() if name.startswith("eval_")}
    metrics = {name: round(value, 4) for name, value in final.items() if not name.endswith(("_second", "_runtime"))}
    training = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    figures = progress.figures(next((entry["loss"] for entry in reversed(history) if "loss" in entry), math.nan))
    tokens = trainer.state.global_step * count_step_rows(trainer.args) * run.row_tokens
    memory = peak_memory(trainer.args.device.type)
    facts = {
        "model": f"{model.config.model_type}, {count_parameters(model) / 1e6:.2f} M parameters",
        "trained on": f"{tokens / 1e6:.2f} M tokens in {trainer.state.global_step} steps",
        "data": ", ".join(f"{name}: {value}" for name, value in run.data.items() if name != "plan"),
        "time": "",
        "speed": f"{figures['tokens_per_second']:,.0f} tokens a second in steps, {figures['mfu']:.0%} of the "
        f"{progress.peak_flops / 1e9:,.0f} GFLOP/s that matrix products reach here",
        "training text": f"{figures['bits_per_byte']:.3f} bits per byte at the end",
        "peak memory": describe_memory(memory),
    }
    plot_loss(history, output_dir / "loss.png")
    run.watch.lap("report")
    save_model(model, tokenizer, output_dir, run.stop_token_ids)
    run.watch.lap("saving")
    since = f" since step {progress.first_step}, where this process went on" if progress.first_step else ""
    facts["time"] = f"{run.watch.last:.0f} s{since}: {run.watch.describe()}"
    write_report(output_dir / "report.md", f"A run of {run.script}", facts, evaluations, samples)
    record = read_record(output_dir)
    speed = {"tokens_per_second": round(figures["tokens_per_second"]), "mfu": round(figures["mfu"], 3)}
    speed |= {"seconds": round(run.watch.last, 1), "overhead": round(run.watch.overhead(), 4)}
    speed |= {"since_step": progress.first_step}  # these are of this process alone
    speed |= {"seconds_of": {part: round(value, 2) for part, value in run.watch.seconds.items()}}
    speed |= {f"peak_{name}_bytes": value for name, value in memory.items()}
    outcome = {
        "speed": speed,
        "steps": trainer.state.global_step,
        "training_loss": training.get("train_loss"),
        "metrics": metrics,
    }
    write_record(output_dir, {**record, "status": "finished", **outcome})
