"""Checks what was read before a corpus is made of it: how much of the input is broken, and that something is left."""

from collections import Counter
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.report import describe_languages, total
from data_utils.preparation.tally import format_bytes, plural, read_tallies
from data_utils.readers.faults import name_faults
from data_utils.readers.files import Fault
from errors import InputError


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
