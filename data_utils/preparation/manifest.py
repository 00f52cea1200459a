"""The end of a preparation: the report, and the manifest that makes a folder a corpus."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.checks import measure_broken
from data_utils.preparation.report import format_report
from data_utils.preparation.tally import EXAMPLES, read_tallies, write_json
from data_utils.sources.folder import MANIFEST
from errors import escape_unprintable
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
    report: dict[str, Any] = {"steps": {}, "reasons": {}, "languages": {}, "faults": []}
    report |= {"examples": {}, "changed": {}, "kept": {}}
    for tally in tallies:
        for step, sources in tally["steps"].items():
            merged = report["steps"].setdefault(step, {})
            for source, counts in sources.items():
                merged[source] = [a + b for a, b in zip(merged.get(source, (0, 0)), counts, strict=True)]
        for name in ("reasons", "languages"):
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
