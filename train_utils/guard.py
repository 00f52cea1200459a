"""Guards the steps of a run, lets others watch them: a bad one is skipped, after five in a row it goes back."""

import json
import math
import statistics
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback

from files import write_whole
from train_utils.arguments import share_first
from train_utils.callbacks import fail_diverged
from train_utils.run_folder import checkpoint_step, find_last_complete
from train_utils.steps.muon import local_part

GUARD_FILE = "guard.json"  # in a checkpoint: what a run that goes on from it has to know
# A spike lies so many standard deviations above the mean of the steps before (OLMo et al. 2025, "2 OLMo 2 Furious",
# whose optimizer skips such steps), and at least LEAST_SPREAD of the mean are taken for one.
WINDOW_STEPS, SIGMAS, LEAST_SPREAD = 128, 6.0, 0.02
MAX_SKIPPED = 5  # in a row
MAX_RETURNS = 3  # of a run: what fails again and again has diverged


class Guard(TrainerCallback):
    """Skips bad steps, counts them, and after MAX_SKIPPED in a row goes back to the last checkpoint's weights.

    Steps and text go on from where they are: the weights then learn from other text than that which broke them. Each
    step's loss is read back, which on a GPU lets it idle for as long as the optimizer's kernels take to be started.
    """

    def __init__(self) -> None:
        self.losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self.parts: list[torch.Tensor] = []
        self.loss, self.is_skipped, self.in_a_row, self.finite_step = math.nan, False, 0, 0
        self.skipped: list[int] = []
        self.returns: list[tuple[int, int]] = []
        self.trainer: Any = None  # while it trains

    def attach(self, trainer: Trainer, resume: str | None) -> None:
        """Follow the losses of a Trainer, as they are before their gradients are taken."""
        self.trainer, backward = trainer, trainer.accelerator.backward

        def follow(loss: torch.Tensor, **kwargs: Any) -> None:
            self.parts.append(loss.detach())
            backward(loss, **kwargs)

        trainer.accelerator.backward = follow
        path = Path(resume or "") / GUARD_FILE
        if resume and path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            self.losses.extend(kept["losses"])
            self.skipped, self.returns = kept["skipped"], [tuple(pair) for pair in kept["returns"]]

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        model = kwargs["model"]
        gradients = [local_part(p.grad) for p in model.parameters() if p.grad is not None]
        loss = torch.stack(self.parts).float().sum() / args.world_size
        is_bad = ~torch.stack(torch._foreach_norm(gradients)).isfinite().all()
        figures = torch.stack([loss, is_bad.float()])
        if args.world_size > 1:
            dist.all_reduce(figures)  # all skip a step, or none does
        self.loss, bad = figures.tolist()
        self.parts.clear()
        # With fp16 a gradient that overflows is the scaler's business, which lowers its scale.
        self.is_skipped = not args.fp16 and (bad > 0 or not math.isfinite(self.loss) or self.is_spike(self.loss))
        if not self.is_skipped:
            self.losses.append(self.loss)
            self.in_a_row, self.finite_step = 0, state.global_step + 1
            return
        self.skipped.append(state.global_step + 1)
        self.in_a_row += 1
        for parameter in model.parameters():
            parameter.grad = None  # which no optimizer updates

    def is_spike(self, loss: float) -> bool:
        """Tell whether a loss stands out from those before."""
        if len(self.losses) < WINDOW_STEPS // 2:
            return False
        mean = statistics.fmean(self.losses)
        return loss > mean + SIGMAS * max(statistics.pstdev(self.losses), LEAST_SPREAD * abs(mean))

    def on_step_end(self, args, state, control, **kwargs):
        if self.in_a_row >= MAX_SKIPPED:
            self.go_back(args, state)

    def go_back(self, args, state) -> None:
        """Take the weights and the optimizer's state of the last checkpoint; raise RunError where there is none."""
        checkpoint = share_first(args, lambda: find_last_complete(Path(args.output_dir)))
        if checkpoint is None or len(self.returns) == MAX_RETURNS:
            what = f"{self.in_a_row} steps in a row had a loss or a gradient that is no number, or a spike"
            fail_diverged(state.global_step, what, self.finite_step)
        schedule = self.trainer.lr_scheduler.state_dict()
        self.trainer._load_from_checkpoint(str(checkpoint))
        self.trainer._load_optimizer_and_scheduler(str(checkpoint))
        self.trainer.lr_scheduler.load_state_dict(schedule)  # which goes on
        self.in_a_row = 0
        self.returns.append((state.global_step, checkpoint_step(checkpoint)))
        if state.is_world_process_zero:
            print(f"step {state.global_step}: {MAX_SKIPPED} bad steps in a row; {describe_return(self.returns[-1])}")

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "train_loss"):
            if logs and self.losses and self.skipped and not math.isfinite(logs.get(name, 0.0)):
                logs[name] = statistics.fmean(list(self.losses)[-int(args.logging_steps) :])
                state.log_history[-1][name] = logs[name]

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            values = {"losses": list(self.losses), "skipped": self.skipped, "returns": self.returns}
            write_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}" / GUARD_FILE, json.dumps(values))

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer = None  # or it would stay when the run lets it go

    def describe(self) -> str:
        """Return what was skipped in words; '' for nothing."""
        if not self.skipped:
            return ""
        steps = ", ".join(map(str, self.skipped[:10])) + (", ..." if len(self.skipped) > 10 else "")
        words = [f"{len(self.skipped)} (steps {steps}), whose loss or gradient was no number, or a spike"]
        return "; ".join([*words, *(f"at step {pair[0]} {describe_return(pair)}" for pair in self.returns)])


def describe_return(pair: tuple[int, int]) -> str:
    """Return in words that a run went back.

    >>> describe_return((12, 8))
    'the run went back to the weights of step 8, and on with other text'
    """
    return f"the run went back to the weights of step {pair[1]}, and on with other text"


METRICS_FILE, HEARTBEAT_FILE = "metrics.jsonl", "heartbeat.json"
HEARTBEAT_SECONDS = 10.0


class Monitor(TrainerCallback):
    """Writes metrics.jsonl and heartbeat.json into the run's folder, in its first process."""

    def __init__(self, guard: Guard, step_tokens: int) -> None:
        """Args:
        guard: reads each step's loss. step_tokens: of all processes.
        """
        self.guard, self.step_tokens = guard, step_tokens
        self.rate, self.since, self.last_beat, self.file = 0.0, time.monotonic(), -math.inf, None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            path = Path(args.output_dir) / METRICS_FILE
            kept = []
            if state.global_step and path.is_file():  # without the steps that are done again, and a line cut off
                lines = path.read_text(encoding="utf-8").splitlines()[: state.global_step]
                kept = [line for line in lines if is_step(line, state.global_step)]
            write_whole(path, "".join(f"{line}\n" for line in kept))
            self.file = path.open("a", encoding="utf-8")
            self.beat(args, state, "training")

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args, state, control, **kwargs):
        now = time.monotonic()
        if self.file:
            seconds, loss = now - self.since, self.guard.loss
            line = {"step": state.global_step, "loss": round(loss, 6) if math.isfinite(loss) else None}
            line |= {"learning_rate": self.rate, "tokens_per_second": round(self.step_tokens / max(seconds, 1e-9))}
            line |= {"time": round(time.time(), 3)} | ({"skipped": True} if self.guard.is_skipped else {})
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
            if now - self.last_beat > HEARTBEAT_SECONDS:
                self.beat(args, state, "training")
        self.since = now

    def on_save(self, args, state, control, **kwargs):
        self.since = time.monotonic()  # a step's speed is that of training
        if self.file:
            self.beat(args, state, "training")

    on_evaluate = on_save

    def on_train_end(self, args, state, control, **kwargs):
        if self.file:
            self.file.close()
            self.beat(args, state, "ended")

    def beat(self, args, state, status: str) -> None:
        """Say that the run is alive, at which step, and when that was."""
        self.last_beat = time.monotonic()
        values = {"step": state.global_step, "of_steps": state.max_steps, "status": status, "time": round(time.time())}
        write_whole(Path(args.output_dir) / HEARTBEAT_FILE, json.dumps(values))


def is_step(line: str, last_step: int) -> bool:
    """Tell whether a line is that of a step up to `last_step`.

    >>> is_step('{"step": 3}', 3), is_step('{"step": 4}', 3), is_step('{"ste', 3)
    (True, False, False)
    """
    try:
        return json.loads(line)["step"] <= last_step
    except (ValueError, KeyError, TypeError):
        return False
