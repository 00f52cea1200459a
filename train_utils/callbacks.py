"""What happens beside the training steps: progress, samples, stopping, and marking checkpoints complete."""

import signal
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import TrainerCallback

from train_utils.checkpoint import mark_complete


class Progress(TrainerCallback):
    """A bar with tokens a second and time left; a line for each evaluation."""

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self.tokens_per_step, self.flops_per_token = tokens_per_step, flops_per_token
        self.bar, self.seen_steps = None, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen_steps = state.global_step
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps * self.tokens_per_step,
                initial=state.global_step * self.tokens_per_step,
                unit="tok",
                unit_scale=True,
                desc="training",
                disable=args.disable_tqdm,
                dynamic_ncols=True,
                mininterval=0.5,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update((state.global_step - self.seen_steps) * self.tokens_per_step)
            self.seen_steps = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is not None and logs and "loss" in logs:
            rate = self.bar.format_dict["rate"] or 0
            self.bar.set_postfix_str(
                f"step {state.global_step}, loss {logs['loss']:.3f}, {rate * self.flops_per_token / 1e9:.0f} GFLOP/s"
            )

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if state.is_world_process_zero and metrics:
            show_line(self.bar, f"step {state.global_step}: {describe_metrics(metrics)}")

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def show_line(bar: tqdm | None, line: str) -> None:
    """Print a line above the bar."""
    (bar.write if bar is not None else print)(line)


def describe_metrics(metrics: dict[str, float]) -> str:
    """Return an evaluation in words: 'held-out zh: loss 3.10, ...'."""
    loss_name = next(name for name in metrics if name.endswith("_loss"))
    prefix = loss_name.removesuffix("loss")
    language = prefix.removeprefix("eval_").strip("_")
    words = [f"loss {metrics[loss_name]:.3f}"]
    for name, label in (("perplexity", "perplexity"), ("bits_per_byte", "bits per byte"), ("accuracy", "accuracy")):
        if prefix + name in metrics:
            words.append(f"{label} {metrics[prefix + name]:.3f}")
    return f"held-out {language}: {', '.join(words)}".replace("  ", " ")


class Samples(TrainerCallback):
    """After each evaluation, what the model writes by itself; kept for the report.

    `generate` takes the model and returns (prompt, continuation) pairs.
    """

    def __init__(self, generate: Callable, after: str) -> None:
        self.generate, self.after, self.last = generate, after, []

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        if not state.is_world_process_zero or f"{self.after}_loss" not in (metrics or {}):
            return
        was_training = model.training
        model.eval()
        # Sampling must not move the training's random state, or a resumed run would differ.
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(args.seed)
            self.last = self.generate(model)
        model.train(was_training)
        for prompt, continuation in self.last:
            tqdm.write(f"    {prompt} → {continuation}".replace("\n", "⏎"))


class StopOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM: finish the step, save a checkpoint, end the training; `received` is the signal."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.receive)

    def receive(self, number, frame) -> None:
        if self.received is not None:  # asked twice: at once
            raise KeyboardInterrupt
        self.received = number
        print("\nstopping: the step is finished and a checkpoint saved; once more to leave at once", flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        stop = torch.tensor(self.received or 0, device=args.device)
        if args.world_size > 1:  # all stop at the same step, whoever was asked
            dist.all_reduce(stop, op=dist.ReduceOp.MAX)
        if stop.item():
            self.received = int(stop.item())
            control.should_training_stop = control.should_save = True


class MarkComplete(TrainerCallback):
    """After each save, mark the checkpoint complete (a save that was cut off stays unmarked)."""

    def on_save(self, args, state, control, **kwargs):
        if args.world_size > 1:
            dist.barrier()  # every process has written its random state
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")
