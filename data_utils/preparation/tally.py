"""What a preparation counts on its way, task by task: what each step let through, what it dropped, what was broken."""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result

from errors import InputError

EXAMPLES = 3  # of each reason, from each task
BATCH_CHARACTERS = 250_000  # whose arrays stay in the processor's cache
BATCH_DOCUMENTS = 256


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


class Tally:
    """What a task counts for the report; its steps share one."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, list[int]]] = {}  # step -> source -> [documents, bytes] that it let through
        self.reasons: dict[str, Counter] = defaultdict(Counter)  # step -> reason -> documents that it dropped
        self.examples: dict[str, list[dict]] = {}  # "step: reason" -> what was dropped
        self.changed: dict[str, list[dict]] = {}  # step -> what it made of texts, kept by the step itself
        self.faults: list[list[str]] = []  # [file, place, reason]
        self.broken_bytes = 0  # of files of which nothing could be read
        self.seconds: dict[str, float] = {}  # step -> seconds

    def count(self, step: str, source: str, documents: int, size: int) -> None:
        """Add documents that a step let through."""
        counts = self.steps.setdefault(step, {}).setdefault(source, [0, 0])
        counts[0] += documents
        counts[1] += size

    def drop(self, step: str, reason: str, text: str, source: str, **more: str) -> None:
        """Count a dropped document and keep the first ones as examples."""
        self.reasons[step][reason] += 1
        examples = self.examples.setdefault(f"{step}: {reason}" if reason else step, [])
        if len(examples) < EXAMPLES:
            examples.append({"text": shorten(text), "source": source, **more})

    def write(self, path: Path, **more: object) -> None:
        """Write all of it for the report."""
        names = ("steps", "reasons", "examples", "faults", "broken_bytes", "seconds")
        values = {name: getattr(self, name) for name in names}
        changed = {step: [e for e in examples if e["reason"] == "changed"] for step, examples in self.changed.items()}
        values["changed"] = {step: examples for step, examples in changed.items() if examples}
        write_json(path, values | more)


def shorten(text: str, characters: int = 160) -> str:
    """Return the beginning of a text on one line."""
    text = " ".join(text[: 4 * characters].split())
    return text if len(text) <= characters else text[: characters - 3] + "..."


class Count(PipelineStep):
    """Counts what comes through for each source."""

    type, name = "COUNT", "count"

    def __init__(self, step: str, tally: Tally) -> None:
        super().__init__()
        self.step, self.tally = step, tally
        tally.steps[step] = {}  # in their order, also where nothing comes through

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass the documents on."""
        for document in data:
            self.tally.count(self.step, document.metadata["source"], 1, len(document.text.encode(errors="replace")))
            yield document


class Chain(PipelineStep):
    """Several datatrove filters as one step, which counts what each lets through and drops.

    Run one by one, each filter costs 6 to 15 microseconds a document beside its work (generators, running variances);
    ten of them would halve the speed. Here they take a batch of documents, one filter after the other.
    """

    type, name = "FILTER", "chain"

    def __init__(self, filters: list[BaseFilter], tally: Tally) -> None:
        super().__init__()
        self.filters, self.tally = filters, tally

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Pass on the documents that all filters keep."""
        seconds = dict.fromkeys((step.name for step in self.filters), 0.0)
        for documents in batches(data):
            kept, sizes = documents, {}  # sizes: document -> (its text, bytes of it)
            for step in self.filters:
                if not kept:
                    break
                begun = time.perf_counter()
                results = step.filter_batch(kept)
                seconds[step.name] += time.perf_counter() - begun
                judged, kept = zip(kept, map(get_filter_result, results), strict=True), []
                for document, (is_kept, reason) in judged:
                    if is_kept:
                        kept.append(document)
                    else:
                        self.tally.drop(step.name, reason or "", document.text, document.metadata["source"])
                self.count(step.name, kept, sizes)
            yield from kept
        for name, spent in seconds.items():
            self.tally.seconds[name] = self.tally.seconds.get(name, 0) + spent

    def count(self, step: str, batch: list[Document], sizes: dict[int, tuple[str, int]]) -> None:
        """Count what a step let through for each source; only what it changed is measured anew."""
        totals: dict[str, list[int]] = {}
        for document in batch:
            text, size = sizes.get(id(document), ("", 0))
            if text is not document.text:
                size = len(document.text.encode(errors="replace"))
                sizes[id(document)] = (document.text, size)
            total = totals.setdefault(document.metadata["source"], [0, 0])
            total[0] += 1
            total[1] += size
        for source, (documents, size) in totals.items():
            self.tally.count(step, source, documents, size)


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Yield documents in batches of about BATCH_CHARACTERS."""
    batch, held = [], 0
    for document in documents:
        batch.append(document)
        held += len(document.text)
        if held >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def tally_table(tally: Tally, step: str, rows: pa.Table) -> None:
    """Count the rows of a table for each source."""
    sizes = pa.table({"source": rows["source"], "bytes": pc.binary_length(rows["text"])})
    for row in sizes.group_by("source").aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
        tally.count(step, row["source"], row["bytes_count"], row["bytes_sum"])


class CheckBroken(PipelineStep):
    """One task after the reading: stops a preparation of which too much is broken."""

    type, name = "CHECK", "broken input"

    def __init__(self, work: str, total_bytes: int, max_broken_fraction: float) -> None:
        super().__init__()
        self.work, self.total_bytes, self.max_broken_fraction = work, total_bytes, max_broken_fraction

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Raise InputError above the limit: the share of bytes of unreadable files, or of records with a fault."""
        tallies = read_tallies(Path(self.work), "read")
        faults = [fault for tally in tallies for fault in tally["faults"]]
        documents = sum(count[0] for tally in tallies for count in tally["steps"].get("read", {}).values())
        files = sum(tally["broken_bytes"] for tally in tallies) / max(self.total_bytes, 1)
        records = len(faults) / max(len(faults) + documents, 1)
        if (share := max(files, records)) > self.max_broken_fraction:
            file, place, reason = faults[0]
            raise InputError(
                f"{share:.1%} of the input is broken, more than --max_broken_fraction {self.max_broken_fraction:g}: "
                f"{len(faults):,} faults, the first in {file}{':' if place else ''}{place}: {reason}; "
                "repair it, leave it out, or allow more"
            )


def read_tallies(work: Path, stage: str) -> list[dict]:
    """Return what all tasks of a stage counted, in order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "tallies").glob(f"{stage}-*.json"))]
