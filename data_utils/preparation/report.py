"""Tells what became of every source, as Markdown and as a picture."""

from collections.abc import Iterator
from pathlib import Path

from data_utils.preparation.tally import format_bytes, plural, shorten
from files import whole

LANGUAGES = {"en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean"}
SHOWN_SOURCES = 30
SHOWN_FAULTS = 50


def total(sources: dict[str, list[int]]) -> list[int]:
    """Return the documents and bytes of all sources."""
    return [sum(counts[0] for counts in sources.values()), sum(counts[1] for counts in sources.values())]


def name_language(code: str) -> str:
    """Return a language's name."""
    return LANGUAGES.get(code, code or "unknown")


def percent(part: float, whole: float) -> str:
    """Return a share in words.

    >>> percent(1, 3), percent(0, 0), percent(1, 10**6), percent(999_999, 10**6)
    ('33.3%', '0%', '< 0.1%', '> 99.9%')
    """
    share = part / whole if whole else 0
    if share in (0, 1):
        return f"{share:.0%}"
    return "< 0.1%" if share < 0.001 else "> 99.9%" if share > 0.999 else f"{share:.1%}"


def quote(text: str) -> str:
    """Return a text so that Markdown shows it as it is, on one line of a table."""
    return "`" + text.replace("`", "'").replace("|", "\\|").replace("\n", " ") + "`"


def format_table(head: list[str], rows: list[list[object]], texts: int = 1) -> list[str]:
    """Return the lines of a Markdown table; all but the first `texts` columns stand to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    rule = ["---" if place < texts else "---:" for place in range(len(head))]
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *cells)] + [""]


def format_report(report: dict, name: str) -> str:
    """Return the report as Markdown."""
    parts = (summarize, show_languages, show_steps, show_sources, show_dropped, show_examples, show_faults, show_time)
    lines = [f"# Corpus {name}", ""]
    for part in parts:
        lines += part(report)
    return "\n".join(lines)


def ends_of(report: dict) -> tuple[list[int], list[int]]:
    """Return the documents and bytes that were read, and those that were kept."""
    steps = list(report["steps"].values())
    return total(steps[0]), total(steps[-1])


def describe_languages(dropped: dict[str, int], documents: int, languages: list[str]) -> str:
    """Return in a line what the step `language` dropped and how to keep it, '' for a twentieth of the documents."""
    dropped = {code: count for code, count in dropped.items() if code != "none"}
    if sum(dropped.values()) <= 0.05 * documents:
        return ""
    most = sorted(dropped, key=lambda code: (-dropped[code], code))[:4]
    counts = ", ".join(f"{dropped[code]:,} in {name_language(code)}" for code in most)
    return (
        f"--languages {' '.join(languages)} left out {plural(sum(dropped.values()), 'document')} ({counts}); "
        f"to keep them: --languages {' '.join([*languages, *most])}"
    )


def summarize(report: dict) -> list[str]:
    """Return what it all came to."""
    read, kept = ends_of(report)
    held_out = sum(counts["held_out"] for counts in report["languages"].values())
    rows: list[list[object]] = [
        ["read", read[0], format_bytes(read[1]), "100%"],
        ["**kept**", kept[0], format_bytes(kept[1]), percent(kept[1], read[1])],
        ["of that, held out", held_out, "", ""],
    ]
    lines = format_table(["", "documents", "text", "share of the text"], rows)
    reasons = [(n, step, reason) for step, found in report["reasons"].items() for reason, n in found.items()]
    if reasons:
        named = [(n, f"{step}: {reason}" if reason else step) for n, step, reason in sorted(reasons, reverse=True)[:4]]
        most = "; ".join(f"{words} ({n:,})" for n, words in named)
        lines += [f"Dropped: {plural(read[0] - kept[0], 'document')}, most of them by {most}.", ""]
    if report["faults"]:
        files = len({file for file, _, _ in report["faults"]})
        lines += [
            f"Not readable: {plural(len(report['faults']), 'fault')} in {plural(files, 'file')}, "
            f"{percent(report['broken']['share'], 1)} of the input ({report['broken']['words']}); "
            "[each with its reason](#broken-input).",
            "",
        ]
    return lines


def show_languages(report: dict) -> list[str]:
    """Return the languages of what was kept."""
    size = sum(counts["bytes"] for counts in report["languages"].values())
    rows = []
    for code, counts in sorted(report["languages"].items(), key=lambda item: -item[1]["bytes"]):
        mean = format_bytes(counts["bytes"] / max(counts["documents"], 1))
        numbers = [counts["documents"], counts["held_out"], format_bytes(counts["bytes"])]
        rows.append([name_language(code), *numbers, percent(counts["bytes"], size), mean])
    head = ["language", "documents", "held out", "text", "share of the text", "mean length"]
    return ["## Languages", "", *format_table(head, rows), "![languages and steps](report.png)", ""]


def show_steps(report: dict) -> list[str]:
    """Return what each step let through."""
    rows, before = [], None
    for step, sources in report["steps"].items():
        documents, size = total(sources)
        before = before or (documents, size)
        dropped, change = before[0] - documents, size - before[1]
        rows.append([step, documents, dropped, format_bytes(size), format_bytes(change) if change else "0"])
        before = (documents, size)
    head = ["step", "documents after it", "dropped by it", "text after it", "change"]
    return ["## Steps", "", *format_table(head, rows)]


def show_sources(report: dict) -> list[str]:
    """Return what was read and kept of each source, as it was given."""
    first, *_, last = report["steps"].values()
    rows: list[list[object]] = []
    ordered = sorted(first, key=lambda source: (-first[source][1], source))
    for source in ordered[:SHOWN_SOURCES]:
        read, kept = first[source], last.get(source, [0, 0])
        numbers = [report["files"][source], read[0], format_bytes(read[1]), kept[0], format_bytes(kept[1])]
        rows.append([quote(source), *numbers, percent(kept[1], read[1])])
    head = ["source", "files", "documents in", "text in", "documents kept", "text kept", "share"]
    more = len(ordered) - len(rows)
    note = [f"{plural(more, 'smaller source')} more in report.json.", ""] if more else []
    return ["## Sources", "", *format_table(head, rows), *note]


def show_dropped(report: dict) -> list[str]:
    """Return what was dropped, by step and reason, each with examples."""
    rows = [
        [step, reason or step, n]
        for step in report["steps"]
        for reason, n in sorted(report["reasons"].get(step, {}).items(), key=lambda item: (-item[1], item[0]))
    ]
    if not rows:
        return ["## Dropped", "", "Nothing was dropped.", ""]
    lines = ["## Dropped", "", *format_table(["step", "reason", "documents"], rows, 2)]
    if "duplicates" in report["reasons"]:
        lines += ["Of documents that are alike the first one stays, in the order of the sources.", ""]
    for kind, examples in report["examples"].items():
        places = [(e.get("id") or e["source"]) + (f", holds {e['place']}" if "place" in e else "") for e in examples]
        lines += list_examples(kind, (f"{quote(e['text'])} ({p})" for e, p in zip(examples, places, strict=True)))
    return [*lines, ""]


def list_examples(kind: str, examples: Iterator[str]) -> list[str]:
    """Return the lines of a list of examples."""
    return [f"- {kind}", *(f"  - {example}" for example in examples)]


def show_examples(report: dict) -> list[str]:
    """Return examples of what was changed and of what was kept."""
    lines = ["## Changed", ""]
    for step, examples in report["changed"].items():
        lines += list_examples(step, (show_change(shorten(e["before"]), shorten(e["after"])) for e in examples))
    lines += ["" if report["changed"] else "Nothing was changed.", "", "## Kept", ""]
    for code, examples in report["kept"].items():
        lines += list_examples(name_language(code), (f"{quote(e['text'])} ({e['source']})" for e in examples))
    return [*lines, ""]


def show_change(before: str, after: str) -> str:
    """Return what became of a text, in words where no reader would see it."""
    if before != after:
        return f"{quote(before)} became {quote(after)}" if before else f"{quote(after)}"
    return f"{quote(after)}: white space, invisible marks"


def show_faults(report: dict) -> list[str]:
    """Return what could not be read."""
    rows = [[quote(file), place, quote(reason)] for file, place, reason in report["faults"][:SHOWN_FAULTS]]
    lines = format_table(["file", "place", "reason"], rows, 3) if rows else ["None.", ""]
    more = len(report["faults"]) - len(rows)
    return ["## Broken input", "", *lines, *([f"{plural(more, 'fault')} more in report.json.", ""] if more else [])]


def show_time(report: dict) -> list[str]:
    """Return what each step took."""
    size = ends_of(report)[0][1]
    seconds = report["seconds"]
    rows = [[step, f"{s:,.1f}", f"{format_bytes(size / s)}/s"] for step, s in seconds.items() if s >= 0.05]
    whole = sum(seconds.values())
    rows.append(["all", f"{whole:,.1f}", f"{format_bytes(size / max(whole, 1e-9))}/s"])
    words = "Seconds of one core, all tasks together; the speed is that of the text which was read."
    return ["## Time", "", words, "", *format_table(["step", "seconds", "speed"], rows)]


def draw_report(report: dict, path: Path) -> None:
    """Draw the text by language and after each step, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ordered = sorted(report["languages"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
    languages = [name_language(code) for code, _ in ordered], [counts["bytes"] / 1e6 for _, counts in ordered]
    steps = list(report["steps"]), [total(sources)[1] / 1e6 for sources in report["steps"].values()]
    figure, axes = pyplot.subplots(2, 1, figsize=(8, 6), dpi=110, layout="constrained")
    for axis, (names, sizes), title in zip(axes, (languages, steps), ("by language", "after each step"), strict=True):
        axis.barh(names, sizes)
        axis.invert_yaxis()
        axis.set(title=f"text {title}", xlabel="MB")
    with whole(path) as aside:
        figure.savefig(aside, metadata={"Software": None})
    pyplot.close(figure)
