"""The time of a run: counted by parts, and kept to where `--minutes` says when it ends and the rate has fallen."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from transformers import TrainerCallback

from files import write_whole

CLOCK_FILE = "clock.json"  # in a checkpoint: how much of the time was spent when it was written
LAUNCHERS = {"accelerate", "torchrun", "accelerate.commands.launch", "torch.distributed.run"}
WARMUP_SHARE = 0.02
# Of the time is kept for the last evaluation at most, or twice what it should take: a pause may be slow by chance.
FINISH_SHARE = 0.05


def process_seconds() -> float:
    """Return the seconds since this process was started, or the launcher that started it, imports included.

    Neither a clock that is set nor the sleep of a laptop counts.
    """
    return time.monotonic() - start_time()


@cache
def start_time() -> float:
    """Return when the run's command was given, by the monotonic clock."""
    process = psutil.Process()
    start = process.create_time()
    try:
        for parent in process.parents():
            if not is_launcher(parent.cmdline()):
                break
            start = parent.create_time()
    except psutil.Error:  # a launcher that is another user's, or gone
        pass
    return time.monotonic() - max(0.0, time.time() - start)


def is_launcher(command: list[str]) -> bool:
    """Tell whether a command line is that of `accelerate launch` or torch's launcher.

    >>> is_launcher(["python3", ".venv/bin/accelerate", "launch", "train.py"]), is_launcher(["sh", "-c", "accelerate"])
    (True, False)
    """
    words = [Path(word).name for word in command[:3]]
    return bool(words) and words[0].startswith("python") and bool(LAUNCHERS & set(words[1:]))


def rate_share(progress: float, warmup_share: float, decay_share: float) -> float:
    """Return the share of the peak learning rate at a progress of 0 to 1: warm-up, stable, linear decay to zero.

    Source: Hu et al. 2024 (MiniCPM, warm-up-stable-decay); Bergsma et al. 2025 (linear, down to zero).

    >>> [rate_share(p, 0.1, 0.5) for p in (0, 0.05, 0.1, 0.5, 0.75, 1)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rising = progress / warmup_share if warmup_share > 0 else 1.0
    falling = (1 - progress) / decay_share if decay_share > 0 else 1.0
    return max(0.0, min(1.0, rising, falling))


def find_marks(share: float) -> list[float]:
    """Return at what progress something happens that comes once in each share of a run; the end has its own.

    >>> find_marks(0.25), find_marks(0.5), find_marks(100)
    ([0.25, 0.5, 0.75], [0.5], [])
    """
    return [number * share for number in range(1, math.ceil(0.99 / share))]


@dataclass(eq=False)
class Clock(TrainerCallback):
    """Sets the learning rate by elapsed time and ends the run in time for a last evaluation and saving.

    Whatever the throughput does on the way, the rate is fully decayed at the end. Progress is the share of the time
    between the first step's end (until then data were prepared and layers compiled) and the end of training; with
    `max_steps`, where a run has all that its text is worth before its time is over, that of the steps counts if larger.
    A clocked run isn't reproducible bit for bit; its record holds the steps it took, with which it can be repeated.

    Args:
        minutes: from the start of the process. decay_share: last share, in which the rate falls. max_steps: at most.
        finish_seconds: estimate of what comes after the last evaluation: saving and the report.
        eval_share, save_share: share of the run between evaluations and between checkpoints; 1 or more: no business of
            the clock.
        finish_steps: what the last evaluation costs, in steps, until the first one is measured.
        evaluates_last: whether the last step asks for that evaluation; else it follows the training.
        seconds: returns those since the start of the process; without it, `process_seconds` does.
    """

    minutes: float
    decay_share: float
    max_steps: int
    finish_seconds: float
    eval_share: float = 0.25
    save_share: float = 0.25
    finish_steps: float = 0.0
    evaluates_last: bool = True
    seconds: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        self.total, self.read_seconds = self.minutes * 60, self.seconds or process_seconds
        self.marks = {"evaluate": find_marks(self.eval_share), "save": find_marks(self.save_share)}
        self.spent, self.begin, self.progress = 0.0, None, 0.0
        self.step_seconds, self.last_end, self.pause_start, self.is_last = 0.0, None, None, False
        self.measures_end, self.pause_seconds = False, None

    def elapsed(self) -> float:
        """Return the seconds that this run has taken, those of earlier processes that it goes on from included."""
        return self.spent + self.read_seconds()

    def shared(self, args) -> float:
        """Return `elapsed` of the first process, to all: one clock, or they would part in rate, marks and end."""
        if args.world_size == 1:
            return self.elapsed()
        now = torch.tensor(self.elapsed(), dtype=torch.float64, device=args.device)
        dist.broadcast(now, 0)
        return now.item()

    def resume(self, checkpoint: str) -> None:
        """Go on from a checkpoint: what was spent until it was written is spent."""
        state = json.loads((Path(checkpoint) / CLOCK_FILE).read_text(encoding="utf-8"))
        self.spent, self.begin, self.progress = state["elapsed"], state["begin"], state["progress"]
        self.pause_seconds = state.get("pause_seconds")  # not in old ones
        self.pass_marks("evaluate"), self.pass_marks("save")

    def on_train_begin(self, args, state, control, lr_scheduler: Any = None, optimizer: Any = None, **kwargs):
        lr_scheduler.lr_lambdas = [lambda step: self.share()] * len(lr_scheduler.lr_lambdas)
        for group, rate in zip(optimizer.param_groups, lr_scheduler.base_lrs, strict=True):
            group["lr"] = rate * self.share()

    def share(self) -> float:
        """Return the share of the peak rate for the next step; the first is not lost to a rate of zero."""
        ahead = self.progress + self.step_seconds / max(self.total, 1e-9) / 2
        warm = rate_share(max(ahead, 0.1 * WARMUP_SHARE), WARMUP_SHARE, 0)
        return min(warm, rate_share(ahead, 0, self.decay_share))

    def on_step_begin(self, args, state, control, **kwargs):
        if self.pause_start is not None:  # what a mark costs is what the end will cost
            now = self.shared(args)
            if self.measures_end:
                most = max(FINISH_SHARE * self.total, 2 * self.finish_steps * self.step_seconds)
                self.pause_seconds = min(now - self.pause_start, most)
            self.pause_start, self.last_end = None, now

    def on_optimizer_step(self, args, state, control, **kwargs):
        now = self.shared(args)
        if self.begin is None:
            self.begin = now
        elif self.last_end is not None:
            taken = now - self.last_end
            self.step_seconds = 0.8 * self.step_seconds + 0.2 * taken if self.step_seconds else taken
        self.last_end = now
        estimate = self.finish_steps * self.step_seconds
        evaluation = estimate if self.pause_seconds is None else self.pause_seconds
        end = self.total - evaluation - self.finish_seconds
        of_time = (now - self.begin) / max(end - self.begin, 1e-9)
        self.is_last = now + self.step_seconds / 2 >= end or state.global_step + 1 >= self.max_steps
        self.progress = min(1.0, max(of_time, (state.global_step + 1) / self.max_steps))

    def on_step_end(self, args, state, control, **kwargs):
        if self.is_last:
            control.should_training_stop = control.should_log = True
            control.should_evaluate = self.evaluates_last
            return
        control.should_evaluate |= self.pass_marks("evaluate")
        control.should_save |= self.pass_marks("save")
        if control.should_evaluate or control.should_save:
            self.pause_start, self.measures_end = self.shared(args), control.should_evaluate

    def pass_marks(self, what: str) -> bool:
        """Tell whether a mark has been reached since the last call."""
        waiting = [mark for mark in self.marks[what] if mark > self.progress]
        passed, self.marks[what] = len(waiting) < len(self.marks[what]), waiting
        return passed

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            values = {"elapsed": self.elapsed(), "begin": self.begin, "progress": self.progress}
            values["pause_seconds"] = self.pause_seconds
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / CLOCK_FILE
            write_whole(path, json.dumps(values))


class Stopwatch:
    """Seconds by part; `lap` ends a part, which began where the one before ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = 0.0

    def lap(self, part: str) -> None:
        """Count the time since the last lap to a part."""
        now = process_seconds()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def describe(self) -> str:
        """Return the parts with their shares of the whole, largest first.

        >>> watch = Stopwatch()
        >>> watch.seconds = {"start": 5.0, "steps": 90.0, "evaluation": 3.0, "saving": 2.0}
        >>> watch.describe()
        'steps 90 s (90%), start 5 s (5%), evaluation 3 s (3%), saving 2 s (2%)'
        """
        total = max(sum(self.seconds.values()), 1e-9)
        parts = sorted(self.seconds.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {seconds:.0f} s ({seconds / total:.0%})" for name, seconds in parts)
