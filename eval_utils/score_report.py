"""Shows the figures of checkpoints side by side: a table, a file for programs, a picture, a sentence."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.font_manager import fontManager

from eval_utils.figures import Figure, compare_figures
from files import whole, write_whole

BETTER, WORSE = "▲", "▼"
CHINESE_FONTS = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")
NOT_BRIEF = ("without loops", "in the asker's language")
MEANINGS = {
    "held-out text": "bits that a byte of unseen text costs; 8 for a model that knows nothing, about 1 for a large one",
    "held-out replies": "bits that a byte of unseen replies costs, after the question was read",
    "minimal pairs": "how often the sentence that people accept is the likelier of two; 50% is chance",
    "pairs of files": "how often the sentence that people accept is the likelier of two; 50% is chance",
    "choices": "how often the right answer is the likeliest",
    "continuations": "how often the likeliest words are those that follow",
    "stops within": "replies that end by themselves, which keeps a chat from running on",
    "in the asker's language": "replies in the language of the question",
    "without loops": "replies that don't say the same over and over",
    "on the topic": "replies that have to do with the question",
    "gives its name": "replies that tell its name when asked",
    "returns a greeting": "greetings that are returned",
    "remembers the turn before": "replies that use what was told one turn ago",
    "admits not to know": "replies to what nobody can know that say so",
    "tokens a second": "how fast a reply comes, after its first token",
    "time to the first token": "how long until a reply begins",
    "memory to decode": "the weights and what a full window of a dialogue takes",
}
Scores = dict[str, list[Figure]]  # of each checkpoint


def name_folders(paths: list[str]) -> dict[str, str]:
    """Return a short name for each checkpoint: its folder's, or its path where two folders have one name.

    >>> name_folders(["a/ckpt", "b/ckpt"]), name_folders(["a/ckpt", "b/chat/"])
    ({'a/ckpt': 'a/ckpt', 'b/ckpt': 'b/ckpt'}, {'ckpt': 'a/ckpt', 'chat': 'b/chat/'})
    """
    last = [Path(path).resolve().name for path in paths]
    different = {str(Path(path).resolve()) for path in paths}
    is_clear = len(set(last)) == len(different)
    names = [name if is_clear else path for name, path in zip(last, paths, strict=True)]
    return dict(zip(names, paths, strict=True))


def format_value(figure: Figure, value: float) -> str:
    """Return a value in the figure's unit, without the unit's name unless it is %.

    >>> format_value(Figure("a", [1.0], part=""), 0.5)
    '50.0%'
    """
    if figure.unit == "%":
        return f"{value:.1%}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"


def show_with_unit(figure: Figure) -> str:
    """Return a figure's value with its unit."""
    return format_value(figure, figure.value) + ("" if figure.unit == "%" else f" {figure.unit}")


def show_figure(figure: Figure) -> str:
    """Return a figure with its interval."""
    interval = figure.interval()
    span = f" [{format_value(figure, interval[0])}, {format_value(figure, interval[1])}]" if interval else ""
    return format_value(figure, figure.value) + span


def explain(figure: Figure) -> str:
    """Return what a figure means."""
    return next((words for name, words in MEANINGS.items() if figure.name.startswith(name)), "")


def align(scores: Scores) -> list[list[Figure | None]]:
    """Return a row for each figure, with that of each checkpoint in order, None where one has it not."""
    names = dict.fromkeys(figure.name for figures in scores.values() for figure in figures)
    found = [{figure.name: figure for figure in figures} for figures in scores.values()]
    return [[figures.get(name) for figures in found] for name in names]


def make_table(scores: Scores) -> list[list[str]]:
    """Return the table's rows: a head, then for each figure its name, its unit and each checkpoint's value.

    A mark says where a checkpoint is better or worse than the first one by more than chance.
    """
    rows = [["", "unit", *scores]]
    for figures in align(scores):
        known = next(figure for figure in figures if figure)
        cells = [f"{show_figure(one)} {mark_difference(one, figures[0])}".rstrip() if one else "" for one in figures]
        rows.append([known.name, "" if known.unit == "%" else known.unit, *cells])
    return rows


def mark_difference(figure: Figure, other: Figure | None) -> str:
    """Return a mark where a figure is better or worse than another by more than chance."""
    return ("", BETTER, WORSE)[compare_figures(figure, other) if other else 0]


def format_text(rows: list[list[str]]) -> str:
    """Return a table for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def format_brief(figures: list[Figure]) -> str:
    """Return ten lines at most of one checkpoint's figures, each with what it means."""
    shown = [figure for figure in figures if figure.part != "speed" and not figure.name.startswith(NOT_BRIEF)][:9]
    shown += [figure for figure in figures if figure.name == "tokens a second"]
    return format_text([[figure.name, show_with_unit(figure), explain(figure)] for figure in shown])


def show_scores(scores: Scores, *, compare: bool, brief: bool) -> str:
    """Return what a terminal shows: two checkpoints compared in a sentence, the first one briefly, or the table."""
    if compare:
        return compare_sentence(scores)
    return format_brief(next(iter(scores.values()))) if brief else format_text(make_table(scores))


def compare_sentence(scores: Scores) -> str:
    """Return in one sentence which of two checkpoints is better, and by what; speed is left out."""
    names = list(scores)
    pairs = [[figure for figure in row if figure] for row in align(scores)]
    rows = [row for row in pairs if len(row) == 2 and row[0].part != "speed"]
    wins = [[row for row in rows if mark_difference(row[i], row[1 - i]) == BETTER] for i in (0, 1)]
    if not any(wins):
        return f"{names[0]} and {names[1]} differ in no figure by more than chance."
    best = int(len(wins[1]) >= len(wins[0]))
    ahead, behind = ("; ".join(describe_lead(row, best) for row in wins[i]) for i in (best, 1 - best))
    if len(wins[0]) == len(wins[1]):
        return f"Neither is better: {names[best]} is ahead in {ahead}, and behind in {behind}."
    rest = f"worse in {len(wins[1 - best])}: {behind}" if behind else "worse in none"
    lead = f"in {len(wins[best])} of {len(rows)} figures ({ahead})"
    return f"{names[best]} is better than {names[1 - best]} by more than chance {lead}, and {rest}."


def describe_lead(row: list[Figure], place: int) -> str:
    """Return a figure's name and value at a place of a row of two, against the other's."""
    ahead, behind = row[place], row[1 - place]
    return f"{ahead.name} {format_value(ahead, ahead.value)} against {show_with_unit(behind)}"


def write_scores(folder: Path, scores: Scores, facts: dict[str, dict]) -> None:
    """Write score.md, score.json and score.png; `facts` are those of each checkpoint."""
    head, *rows = make_table(scores)
    shown = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, *rows)]
    lines = ["# Scores", "", shown[0], "| --- " * len(head) + "|", *shown[1:]]
    lines += ["", "In brackets: 95% intervals, by 1,000 bootstrap resamples of the documents, pairs or questions."]
    if len(scores) > 1:
        lines += [f"{BETTER} better, {WORSE} worse than {head[2]} by more than chance, on the same items."]
    lines += ["", "![figures](score.png)", "", "## What they mean", ""]
    known = [next(figure for figure in figures if figure) for figures in align(scores)]
    lines += [f"- {figure.name}: {explain(figure)}." for figure in known if explain(figure)]
    write_whole(folder / "score.md", "\n".join(lines) + "\n")
    record = {name: facts[name] | {"figures": [f.as_record() for f in figures]} for name, figures in scores.items()}
    write_whole(folder / "score.json", json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    with whole(folder / "score.png") as path:
        draw_scores(path, scores)


def draw_scores(path: Path, scores: Scores) -> None:
    """Draw each figure in a panel of its own: a point with its interval for each checkpoint.

    A name that no font here can write stands as its place in the table: #1 is the first checkpoint.
    """
    known = {font.name for font in fontManager.ttflist}
    plt.rcParams["font.family"] = ["DejaVu Sans", *(name for name in CHINESE_FONTS if name in known)]
    has_font = len(plt.rcParams["font.family"]) > 1
    names = [name if has_font or name.isascii() else f"#{place}" for place, name in enumerate(scores, 1)]
    rows = align(scores)
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    size = (4.2 * columns, (0.9 + 0.25 * len(scores)) * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, dpi=110, layout="constrained", squeeze=False)
    for panel, found in zip(axes.flat, rows, strict=False):
        for place, one in enumerate(found):
            if one:
                low, high = one.interval() or (one.value, one.value)
                scale = 100 if one.unit == "%" else 1
                panel.plot([scale * low, scale * high], [place, place], color=f"C{place % 10}", linewidth=2)
                panel.plot(scale * one.value, place, "o", color=f"C{place % 10}")
                panel.set_title(
                    f"{one.name}, {one.unit}{' (less is better)' if one.lower_is_better else ''}", fontsize=8
                )
        panel.set_yticks(range(len(scores)), names, fontsize=7, parse_math=False)
        panel.set_ylim(len(scores) - 0.5, -0.5)
        panel.tick_params(axis="x", labelsize=7)
        panel.grid(axis="x", alpha=0.3)
    for panel in axes.flat[len(rows) :]:
        panel.axis("off")
    figure.savefig(path)
    plt.close(figure)
