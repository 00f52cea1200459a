"""The picture and the page that a run leaves: loss.png and report.md."""

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
import psutil
import torch

from files import whole, write_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt


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


def plot_loss(history: list[dict[str, Any]], path: Path) -> None:
    """Draw training loss and held-out losses over steps, from Trainer's log history."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        for name, value in entry.items():
            if name == "loss" or (name.startswith("eval_") and name.endswith("_loss")):
                curves.setdefault(name, []).append((entry["step"], value))
    for name, points in curves.items():
        label = "training" if name == "loss" else "held-out " + name.removeprefix("eval_").removesuffix("_loss")
        axes.plot(*zip(*points, strict=True), label=label.strip(), marker="" if name == "loss" else "o")
    axes.set(xlabel="step", ylabel="loss (nats a token)")
    axes.grid(alpha=0.3)
    if curves:
        axes.legend()
    with whole(path) as aside:
        figure.savefig(aside)
    plt.close(figure)


def write_report(
    path: Path, title: str, facts: dict[str, str], evaluations: list[dict], samples: list[tuple[str, str]]
) -> None:
    """Write report.md: what was trained on what, the curves, the held-out figures, samples, and what is weak."""
    lines = [f"# {title}", "", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in facts.items())]
    lines += ["", "![loss over steps](loss.png)", "", "## Held-out figures", ""]
    lines += ["| step | part | loss | perplexity | bits per byte | token accuracy |", "| --- " * 6 + "|"]
    figures = []
    for entry in evaluations:
        name = next(name for name in entry if name.endswith("_loss"))
        prefix = name.removesuffix("loss")
        part = prefix.removeprefix("eval_").strip("_")
        values = [entry.get(prefix + key, float("nan")) for key in ("loss", "perplexity", "bits_per_byte", "accuracy")]
        figures.append((entry["step"], part, values))
        lines.append(f"| {entry['step']} | {part} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    lines += ["", "## What it writes", ""]
    lines += [f"- **{one_line(prompt)}** {one_line(text)}" for prompt, text in samples]
    lines += ["", "## What is weak", "", *(f"- {line}" for line in find_weakness(figures, samples)), ""]
    write_whole(path, "\n".join(lines))


def one_line(text: str) -> str:
    """Return text fit for a line of Markdown.

    >>> one_line("a*b\\nc")
    'a\\\\*b c'
    """
    return re.sub(r"([*_`<>\[\]|])", r"\\\1", " ".join(text.split()))


def find_weakness(figures: list[tuple[int, str, list[float]]], samples: list[tuple[str, str]]) -> list[str]:
    """Return in words what the figures show to be weak; `figures` holds (step, part, [loss, ppl, bpb, accuracy])."""
    found = []
    parts = dict.fromkeys(part for _, part, _ in figures)
    last = {part: [values for _, p, values in figures if p == part] for part in parts}
    for part, values in last.items():
        losses = [value[0] for value in values]
        if len(losses) > 1 and losses[-1] > min(losses) * 1.01:
            found.append(
                f"{part}: the held-out loss rose from {min(losses):.3f} to {losses[-1]:.3f}: fewer steps would lower it"
            )
        elif len(losses) > 1 and losses[-1] < losses[-2] * 0.97:
            found.append(f"{part}: the held-out loss still fell at the end: more steps would help")
        found.append(f"{part}: the next token is guessed right {values[-1][3]:.0%} of the time")
    if len(last) > 1:
        ranked = sorted(last, key=lambda part: last[part][-1][2])
        found.append(f"bits per byte: best in {ranked[0]}, worst in {ranked[-1]}")
    if any(is_loop(text) for _, text in samples):
        found.append("a sample repeats itself")
    return found


def is_loop(text: str) -> bool:
    """Tell whether a 4-gram, of words or of Chinese characters, comes three times.

    >>> is_loop("very very very very very very good"), is_loop("a calm day by the sea")
    (True, False)
    """
    units = re.findall(r"[\u3400-\u9fff]|[^\W\d_]+|\d", text.lower())
    grams = [tuple(units[i : i + 4]) for i in range(len(units) - 3)]
    return any(grams.count(gram) >= 3 for gram in set(grams))
