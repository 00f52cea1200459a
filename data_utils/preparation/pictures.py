"""Draws the pictures of a report: languages, lengths, and what each step left."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_utils.preparation.report import name_language, percent, total
from data_utils.preparation.tally import format_bytes
from files import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"zh": "#c8442e", "en": "#2b6ca3"}
OTHERS = ("#6a9a4b", "#b58a2f", "#7a5c99", "#4a9a9a", "#8a8a8a")
INK, PALE = "#333333", "#e4e4e4"
SHOWN_LANGUAGES = 7


def draw_pictures(report: dict, folder: Path) -> None:
    """Draw the pictures of a report."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder.mkdir(exist_ok=True)
    style: Any = {"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#999999", "font.size": 10}
    style |= {"text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    ordered = sorted(report["languages"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
    others = iter(OTHERS * len(ordered))
    colours = {code: COLOURS.get(code) or next(others) for code, _ in ordered}
    with pyplot.rc_context(style):
        save_picture(draw_languages(ordered, colours), folder / "languages.png")
        save_picture(draw_lengths(ordered[:SHOWN_LANGUAGES], colours), folder / "lengths.png")
        save_picture(draw_steps(report["steps"]), folder / "steps.png")


def draw_languages(languages: list[tuple[str, dict]], colours: dict[str, str]) -> "Figure":
    """Return a bar of the shares of languages, of the text and of the documents."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.9))
    for row, name in enumerate(("bytes", "documents")):
        whole, left = sum(counts[name] for _, counts in languages), 0.0
        for code, counts in languages:
            share = 100 * counts[name] / max(whole, 1)
            label = name_language(code) if not row else None
            axes.barh(row, share, 0.62, left, color=colours[code], label=label, edgecolor="white")
            if share >= 6:
                words = percent(counts[name], whole)
                axes.text(left + share / 2, row, words, ha="center", va="center", color="white")
            left += share
    axes.set_yticks([0, 1], ["text (bytes)", "documents"])
    axes.set_ylim(1.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of what was kept")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=8, frameon=False)
    return figure


def draw_lengths(languages: list[tuple[str, dict]], colours: dict[str, str]) -> "Figure":
    """Return a histogram of the lengths of documents, a bar for each language and power of two."""
    from matplotlib import pyplot

    used = [power for _, counts in languages for power, number in enumerate(counts["lengths"]) if number]
    first, last = min(used, default=0), max(used, default=0)
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    width = 0.9 / max(len(languages), 1)
    for place, (code, counts) in enumerate(languages):
        shares = [100 * number / max(counts["documents"], 1) for number in counts["lengths"][first : last + 1]]
        lefts = [power + 0.05 + place * width for power in range(first, last + 1)]
        axes.bar(lefts, shares, width, align="edge", color=colours[code], label=name_language(code))
    ticks = range(first, last + 2, 1 if last - first < 12 else 2)
    axes.set_xticks(ticks, [shorten_number(2**power) for power in ticks])
    axes.set_xlim(first, last + 1)
    axes.set_xlabel("characters of a document")
    axes.set_ylabel("% of the documents of a language")
    axes.yaxis.grid(visible=True, color=PALE)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure


def shorten_number(number: int) -> str:
    """Return a power of two as it is written on an axis.

    >>> shorten_number(512), shorten_number(4096), shorten_number(2**21)
    ('512', '4k', '2M')
    """
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if number >= unit:
            return f"{number // unit}{name}"
    return str(number)


def draw_steps(steps: dict[str, dict]) -> "Figure":
    """Return a bar for each step: how much text it left, of what was read."""
    from matplotlib import pyplot

    names = list(steps)
    sizes = [total(sources)[1] for sources in steps.values()]
    whole = max(*sizes, 1)
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(names) + 0.5))
    axes.barh(names, [100] * len(names), 0.66, color=PALE)
    axes.barh(names, [100 * size / whole for size in sizes], 0.66, color="#54758f")
    for row, size in enumerate(sizes):
        axes.text(101, row, f"{format_bytes(size)}   {percent(size, sizes[0])}", va="center")
    axes.invert_yaxis()
    axes.set_xlim(0, 126)
    axes.xaxis.set_visible(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return figure


def save_picture(figure: "Figure", path: Path) -> None:
    """Write a picture whole or not at all, the same bytes for the same figures."""
    from matplotlib import pyplot

    with whole(path) as aside:
        figure.savefig(aside, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
