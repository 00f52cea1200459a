"""Acts beside the training steps: progress, samples, stopping, and marking checkpoints complete."""

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from tqdm.auto import tqdm
from transformers import TrainerCallback

from errors import RunError, escape_unprintable
from files import mark_complete
from model_utils.shapes import evaluating
from train_utils.clock import Clock, Stopwatch
from train_utils.plan.machine import synchronize
from train_utils.steps.muon import local_part

SAMPLES_SHARE = 0.01
LINE_SECONDS = 30  # between two lines of progress in a log, where a bar can't move
NOTICE_SECONDS = 30.0  # between SIGTERM and SIGKILL: Slurm's KillWait, and what spot machines give
SIGNAL_STEPS = 5  # between two times that several processes ask one another for a signal, for which all wait


@dataclass(eq=False)
class Progress(TrainerCallback):
    """A bar with tokens a second, share of the machine's peak, bits per byte and time left; a line an evaluation.

    Args:
        peak_flops: FLOP/s of matrix products here, of all processes. clock: of a run that has one.
        bytes_per_token: bytes of text that a trained token stands for; None where the loss is not that of tokens.
    """

    tokens_per_step: int
    flops_per_token: float
    peak_flops: float
    bytes_per_token: float | None
    clock: Clock | None
    watch: Stopwatch

    def __post_init__(self) -> None:
        self.bar, self.first_step, self.seen_steps, self.last_line = None, 0, 0, 0.0
        self.step_seconds: list[float] = []  # without evaluation and saving
        self.since: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = self.seen_steps = state.global_step
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps * self.tokens_per_step,
                initial=state.global_step * self.tokens_per_step,
                unit="tok",
                unit_scale=True,
                desc="training",
                disable=args.disable_tqdm or not sys.stderr.isatty(),
                dynamic_ncols=True,
                mininterval=0.5,
            )

    def on_step_begin(self, args, state, control, **kwargs):
        self.since = self.since or time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        pauses = control.should_evaluate or control.should_save
        if pauses:  # a GPU's work for these steps is theirs, not the pause's
            synchronize(args.device.type)
        now = time.perf_counter()
        self.watch.lap("steps" if self.step_seconds else "first step")  # which compiles
        self.step_seconds.append(now - (self.since or now))
        self.since = None if pauses else now
        if self.bar is not None:
            self.bar.total = self.count_steps(state) * self.tokens_per_step
            self.bar.update((state.global_step - self.seen_steps) * self.tokens_per_step)
            self.seen_steps = state.global_step

    def count_steps(self, state) -> int:
        """Return the steps that the run will have at its end: with a clock, by what share of the time is over."""
        if self.clock is not None and self.clock.progress > 0:
            return int(state.global_step / self.clock.progress)
        return state.max_steps

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            figures = self.figures(logs["loss"], int(args.logging_steps))
            state.log_history[-1].update(figures)
            if self.bar is not None:
                bits = (
                    f"{figures['bits_per_byte']:.3f} bits a byte"
                    if self.bytes_per_token
                    else f"loss {logs['loss']:.3f}"
                )
                line = f"step {state.global_step}, {bits}, {figures['mfu']:.0%} of peak"
                self.bar.set_postfix_str(line)
                if self.bar.disable and not args.disable_tqdm and time.monotonic() - self.last_line > LINE_SECONDS:
                    self.last_line = time.monotonic()
                    rate = figures["tokens_per_second"]
                    tokens = (self.count_steps(state) - state.global_step) * self.tokens_per_step
                    left = tokens / self.figures(logs["loss"])["tokens_per_second"]  # of all steps, some slow by chance
                    print(f"{line}, {rate:,.0f} tokens a second, {tqdm.format_interval(left)} left", flush=True)

    def figures(self, loss: float, last_steps: int = 0) -> dict[str, float]:
        """Return tokens a second over the last steps (0: all) but the first, which compiles, MFU, bits per byte."""
        seconds = self.step_seconds[1:][-last_steps:] or self.step_seconds
        rate = self.tokens_per_step * len(seconds) / max(sum(seconds), 1e-9)
        figures = {"tokens_per_second": rate, "mfu": rate * self.flops_per_token / self.peak_flops}
        bits = {"bits_per_byte": loss / math.log(2) / self.bytes_per_token} if self.bytes_per_token else {}
        return figures | bits

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.watch.lap("evaluation")
        if state.is_world_process_zero and metrics:
            show_line(self.bar, f"step {state.global_step}: {describe_metrics(metrics)}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def show_line(bar: tqdm | None, line: str) -> None:
    """Print a line above the bar."""
    (bar.write if bar is not None else print)(escape_unprintable(line))


def describe_metrics(metrics: dict[str, float]) -> str:
    """Return an evaluation in words: 'held-out zh: loss 3.10, ...'."""
    part, figures = read_figures(metrics)
    return f"{name_part(part)}: {', '.join(f'{name} {value:.3f}' for name, value in figures.items())}"


def read_figures(entry: dict[str, float]) -> tuple[str, dict[str, float]]:
    """Return (part, figures by their names in words) of an evaluation as Trainer logs it, the loss first.

    >>> read_figures({"eval_zh_loss": 2.0, "eval_zh_bits_per_byte": 0.5, "eval_zh_runtime": 1.0, "step": 3, "epoch": 1})
    ('zh', {'loss': 2.0, 'bits per byte': 0.5})
    """
    prefix = next(name for name in entry if name.endswith("_loss")).removesuffix("loss")
    named = {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
    figures = {name.replace("_", " "): value for name, value in named.items() if not name.endswith(("_second", "time"))}
    return prefix.removeprefix("eval_").strip("_"), {"loss": named["loss"]} | figures


def name_part(part: str) -> str:
    """Return what is measured in words: 'held-out zh', or pairs that are trained on too.

    >>> name_part("zh"), name_part(""), name_part("training")
    ('held-out zh', 'held-out', 'training pairs')
    """
    return "training pairs" if part == "training" else f"held-out {part}".strip()


class Samples(TrainerCallback):
    """After an evaluation, what the model writes by itself; kept for the report.

    `generate` takes the model and returns (prompt, continuation) pairs. Between the first and the last evaluation they
    are left out where they have cost more than SAMPLES_SHARE of the time so far: a slow machine has better use for it.
    """

    def __init__(self, generate: Callable, after: str, watch: Stopwatch) -> None:
        self.generate, self.after, self.watch, self.last = generate, after, watch, []

    def on_evaluate(self, args, state, control, metrics=None, model: Any = None, **kwargs):
        if f"{self.after}_loss" not in (metrics or {}):
            return
        is_last = control.should_training_stop or state.global_step >= state.max_steps
        is_sharded = isinstance(model, FSDPModule)  # which only all processes together can ask, at the end
        if not is_last if is_sharded else not state.is_world_process_zero:
            return
        if not is_last and self.watch.seconds.get("samples", 0.0) > SAMPLES_SHARE * self.watch.last:
            return
        # Sampling must not move the training's random state, or a resumed run would differ.
        with evaluating(model), torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(args.seed)
            self.last = self.generate(model)
        for prompt, continuation in self.last if state.is_world_process_zero else []:
            tqdm.write(escape_unprintable(f"    {prompt} → {continuation}".replace("\n", "⏎")))
        self.watch.lap("samples")


class StopOnDivergence(TrainerCallback):
    """Ends a run whose losses or weights are no longer numbers: nothing brings them back.

    With fp16 a training loss that overflows is let pass: such a step is left out.
    """

    def __init__(self) -> None:
        self.finite_step = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, value in (logs or {}).items():
            is_training = name in ("loss", "train_loss")
            if (is_training and not args.fp16) or (name.startswith("eval_") and name.endswith("_loss")):
                if not math.isfinite(value):
                    what = f"the {'' if is_training else 'held-out '}loss is {value}"
                    fail_diverged(state.global_step, what, self.finite_step)
                self.finite_step = state.global_step if name == "loss" else self.finite_step

    def on_save(self, args, state, control, model: Any = None, **kwargs):
        parts = ((name, local_part(weights)) for name, weights in model.named_parameters())
        bad = [name for name, part in parts if not bool(torch.isfinite(part).all())]
        found = [bad]
        if isinstance(model, FSDPModule):  # another process may hold them
            found *= args.world_size
            dist.all_gather_object(found, bad)
        bad = sorted({name for names in found for name in names})
        if bad:
            what = f"{len(bad)} weights, {bad[0]} first, are not finite"
            fail_diverged(state.global_step, what, self.finite_step)

    on_train_end = on_save


def fail_diverged(step: int, what: str, finite_step: int) -> NoReturn:
    """Raise RunError for what was found at a step."""
    raise RunError(
        f"step {step}: {what} (the loss was finite until step {finite_step}): the training has diverged; "
        "begin anew with lower rates (--learning_rate, and with muon --matrix_learning_rate) and --overwrite true"
    )


class StopOnSignal(TrainerCallback):
    """On Ctrl-C, SIGTERM or a terminal that is closed: finish the step, save a checkpoint, end the training.

    `received` is the signal; `saved` says that the checkpoint is there. A signal in the last step or after it, in the
    last evaluation say, stops nothing: the run is as good as finished. A checkpoint is saved each `save_seconds` too.
    """

    def __init__(self, save_seconds: float | None = None) -> None:
        self.received: int | None = None
        self.stopping = self.saved = False
        self.save_seconds = save_seconds
        self.last_step = self.last_save = time.monotonic()
        self.pace_seconds, self.saving_seconds, self.saved_step, self.save_begin = 0.0, None, 0, None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)
        # Windows has no SIGHUP, and nohup leaves it ignored.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self.receive)

    def receive(self, number, frame) -> None:
        if self.received is not None and number == getattr(signal, "SIGHUP", None):
            return  # a shell that ends and its terminal both send one
        if self.received is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self.received = number
        leave_lost_terminal()
        print("stopping as soon as what was trained is saved; once more to leave at once", flush=True)
        needed = (self.saving_seconds or 0.0) + self.pace_seconds
        if number == signal.SIGTERM and needed > NOTICE_SECONDS:
            print(
                f"that takes about {needed:.0f} s, by the last checkpoint: more than the {NOTICE_SECONDS:.0f} s that "
                f"Slurm and spot machines give; if it is cut off, the run goes on from step {self.saved_step}; "
                "--save_seconds saves more often",
                flush=True,
            )

    def on_step_end(self, args, state, control, **kwargs):
        now, received = time.monotonic(), self.received
        is_due = self.save_seconds is not None and now - self.last_save >= self.save_seconds
        steps = SIGNAL_STEPS if args.world_size > 1 else 1
        self.pace_seconds, self.last_step = steps * (now - self.last_step), now
        self.save_begin = now if control.should_save and not control.should_evaluate else None
        if args.world_size > 1:
            if state.global_step % SIGNAL_STEPS:
                return
            asked = torch.tensor([received or 0, is_due], device=args.device)
            dist.all_reduce(asked, op=dist.ReduceOp.MAX)  # all do it at the same step, whoever was asked
            received, is_due = asked.tolist()
        control.should_save |= bool(is_due)
        if received and not control.should_training_stop:
            self.received, self.stopping = received, True
            control.should_training_stop = control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.saved, self.last_save = self.stopping, time.monotonic()
        self.saved_step = state.global_step if state else self.saved_step

    def on_step_begin(self, args, state, control, **kwargs):
        now = time.monotonic()
        if self.save_begin is not None:
            self.saving_seconds, self.save_begin, self.last_step = now - self.save_begin, None, now


def leave_lost_terminal() -> None:
    """Turn output to nowhere where its terminal is gone: an error of writing would end what is still to be saved."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


class TellEpoch(TrainerCallback):
    """Tells rows that are others in each epoch which one begins.

    accelerate does not where a run goes on within an epoch, nor with several processes.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Go to the epoch."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(int(state.epoch or 0))


class MarkComplete(TrainerCallback):
    """After each save, mark the checkpoint complete (a save that was cut off stays unmarked)."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_save(self, args, state, control, **kwargs):
        if args.world_size > 1:
            dist.barrier()  # every process has written its random state
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self.watch.lap("saving")
