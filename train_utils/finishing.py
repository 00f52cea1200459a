"""Writes what a run leaves beside its checkpoints: its record as it begins and ends, the model, loss.png, report.md."""

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import psutil
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from errors import escape_unprintable
from files import whole, write_whole
from model_utils.checkpoint import save_model
from model_utils.shapes import count_parameters
from train_utils.adapters import save_adapter
from train_utils.callbacks import Progress, Samples, name_part
from train_utils.checkpoint import continue_record, start_record, write_record
from train_utils.guard import Guard
from train_utils.objectives import Objective
from train_utils.places import read_record
from train_utils.run import Run

Callback = TypeVar("Callback")


def begin_record(run: Run, facts: dict[str, Any]) -> None:
    """Write the record of a run that begins, or note in it that the run goes on."""
    if run.resume:
        continue_record(run.folder, Path(run.resume))
    else:
        plan = {"plan": asdict(run.plan)} if run.plan else {}
        start_record(run.folder, run.script, run.settings, facts | plan)


def find_callback(trainer: Trainer, kind: type[Callback]) -> Callback:
    """Return a Trainer's callback of a kind."""
    return next(found for found in trainer.callback_handler.callbacks if isinstance(found, kind))


def finish_run(
    run: Run,
    trainer: Trainer,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
) -> None:
    """Write what a finished run leaves: the model (and its adapter), run.yaml, loss.png and report.md."""
    progress, samples = find_callback(trainer, Progress), find_callback(trainer, Samples).last
    guard = find_callback(trainer, Guard)
    if isinstance(model, PeftModel):
        model = save_adapter(model, run.folder / "adapter")
    history = trainer.state.log_history
    evaluations = [entry for entry in history if any(name.startswith("eval_") for name in entry)]
    final = {name: value for entry in evaluations for name, value in entry.items() if name.startswith("eval_")}
    metrics = {name: round(value, 4) for name, value in final.items() if not name.endswith(("_second", "_runtime"))}
    training = next((entry for entry in reversed(history) if "train_runtime" in entry), {})
    figures = progress.figures(next((entry["loss"] for entry in reversed(history) if "loss" in entry), math.nan))
    tokens = trainer.state.global_step * run.step_rows * objective.row_tokens
    memory = peak_memory(trainer.args.device.type)
    facts = {
        "model": f"{model.config.model_type}, {count_parameters(model) / 1e6:.2f} M parameters",
        "trained on": f"{tokens / 1e6:.2f} M tokens in {trainer.state.global_step} steps",
        "data": ", ".join(f"{name}: {value}" for name, value in objective.facts.items()),
        "time": "",
        "speed": f"{figures['tokens_per_second']:,.0f} tokens a second in steps, {figures['mfu']:.0%} of the "
        f"{progress.peak_flops / 1e9:,.0f} GFLOP/s that matrix products reach here",
        "training text": f"{figures['bits_per_byte']:.3f} bits per byte at the end" if objective.is_language else "",
        "peak memory": describe_memory(memory),
        "skipped steps": guard.describe(),
    }
    plot_loss(history, run.folder / "loss.png")
    run.watch.lap("report")
    save_model(model, tokenizer, run.folder, objective.stop_token_ids)
    run.watch.lap("saving")
    since = f" since step {progress.first_step}, where this process went on" if progress.first_step else ""
    facts["time"] = f"{run.watch.last:.0f} s{since}: {run.watch.describe()}"
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # no process can ask it alone
    more = objective.assess(model, tokenizer) if objective.assess and not is_sharded else []
    run.watch.lap("report")
    write_report(
        run.folder / "report.md",
        f"A run of {run.script}",
        facts,
        evaluations=evaluations,
        samples=samples,
        more=more,
    )
    record = read_record(run.folder) or {}
    outcome = {
        "speed": record_speed(run, progress, figures, memory),
        "steps": trainer.state.global_step,
        "training_loss": training.get("train_loss"),
        "metrics": metrics,
        "skipped_steps": guard.skipped,
        "went_back": [list(pair) for pair in guard.returns],
    }
    write_record(run.folder, {**record, "status": "finished", **outcome})


def record_speed(run: Run, progress: Progress, figures: dict[str, float], memory: dict[str, int]) -> dict[str, Any]:
    """Return a run's speed, seconds and memory as its record has them: those of this process alone."""
    watch = run.watch
    speed: dict[str, Any] = {"tokens_per_second": round(figures["tokens_per_second"]), "mfu": round(figures["mfu"], 3)}
    speed |= {"seconds": round(watch.last, 1), "since_step": progress.first_step}
    speed |= {"seconds_of": {part: round(value, 2) for part, value in watch.seconds.items()}}
    return speed | {f"peak_{name}_bytes": value for name, value in memory.items()}


matplotlib.use("Agg")
import matplotlib.pyplot as plt

from eval_utils.scorecard import is_loop

LABELS = {
    "loss": "loss",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "accuracy": "token accuracy",
    "preference_accuracy": "preference accuracy",
    "reward_margin": "margin of the reward",
}
# Panels of the picture and the figures of an evaluation that each shows.
PANELS = {
    "loss (nats)": ("loss",),
    "margin of the reward": ("reward_margin",),
    "preference accuracy": ("preference_accuracy",),
    "nats a token of replies": ("chosen_nats", "rejected_nats"),
}


def peak_memory(device: str) -> dict[str, int]:
    """Return the most memory in bytes that this process has held: its own, and what torch allocated on a GPU."""
    if sys.platform == "win32":
        resident = psutil.Process().memory_info().peak_wset
    else:
        import resource  # which Windows lacks

        # ru_maxrss is in KiB on Linux, in bytes on macOS.
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"memory": resident} | ({"gpu_memory": torch.cuda.max_memory_allocated()} if device == "cuda" else {})


def describe_memory(peaks: dict[str, int]) -> str:
    """Return the peaks of memory in words.

    >>> describe_memory({"memory": 1_250_000_000, "gpu_memory": 3_000_000_000})
    '1.2 GB of the process, 3.0 GB on the GPU'
    """
    places = {"memory": "of the process", "gpu_memory": "on the GPU"}
    return ", ".join(f"{value / 1e9:.1f} GB {places[name]}" for name, value in peaks.items())


def name_curve(name: str, figure: str) -> str | None:
    """Return what a value of Trainer's log is called among the curves of a figure; None for a value of another figure.

    >>> name_curve("loss", "loss"), name_curve("eval_zh_loss", "loss"), name_curve("grad_norm", "loss")
    ('training', 'held-out zh', None)
    >>> name_curve("eval_training_chosen_nats", "chosen_nats")
    'training pairs, chosen'
    """
    if name == figure == "loss":
        return "training"
    if not (name == f"eval_{figure}" or (name.startswith("eval_") and name.endswith(f"_{figure}"))):
        return None
    part = name.removeprefix("eval_").removesuffix(figure).strip("_")
    return name_part(part) + (f", {figure.removesuffix('_nats')}" if figure.endswith("_nats") else "")


def plot_loss(history: list[dict[str, Any]], path: Path) -> None:
    """Draw training loss and held-out figures over steps, from Trainer's log history: those of PANELS that it has."""
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for title, figures in PANELS.items():
        curves: dict[str, list[tuple[int, float]]] = {}
        for entry, name, figure in ((e, name, figure) for e in history for name in e for figure in figures):
            if label := name_curve(name, figure):
                curves.setdefault(label, []).append((entry["step"], entry[name]))
        if curves or not panels:
            panels[title] = curves
    picture, grid = plt.subplots(
        ncols=len(panels), figsize=(8 + 4 * (len(panels) - 1), 4.5), dpi=120, layout="constrained", squeeze=False
    )
    for axes, (title, curves) in zip(grid[0], panels.items(), strict=True):
        for label, points in curves.items():
            axes.plot(*zip(*points, strict=True), label=label, marker="" if label == "training" else "o")
        axes.set(xlabel="step", ylabel=title)
        axes.grid(alpha=0.3)
        if curves:
            axes.legend()
    with whole(path) as aside:
        picture.savefig(aside)
    plt.close(picture)


def write_report(
    path: Path,
    title: str,
    facts: dict[str, str],
    *,
    evaluations: list[dict],
    samples: list[tuple[str, str]],
    more: Sequence[str] = (),
) -> None:
    """Write report.md: what was trained on what, the curves, the held-out figures, samples, and what is weak.

    Args:
        facts: empty ones are left out. evaluations: entries of Trainer's log. more: lines of Markdown for the end.
    """
    shown = [f"| {name} | {value} |" for name, value in facts.items() if value]
    figures = [read_figures(entry) for entry in evaluations]
    names = list(dict.fromkeys(name for _, _, values in figures for name in values))
    lines = [f"# {title}", "", "| | |", "| --- | --- |", *shown, "", "![loss over steps](loss.png)", ""]
    lines += ["## Held-out figures", "", f"| step | part | {' | '.join(LABELS.get(name, name) for name in names)} |"]
    lines += ["| --- " * (2 + len(names)) + "|"]
    for step, part, values in figures:
        lines.append(f"| {step} | {part} | {' | '.join(f'{values.get(name, nan):.3f}' for name in names)} |")
    lines += ["", "## What it writes", ""]
    lines += [f"- **{one_line(prompt)}** {one_line(text)}" for prompt, text in samples]
    lines += ["", "## What is weak", "", *(f"- {line}" for line in find_weakness(figures, samples)), "", *more]
    write_whole(path, escape_unprintable("\n".join(lines)))


def read_figures(entry: dict[str, float]) -> tuple[int, str, dict[str, float]]:
    """Return (step, part, figures) of an evaluation in Trainer's log.

    >>> read_figures({"eval_zh_loss": 2.0, "eval_zh_accuracy": 0.5, "eval_zh_runtime": 1.0, "step": 3, "epoch": 1})
    (3, 'zh', {'loss': 2.0, 'accuracy': 0.5})
    """
    prefix = next(name for name in entry if name.endswith("_loss")).removesuffix("loss")
    values = {name.removeprefix(prefix): value for name, value in entry.items() if name.startswith(prefix)}
    values = {name: value for name, value in values.items() if not name.endswith(("per_second", "runtime", "time"))}
    order = sorted(values, key=lambda name: list(LABELS).index(name) if name in LABELS else len(LABELS))
    return int(entry["step"]), prefix.removeprefix("eval_").strip("_"), {name: values[name] for name in order}


def one_line(text: str) -> str:
    """Return text fit for a line of Markdown.

    >>> one_line("a*b\\nc")
    'a\\\\*b c'
    """
    return re.sub(r"([*_`<>\[\]|])", r"\\\1", " ".join(text.split()))


def find_weakness(figures: list[tuple[int, str, dict[str, float]]], samples: list[tuple[str, str]]) -> list[str]:
    """Return in words what the figures show to be weak; `figures` holds (step, part, figures by name)."""
    found = []
    parts = dict.fromkeys(part for _, part, _ in figures if part != "training")  # what is learned says nothing
    last = {part: [values for _, p, values in figures if p == part] for part in parts}
    for part, values in last.items():
        losses = [value["loss"] for value in values]
        if len(losses) > 1 and losses[-1] > min(losses) * 1.01:
            found.append(
                f"{part}: the held-out loss rose from {min(losses):.3f} to {losses[-1]:.3f}: fewer steps would lower it"
            )
        elif len(losses) > 1 and losses[-1] < losses[-2] * 0.97:
            found.append(f"{part}: the held-out loss still fell at the end: more steps would help")
        if "perplexity" in values[-1]:
            found.append(f"{part}: the next token is guessed right {values[-1]['accuracy']:.0%} of the time")
    ranked = [part for part in last if "bits_per_byte" in last[part][-1]]
    if len(ranked) > 1:
        ranked.sort(key=lambda part: last[part][-1]["bits_per_byte"])
        found.append(f"bits per byte: best in {ranked[0]}, worst in {ranked[-1]}")
    if any(is_loop(text) for _, text in samples):
        found.append("a sample repeats itself")
    return found
