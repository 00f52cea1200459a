"""What became of every source, as Markdown and pictures."""

from pathlib import Path

from data_utils.preparation.tally import shorten

LANGUAGES = {"en": "English", "zh": "Chinese"}
SHOWN = 30  # sources in the report, the largest
SHOWN_WITH_STEPS = 6
SHOWN_FAULTS = 50


def total(sources: dict[str, list[int]]) -> list[int]:
    """Return the documents and bytes of all sources."""
    return [sum(counts[0] for counts in sources.values()), sum(counts[1] for counts in sources.values())]


def format_table(head: list[str], rows: list[list[object]]) -> list[str]:
    """Return the lines of a Markdown table, numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    rule = ["---:" if rows and isinstance(cell, int | float) else "---" for cell in (rows[0] if rows else head)]
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *cells)] + [""]


def megabytes(size: int) -> str:
    """Return bytes as MB.

    >>> megabytes(1_234_567)
    '1.2'
    """
    return f"{size / 1e6:,.1f}"


def quote(text: str) -> str:
    """Return a text so that Markdown shows it as it is, on one line of a table."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


def format_report(report: dict, name: str) -> str:
    """Return the report as Markdown."""
    steps = report["steps"]
    names = list(steps)
    first, last = total(steps[names[0]]), total(steps[names[-1]])
    lines = [
        f"# Corpus {name}",
        "",
        f"{first[0]:,} documents ({megabytes(first[1])} MB of text) read, {last[0]:,} ({megabytes(last[1])} MB) kept; "
        f"{len(report['faults']):,} faults in the input.",
        "",
        "## Steps",
        "",
        "What each step let through; its reasons for the rest stand below.",
        "",
    ]
    rows = [[step, *total(steps[step])] for step in names]
    before = [rows[0], *rows[:-1]]
    lines += format_table(
        ["step", "documents", "dropped", "MB", "change of MB"],
        [
            [s, d, b[1] - d, megabytes(size), megabytes(size - b[2])]
            for (s, d, size), b in zip(rows, before, strict=True)
        ],
    )
    lines += ["![MB after each step](pictures/steps.png)", "", "## Sources", ""]
    ordered = sorted(steps[names[0]], key=lambda source: (-steps[names[0]][source][1], source))
    shown = ordered[:SHOWN]
    if len(shown) <= SHOWN_WITH_STEPS:
        head = ["source", *(f"{step}: documents (MB)" for step in names)]
        cells = [[steps[step].get(source, [0, 0]) for step in names] for source in shown]
        rows = [
            [quote(source), *(f"{d:,} ({megabytes(size)})" for d, size in row)]
            for source, row in zip(shown, cells, strict=True)
        ]
        lines += format_table(head, rows)
    else:
        cells = [(*steps[names[0]][source], *steps[names[-1]].get(source, [0, 0])) for source in shown]
        rows = [
            [quote(source), a, megabytes(b), c, megabytes(d)] for source, (a, b, c, d) in zip(shown, cells, strict=True)
        ]
        lines += format_table(["source", "documents in", "MB in", "documents out", "MB out"], rows)
    if len(ordered) > len(shown):
        lines += [f"{len(ordered) - len(shown):,} smaller sources are in report.json, each with every step.", ""]

    languages = sorted(report["languages"].items(), key=lambda item: -item[1]["bytes"])
    lines += ["## Languages", ""]
    rows = [
        [
            LANGUAGES.get(code, code),
            c["documents"],
            c["held_out"],
            megabytes(c["bytes"]),
            f"{c['bytes'] / max(last[1], 1):.1%}",
        ]
        for code, c in languages
    ]
    lines += format_table(["language", "documents", "held out (if leaks are watched)", "MB", "share of bytes"], rows)
    lines += ["![Length of documents](pictures/lengths.png)", "", "## Dropped", ""]
    rows = [[step, reason or step, n] for step in names for reason, n in report["reasons"].get(step, {}).items()]
    lines += format_table(["step", "reason", "documents"], rows) if rows else ["Nothing was dropped.", ""]
    for kind, examples in report["examples"].items():
        lines += [f"- {kind}"]
        lines += [
            f"  - {quote(example['text'])} ({', '.join(v for k, v in example.items() if k != 'text')})"
            for example in examples
        ]
    lines += ["", "## Changed", ""]
    for step, examples in report["changed"].items():
        lines += [f"- {step}"]
        lines += [
            f"  - {quote(shorten(example['before']))} became {quote(shorten(example['after']))}" for example in examples
        ]
    lines += ["", "## Kept", ""]
    for code, examples in report["kept"].items():
        lines += [f"- {LANGUAGES.get(code, code)}"]
        lines += [f"  - {quote(example['text'])} ({example['source']})" for example in examples]
    lines += ["", "## Broken input", ""]
    rows = [[quote(file), place, quote(reason)] for file, place, reason in report["faults"][:SHOWN_FAULTS]]
    lines += format_table(["file", "place", "reason"], rows) if rows else ["None.", ""]
    if len(report["faults"]) > SHOWN_FAULTS:
        lines += [f"{len(report['faults']) - SHOWN_FAULTS:,} more are in report.json.", ""]
    lines += ["## Time", "", "Seconds of one core, all tasks together; MB are of the text that was read.", ""]
    rows = [[step, f"{s:,.1f}", f"{first[1] / 1e6 / s:,.1f}"] for step, s in report["seconds"].items()]
    lines += format_table(["step", "seconds", "MB/s"], rows)
    return "\n".join(lines)


def draw_pictures(report: dict, folder: Path) -> None:
    """Draw how much each step left, and how long documents are."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    folder.mkdir(exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(report["steps"]) + 1.2))
    axes.barh(list(report["steps"]), [total(sources)[1] / 1e6 for sources in report["steps"].values()])
    axes.invert_yaxis()
    axes.set_xlabel("MB after the step")
    save_picture(figure, folder / "steps.png")
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for code, counts in report["languages"].items():
        powers = range(len(counts["lengths"]))
        shares = [100 * number / max(counts["documents"], 1) for number in counts["lengths"]]
        axes.stairs(shares, [2**power for power in (*powers, len(powers))], label=LANGUAGES.get(code, code))
    axes.set_xscale("log", base=2)
    longest = max((p for c in report["languages"].values() for p, n in enumerate(c["lengths"]) if n), default=1)
    axes.set_xlim(1, 2 ** (longest + 1))
    axes.set_xlabel("characters of a document")
    axes.set_ylabel("% of the documents of a language")
    axes.legend()
    save_picture(figure, folder / "lengths.png")


def save_picture(figure: object, path: Path) -> None:
    """Write a picture whole or not at all, the same bytes for the same figures."""
    from matplotlib import pyplot

    aside = path.with_suffix(".tmp.png")
    figure.tight_layout()
    figure.savefig(aside, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    aside.replace(path)
