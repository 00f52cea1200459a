"""Counts on the way of a preparation, task by task, what each step let through and dropped, and what was broken."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datatrove.data import Document

from data_utils.text.cleaning import drop_invisible, fold_compatible
from data_utils.text.private_data import mask_private
from files import write_whole

EXAMPLES = 3  # kept of each reason, from each task
EXAMPLE_CHARACTERS = 200
MASKED_CHARACTERS = 500_000  # looked through for an example


@dataclass(frozen=True)
class Dropped:
    """A document that a step leaves out, and why, in one word."""

    reason: str


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


class Tally:
    """What a task counts for the report; its steps share one."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, list[int]]] = {}  # step -> source as given -> [documents, bytes] it let pass
        self.reasons: dict[str, Counter] = defaultdict(Counter)  # step -> reason -> documents that it dropped
        self.examples: dict[str, list[dict]] = {}  # "step: reason" -> what was dropped
        self.changed: dict[str, list[dict]] = {}  # step -> texts before and after it
        self.faults: list[list[str]] = []  # [file, place, reason]
        self.unread_bytes = 0  # of files, or parts of them, of which nothing could be read
        self.seconds: dict[str, float] = {}  # step -> seconds

    def count(self, step: str, given: str, *, documents: int, size: int) -> None:
        """Add documents of a source, as it was given, that a step let through."""
        counts = self.steps.setdefault(step, {}).setdefault(given, [0, 0])
        counts[0] += documents
        counts[1] += size

    def settle(self, step: str, documents: list[Document], results: Sequence[str | Dropped]) -> list[Document]:
        """Give documents the texts that a step made of them, counted and with examples; return those that it kept."""
        kept = []
        for doc, result in zip(documents, results, strict=True):
            if isinstance(result, Dropped):
                self.drop(step, result.reason, text=doc.text, source=doc.metadata["source"])
                continue
            if result != doc.text:
                examples = self.changed.setdefault(step, [])
                if len(examples) < EXAMPLES and len(doc.text) < MASKED_CHARACTERS:
                    before, after = show_difference(doc.text, result)
                    examples.append({"id": doc.id, "before": before, "after": after})
                doc.text, doc.metadata["bytes"] = result, utf8_bytes(result)
            self.count(step, doc.metadata["given"], documents=1, size=doc.metadata["bytes"])
            kept.append(doc)
        return kept

    def drop(self, step: str, reason: str, *, text: str, source: str, **more: str) -> None:
        """Count a dropped document and keep the first ones as examples."""
        self.reasons[step][reason] += 1
        examples = self.examples.setdefault(f"{step}: {reason}", [])
        if len(examples) < EXAMPLES:
            examples.append({"text": shorten(mask_example(text)), "source": source, **more})

    def count_table(self, step: str, rows: pa.Table) -> None:
        """Count the rows of a table for each source."""
        sizes = pa.table({"given": rows["given"], "bytes": pc.binary_length(rows["text"])})
        for row in sizes.group_by("given").aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
            self.count(step, row["given"], documents=row["bytes_count"], size=row["bytes_sum"])

    def write(self, path: Path, **more: object) -> None:
        """Write all of it for the report."""
        write_json(path, vars(self) | more)


def add_up(one: Any, other: Any) -> Any:
    """Return two counts, pairs of counts or lists of examples as one; of two tables, by their names.

    >>> add_up({"a": [1, 2], "b": 3, "c": []}, {"a": [3, 4], "c": ["x"], "d": 5})
    {'a': [4, 6], 'b': 3, 'c': ['x'], 'd': 5}
    """
    if isinstance(one, dict):
        return one | {name: add_up(one[name], value) if name in one else value for name, value in other.items()}
    if isinstance(one, list):
        is_pair = one and isinstance(one[0], int)
        return [a + b for a, b in zip(one, other, strict=True)] if is_pair else [*one, *other][:EXAMPLES]
    return one + other


def utf8_bytes(text: str) -> int:
    """Return the bytes of a text in UTF-8."""
    return len(text.encode(errors="replace"))


def mask_example(text: str) -> str:
    """Return the beginning of a text for the report: private data masked, whichever steps are on.

    Masked before it is cut to a length, since half a key or number isn't found.

    >>> mask_example("call 138-\u200b1234-5678")
    'call [PHONE]'
    """
    text = text[:MASKED_CHARACTERS]
    plain = drop_invisible(fold_compatible(text))  # the numbers as a reader sees them
    masked = mask_private(plain)
    masked = text if masked == plain else masked
    return masked[:-EXAMPLE_CHARACTERS] if len(text) == MASKED_CHARACTERS else masked


def show_difference(before: str, after: str) -> tuple[str, str]:
    """Return both texts, masked, from a little before the place where they begin to differ.

    The first is "" where nothing but private data differs.

    >>> show_difference("-" * 100 + "and milk", "-" * 100 + "or milk")[0].lstrip("-")
    'and milk'
    >>> show_difference("write to li.lei@qq.com", "write to [EMAIL]")
    ('', 'write to [EMAIL]')
    """
    masked = mask_example(before), mask_example(after)
    pairs = zip(*((before, after) if masked[0] == masked[1] else masked), strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, masked)))
    before, after = (text[max(0, place - 40) :][:EXAMPLE_CHARACTERS] for text in masked)
    return ("" if masked[0] == masked[1] else before), after


def shorten(text: str, characters: int = 160) -> str:
    """Return the beginning of a text on one line."""
    text = " ".join(text[: 4 * characters].split())
    return text if len(text) <= characters else text[: characters - 3] + "..."


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
    unit = max(0, min(4, math.floor(math.log10(max(abs(size) * 1.00005, 1)) / 3)))
    return f"{size / 1000**unit:,.{min(unit, 1)}f} {('B', 'kB', 'MB', 'GB', 'TB')[unit]}"


def read_tallies(work: Path, stage: str) -> list[dict]:
    """Return what all tasks of a stage counted, in order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / "tallies").glob(f"{stage}-*.json"))]
