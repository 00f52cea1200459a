"""Draws the picture of a report: languages, lengths of documents, and what each step left."""

from pathlib import Path

from data_utils.preparation.report import name_language, percent, total
from files import whole

SHOWN_LANGUAGES = 7


def draw_report(report: dict, path: Path) -> None:
    """Draw the picture, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (shares, lengths, steps) = pyplot.subplots(3, 1, figsize=(8, 9), dpi=110, layout="constrained")
    ordered = sorted(report["languages"].items(), key=lambda item: (-item[1]["bytes"], item[0]))
    size, left = sum(counts["bytes"] for _, counts in ordered), 0.0
    for code, counts in ordered[:SHOWN_LANGUAGES]:
        share = 100 * counts["bytes"] / max(size, 1)
        shares.barh([""], share, left=left, label=f"{name_language(code)} {percent(counts['bytes'], size)}")
        left += share
        found = {int(power): 100 * count / counts["documents"] for power, count in report["lengths"][code].items()}
        powers = range(min(found) - 1, max(found) + 2)
        lengths.step(powers, [found.get(power, 0) for power in powers], where="mid", label=name_language(code))
    shares.set(title="text, % of bytes by language", xlim=(0, 100))
    lengths.set(title="documents of a language by length", ylabel="%", xlabel="characters, power of two")
    for axes in (shares, lengths):
        axes.legend(loc="upper right")
    steps.barh(list(report["steps"]), [total(sources)[1] / 1e6 for sources in report["steps"].values()])
    steps.invert_yaxis()
    steps.set(title="text after each step", xlabel="MB")
    with whole(path) as aside:
        figure.savefig(aside, metadata={"Software": None})
    pyplot.close(figure)
