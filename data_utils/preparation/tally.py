"""Counts on the way of a preparation, task by task, what each step let through and dropped, and what was broken."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result

from data_utils.preparation.filters import BATCH_DOCUMENTS, EXAMPLES, mask_example
from data_utils.readers.files import Fault
from data_utils.readers.limits import OutOfTime, limit_seconds
from files import write_whole

BATCH_CHARACTERS = 250_000  # whose arrays stay in the processor's cache


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


class Tally:
    """What a task counts for the report; its steps share one."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[int, list[int]]] = {}  # step -> file's number -> [documents, bytes] that it let pass
        self.reasons: dict[str, Counter] = defaultdict(Counter)  # step -> reason -> documents that it dropped
        self.examples: dict[str, list[dict]] = {}  # "step: reason" -> what was dropped
        self.changed: dict[str, list[dict]] = {}  # step -> what it made of texts, kept by the step itself
        self.faults: list[list[str]] = []  # [file, place, reason]
        self.unread: dict[str, int] = {}  # file -> bytes of it, or of parts of it, of which nothing could be read
        self.lost_bytes = 0  # of other files, behind breaks
        self.seconds: dict[str, float] = {}  # step -> seconds

    def add_faults(self, piece: dict, documents: int, faults: list[Fault]) -> None:
        """Keep the faults of a file or part, and how much of it is lost."""
        self.faults += [[fault.file, fault.place, mask_example(fault.reason)] for fault in faults]
        if faults and not documents:
            self.unread[piece["path"]] = self.unread.get(piece["path"], 0) + piece["bytes"]
        else:
            self.lost_bytes += min(piece["bytes"], sum(fault.lost_bytes for fault in faults))

    def count(self, step: str, file: int, documents: int, size: int) -> None:
        """Add documents of a file, by its number among all, that a step let through."""
        counts = self.steps.setdefault(step, {}).setdefault(file, [0, 0])
        counts[0] += documents
        counts[1] += size

    def drop(self, step: str, reason: str, text: str, source: str, **more: str) -> None:
        """Count a dropped document and keep the first ones as examples."""
        self.reasons[step][reason] += 1
        examples = self.examples.setdefault(f"{step}: {reason}" if reason else step, [])
        if len(examples) < EXAMPLES:
            examples.append({"text": shorten(mask_example(text)), "source": source, **more})

    def write(self, path: Path, **more: object) -> None:
        """Write all of it for the report."""
        names = ("steps", "reasons", "examples", "faults", "unread", "lost_bytes", "seconds")
        values = {name: getattr(self, name) for name in names}
        values["changed"] = {step: examples for step, examples in self.changed.items() if examples}
        write_json(path, values | more)


def shorten(text: str, characters: int = 160) -> str:
    """Return the beginning of a text on one line."""
    text = " ".join(text[: 4 * characters].split())
    return text if len(text) <= characters else text[: characters - 3] + "..."


class Count(PipelineStep):
    """Counts what comes through of each file."""

    type, name = "COUNT", "count"

    def __init__(self, step: str, tally: Tally) -> None:
        super().__init__()
        self.step, self.tally = step, tally
        tally.steps[step] = {}  # in their order, also where nothing comes through

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Pass the documents on."""
        for document in data:
            self.tally.count(self.step, document.metadata["file"], 1, len(document.text.encode(errors="replace")))
            yield document


class Chain(PipelineStep):
    """Several datatrove filters as one step, which counts what each lets through and drops.

    Run one by one, each filter costs 6 to 15 microseconds a document beside its work (generators, running variances);
    ten of them would halve the speed. Here they take a batch of documents, one filter after the other.
    """

    type, name = "FILTER", "chain"

    def __init__(self, filters: list[BaseFilter], tally: Tally, max_seconds: float) -> None:
        """Take the filters, the tally, and the processor seconds that a filter may take for a document."""
        super().__init__()
        self.filters, self.tally, self.max_seconds = filters, tally, max_seconds

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Pass on the documents that all filters keep."""
        seconds = dict.fromkeys((step.name for step in self.filters), 0.0)
        for documents in batches(data):
            kept, sizes = documents, {}  # sizes: document -> (its text, bytes of it)
            for step in self.filters:
                if not kept:
                    break
                begun = time.perf_counter()
                results = self.apply(step, kept)
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

    def apply(self, step: BaseFilter, documents: list[Document]) -> list[bool | tuple[bool, str]]:
        """Return what a filter says of documents; one that takes too long is dropped, whatever stands beside it."""
        try:
            with limit_seconds(self.max_seconds):
                return step.filter_batch(documents)
        except OutOfTime:
            if len(documents) == 1:
                return [(False, "took too long")]
            return [result for document in documents for result in self.apply(step, [document])]

    def count(self, step: str, batch: list[Document], sizes: dict[int, tuple[str, int]]) -> None:
        """Count what a step let through for each file; only what it changed is measured anew."""
        totals: dict[int, list[int]] = {}
        for document in batch:
            text, size = sizes.get(id(document), ("", 0))
            if text is not document.text:
                size = len(document.text.encode(errors="replace"))
                sizes[id(document)] = (document.text, size)
            total = totals.setdefault(document.metadata["file"], [0, 0])
            total[0] += 1
            total[1] += size
        for file, (documents, size) in totals.items():
            self.tally.count(step, file, documents, size)


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
    """Count the rows of a table for each file."""
    sizes = pa.table({"file": rows["file"], "bytes": pc.binary_length(rows["text"])})
    for row in sizes.group_by("file").aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
        tally.count(step, row["file"], row["bytes_count"], row["bytes_sum"])


def plural(count: int, word: str) -> str:
    """Return a number with its word.

    >>> plural(1, "fault"), plural(1200, "document")
    ('1 fault', '1,200 documents')
    """
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def format_bytes(size: float) -> str:
    """Return bytes in the unit that fits.

    >>> format_bytes(999), format_bytes(1234), format_bytes(-1_234_567), format_bytes(96_700_000_000)
    ('999 B', '1.2 kB', '-1.2 MB', '96.7 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.95 or unit == "TB":
            return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def read_tallies(work: Path, stage: str) -> list[dict]:
    """Return what all tasks of a stage counted, in order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "tallies").glob(f"{stage}-*.json"))]
