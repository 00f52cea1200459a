"""Draws the curves of a run, and reports in Markdown what it learned and where it is weak."""

import re
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from errors import escape_unprintable
from eval_utils.scorecard import is_loop
from files import whole, write_whole
from train_utils.callbacks import name_part, read_figures

# Panels of the picture and the figures of an evaluation that each shows.
PANELS = {
    "loss (nats)": ("loss",),
    "reward margin": ("reward_margin",),
    "preference accuracy": ("preference_accuracy",),
    "nats a token of replies": ("chosen_nats", "rejected_nats"),
}


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
    figures = [(int(entry["step"]), *read_figures(entry)) for entry in evaluations]
    names = list(dict.fromkeys(name for _, _, values in figures for name in values))
    lines = [f"# {title}", "", "| | |", "| --- | --- |", *shown, "", "![loss over steps](loss.png)", ""]
    lines += ["## Held-out figures", "", f"| step | part | {' | '.join(names)} |"]
    lines += ["| --- " * (2 + len(names)) + "|"]
    for step, part, values in figures:
        lines.append(f"| {step} | {part} | {' | '.join(f'{values.get(name, nan):.3f}' for name in names)} |")
    lines += ["", "## What it writes", ""]
    lines += [f"- **{one_line(prompt)}** {one_line(text)}" for prompt, text in samples]
    lines += ["", "## What is weak", "", *(f"- {line}" for line in find_weakness(figures, samples)), "", *more]
    write_whole(path, escape_unprintable("\n".join(lines)))


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
    ranked = [part for part in last if "bits per byte" in last[part][-1]]
    if len(ranked) > 1:
        ranked.sort(key=lambda part: last[part][-1]["bits per byte"])
        found.append(f"bits per byte: best in {ranked[0]}, worst in {ranked[-1]}")
    if any(is_loop(text) for _, text in samples):
        found.append("a sample repeats itself")
    return found
