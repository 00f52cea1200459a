"""Checks what was read, and ends a preparation: the report, and the manifest that makes a folder a corpus."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_utils.preparation.report import describe_languages, draw_report, ends_of, format_report, total
from data_utils.preparation.tally import add_up, format_bytes, plural, read_tallies, write_json
from data_utils.readers.files import Fault, name_faults
from data_utils.sources.source import MANIFEST
from errors import InputError, escape_unprintable
from files import move_whole, remove_cut_off, write_whole
from options import format_command


def finish_corpus(work: Path, files: list[dict], settings: dict) -> None:
    """The last task: the report, then the corpus moved to its place, then the manifest, by which it counts as whole."""
    output = work.parent
    remove_cut_off(output), remove_cut_off(work / "data")
    read, written = (read_tallies(work, stage) for stage in ("read", "write"))
    report = merge_tallies([*read, *written])
    report["files"] = dict(Counter(file["source"] for file in files))
    report["broken"] = dict(zip(("share", "words"), measure_broken(report, files), strict=True))
    del report["unread_bytes"]  # which "broken" tells
    draw_report(report, output / "report.png")
    write_json(output / "report.json", report)
    write_whole(output / "report.md", escape_unprintable(format_report(report, output.name)))
    if (work / "data").exists():
        move_whole(work / "data", output / "data")
    shards = [tally["shard"] for tally in written if tally["shard"]]
    kept = list(report["steps"].values())[-1]
    manifest = {
        "format": 1,
        "shards": shards,
        "documents": sum(shard["documents"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "languages": report["languages"],
        "sources": {name: {"documents": counts[0], "bytes": counts[1]} for name, counts in kept.items()},
        "settings": settings,
    }
    write_json(output / MANIFEST, manifest)


def merge_tallies(tallies: list[dict]) -> dict:
    """Return the sums of what the tasks counted, and the first examples of each kind.

    `steps` is step -> source -> [documents, bytes].
    """
    names = ("steps", "reasons", "languages", "faults", "seconds", "examples", "changed", "kept")
    report: dict[str, Any] = {name: {} for name in names}
    report |= {"faults": [fault for tally in tallies for fault in tally["faults"]], "unread_bytes": 0}
    for tally in tallies:
        for name in (report.keys() - {"faults"}) & tally.keys():
            report[name] = add_up(report[name], tally[name])
    return report


def check_broken(work: Path, files: list[dict], max_broken_fraction: float, languages: list[str]) -> None:
    """One task after the reading: raise InputError where too much is broken, or nothing is left."""
    report = merge_tallies(read_tallies(work, "read"))
    share, words = measure_broken(report, files)
    if share > max_broken_fraction:
        faults = [Fault(*fault) for fault in report["faults"]]
        raise InputError(
            f"{share:.1%} of the input is broken ({words}), more than --max_broken_fraction "
            f"{max_broken_fraction:g}: {plural(len(faults), 'fault')}: {name_faults(faults)}; "
            "repair it, leave it out, or allow more"
        )
    read, kept = ends_of(report)
    if not kept[0]:
        told = describe_languages(report["reasons"].get("language", {}), read[0], languages)
        told = told or "the settings name what drops them"
        raise InputError(f"the corpus is empty: no document is left after cleaning; {told}")


def measure_broken(report: dict, files: list[dict]) -> tuple[float, str]:
    """Return the share of the input that is broken, and of what it is the share: the larger of two.

    Bytes of what could not be read at all, and faults among the documents: a dump with one bad page of a million is
    sound.
    """
    unread, faults = report["unread_bytes"], len(report["faults"])
    documents = total(report["steps"].get("read", {}))[0]
    return max(
        (unread / max(sum(file["bytes"] for file in files), 1), f"{format_bytes(unread)} unreadable"),
        (faults / max(faults + documents, 1), f"{plural(faults, 'fault')} to {plural(documents, 'document')}"),
    )


def describe_corpus(place: str, folder: Path, languages: list[str]) -> Iterator[str]:
    """Yield what a preparation came to, and the command that trains on it; `place` is where the folder is sent to."""
    corpus, report = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (MANIFEST, "report.json"))
    held_out = sum(counts["held_out"] for counts in report["languages"].values())
    yield (
        f"{place}: {plural(corpus['documents'], 'document')}, {format_bytes(corpus['bytes'])}, {held_out:,} held out; "
        f"{plural(len(report['faults']), 'fault')} in the input; {place}/report.md says more"
    )
    read = total(report["steps"]["read"])[0]
    if told := describe_languages(report["reasons"].get("language", {}), read, languages):
        yield f"note: {told}"
    if not held_out:
        yield "note: training needs a held-out document: give more text, or a larger --eval_fraction here and there"
    command = ("python", "train.py", "--corpus", place, "--output_dir", f"ckpt_{Path(place).name}")
    yield f"next: {format_command(*command)}"
