"""Checks what was read, and ends a preparation: the report, and the manifest that makes a folder a corpus."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.report import describe_languages, draw_report, format_report, total
from data_utils.preparation.tally import EXAMPLES, format_bytes, plural, read_tallies, write_json
from data_utils.readers.files import Fault, name_faults
from data_utils.sources.source import MANIFEST
from errors import InputError, escape_unprintable
from files import move_whole, remove_cut_off, write_whole


class WriteReport(PipelineStep):
    """The last task: the report, then the corpus moved to its place, then the manifest, by which it counts as whole."""

    type, name = "WRITER", "report"

    def __init__(self, work: str, files: list[dict], settings: dict) -> None:
        super().__init__()
        self.work, self.files, self.settings = Path(work), files, settings

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Write the report and the manifest of the corpus."""
        output = self.work.parent
        remove_cut_off(output), remove_cut_off(self.work / "data")
        read, written = (read_tallies(self.work, stage) for stage in ("read", "write"))
        report = merge_tallies([*read, *written])
        report["files"] = dict(Counter(file["source"] for file in self.files))
        report["broken"] = dict(zip(("share", "words"), measure_broken(read, self.files), strict=True))
        report["seconds"] = sum_seconds(self.work / "runs", read)
        draw_report(report, output / "report.png")
        write_json(output / "report.json", report)
        write_whole(output / "report.md", escape_unprintable(format_report(report, output.name)))
        if (self.work / "data").exists():
            move_whole(self.work / "data", output / "data")
        shards = [tally["shard"] for tally in written if tally["shard"]]
        kept = list(report["steps"].values())[-1]
        manifest = {
            "format": 1,
            "shards": shards,
            "documents": sum(shard["documents"] for shard in shards),
            "bytes": sum(shard["bytes"] for shard in shards),
            "languages": report["languages"],
            "sources": {name: {"documents": counts[0], "bytes": counts[1]} for name, counts in kept.items()},
            "settings": self.settings,
        }
        write_json(output / MANIFEST, manifest)


def merge_tallies(tallies: list[dict]) -> dict:
    """Return the sums of what the tasks counted, and the first examples of each kind.

    `steps` is step -> source -> [documents, bytes].
    """
    report: dict[str, Any] = {"steps": {}, "reasons": {}, "languages": {}, "lengths": {}, "faults": []}
    report |= {"examples": {}, "changed": {}, "kept": {}}
    for tally in tallies:
        for step, sources in tally["steps"].items():
            merged = report["steps"].setdefault(step, {})
            for source, counts in sources.items():
                merged[source] = [a + b for a, b in zip(merged.get(source, (0, 0)), counts, strict=True)]
        for name in ("reasons", "languages", "lengths"):
            for kind, counts in tally.get(name, {}).items():
                merged = report[name].setdefault(kind, {})
                merged |= {what: merged.get(what, 0) + count for what, count in counts.items()}
        for name in ("examples", "changed", "kept"):
            for kind, examples in tally.get(name, {}).items():
                report[name][kind] = (report[name].get(kind, []) + examples)[:EXAMPLES]
        report["faults"] += tally["faults"]
    return report


def sum_seconds(runs: Path, read: list[dict]) -> dict[str, float]:
    """Return the seconds of each cleaning step and of each stage (by datatrove's clock), all tasks together."""
    seconds = Counter()
    for tally in read:
        seconds.update({f"read: {step}": spent for step, spent in tally["seconds"].items()})
    for path in sorted(runs.glob("*/stats/*.json")):
        for step in json.loads(path.read_text(encoding="utf-8")):
            spent = step["time_stats"]
            name = f"{path.parent.parent.name}: {step['name'].split(': ', 1)[-1]}"
            seconds[name] += spent["total"] if isinstance(spent, dict) else spent
    return {step: spent for step, spent in seconds.items() if spent}


class CheckBroken(PipelineStep):
    """One task after the reading: stops a preparation of which too much is broken, or nothing is left."""

    type, name = "CHECK", "broken input"

    def __init__(self, work: str, files: list[dict], max_broken_fraction: float, languages: list[str]) -> None:
        super().__init__()
        self.work, self.files = work, files
        self.max_broken_fraction, self.languages = max_broken_fraction, languages

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Raise InputError above the limit."""
        tallies = read_tallies(Path(self.work), "read")
        faults = [Fault(*fault) for tally in tallies for fault in tally["faults"]]
        share, words = measure_broken(tallies, self.files)
        if share > self.max_broken_fraction:
            raise InputError(
                f"{share:.1%} of the input is broken ({words}), more than --max_broken_fraction "
                f"{self.max_broken_fraction:g}: {plural(len(faults), 'fault')}: {name_faults(faults)}; "
                "repair it, leave it out, or allow more"
            )
        read, kept = (sum(total(list(tally["steps"].values())[place])[0] for tally in tallies) for place in (0, -1))
        if not kept:
            dropped: Counter = Counter()
            for tally in tallies:
                dropped.update(tally["reasons"].get("language", {}))
            told = describe_languages(dropped, read, self.languages) or "the settings name what drops them"
            raise InputError(f"the corpus is empty: no document is left after cleaning; {told}")


def measure_broken(tallies: list[dict], files: list[dict]) -> tuple[float, str]:
    """Return the share of the input that is broken, and of what it is the share: the larger of two.

    Bytes of what could not be read at all, and faults among the documents: a dump with one bad page of a million is
    sound.
    """
    unread = sum(tally["unread_bytes"] for tally in tallies)
    faults = sum(len(tally["faults"]) for tally in tallies)
    documents = sum(total(tally["steps"].get("read", {}))[0] for tally in tallies)
    return max(
        (unread / max(sum(file["bytes"] for file in files), 1), f"{format_bytes(unread)} unreadable"),
        (faults / max(faults + documents, 1), f"{plural(faults, 'fault')} to {plural(documents, 'document')}"),
    )
