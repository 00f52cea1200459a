"""Lets others watch a run: a line of JSON for each step, and a file that says that it is alive."""

import json
import math
import time
from pathlib import Path

from transformers import TrainerCallback

from files import write_whole
from train_utils.guard import Guard

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

    def on_evaluate(self, args, state, control, **kwargs):
        self.on_save(args, state, control)

    def on_save(self, args, state, control, **kwargs):
        self.since = time.monotonic()  # a step's speed is that of training
        if self.file:
            self.beat(args, state, "training")

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
