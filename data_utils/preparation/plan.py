"""A preparation in stages: which files make a task, and which steps each stage takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.arguments import CleaningArguments
from data_utils.preparation.duplicates import PART_BYTES, ROWS, FindPairs, JoinPairs
from data_utils.preparation.executors import Stage
from data_utils.preparation.filters import build_filters
from data_utils.preparation.leaks import BuildIndex, FindLeaks
from data_utils.preparation.manifest import CheckBroken, WriteReport
from data_utils.preparation.stages import ReadSources, WriteClean, WriteCorpus
from data_utils.preparation.tally import Tally
from data_utils.readers.arguments import ReadArguments
from data_utils.readers.files import Fault, file_bytes, raise_fault
from data_utils.readers.opening import Part
from data_utils.sources.inputs import cut_file
from data_utils.sources.source import open_source
from errors import InputError

DUPLICATES = {"near": ROWS, "exact": 1, "none": 0}  # how many keys of each document are compared
EXPANSION = {".bz2": 5, ".gz": 4, ".zst": 4, ".xz": 5}  # text of a compressed byte, about


def list_inputs(sources: list[str]) -> list[dict]:
    """Return the files of all sources in order: path, source, bytes, and what changes when a file does."""
    if not sources:
        raise InputError("nothing to prepare: name files or folders with --sources, or a file of settings")
    return [
        {
            "path": part,
            "source": source.path,
            "bytes": file_bytes(part) if source.files else 0,
            "changed": source.part_version(part),
        }
        for source in map(open_source, sources)
        for part in source.parts()
    ]


def read_input(
    path: str, reading: ReadArguments, on_fault: Callable[[Fault], object] = raise_fault, part: Part | None = None
) -> Iterator[dict]:
    """Yield the documents of one of the listed files, or of a part of it."""
    return open_source(path, reading=reading).documents(path, on_fault=on_fault, cut=part)


def divide_files(files: list[dict], task_megabytes: float, reading: ReadArguments) -> list[list[dict]]:
    """Divide files, and those that can be cut into parts, into tasks of about as much input, in order.

    A small input is divided too, by its size alone: the corpus is the same for any number of workers.
    """
    total = sum(file["bytes"] for file in files)
    task_bytes = int(min(task_megabytes * 10**6, max(total // 8, 10**6)))
    pieces = []
    for file in files:
        piece = {"path": file["path"], "given": file["source"]}
        parts = cut_file(file["path"], file["bytes"], task_bytes, reading)
        if len(parts) == 1:
            pieces.append(piece | {"bytes": file["bytes"]})
        else:
            pieces += [piece | {"bytes": part.size, "part": list(part)} for part in parts]
    return group_pieces(pieces, task_bytes)


def group_pieces(pieces: list[dict], task_bytes: int) -> list[list[dict]]:
    """Group files and parts to tasks of at most `task_bytes`, in order; one that is larger is a task by itself.

    >>> [[piece["bytes"] for piece in task] for task in group_pieces([{"bytes": n} for n in (5, 3, 9, 1)], 8)]
    [[5, 3], [9], [1]]
    """
    tasks: list[list[dict]] = []
    held = task_bytes
    for piece in pieces:
        if not tasks or held + piece["bytes"] > task_bytes:
            tasks.append([])
            held = 0
        tasks[-1].append(piece)
        held += piece["bytes"]
    return tasks


def read_evaluation(paths: list[str], reading: ReadArguments) -> list[tuple[str, str]]:
    """Return the texts of the evaluation files with their places; raise InputError for one that cannot be read."""
    parts = [
        (source, part) for path in paths for source in [open_source(path, reading=reading)] for part in source.parts()
    ]
    return [(row["id"], row["text"]) for source, part in parts for row in source.documents(part)]


@dataclass
class Preparation:
    """What a preparation does."""

    files: list[dict]
    tasks: list[list[dict]]  # of each reading task: the files, and parts of files, that it reads
    reading: ReadArguments
    cleaning: CleaningArguments
    duplicates: str
    near_similarity: float
    eval_fraction: float
    eval_files: list[str]
    max_broken_fraction: float

    def stages(self, work: Path, settings: dict) -> list[Stage]:
        """Return the stages, each of which leaves in `work` what the next one reads."""
        tasks = self.tasks
        sizes = [sum(piece["bytes"] for piece in task) for task in tasks]
        texts = sum(file["bytes"] * EXPANSION.get(Path(file["path"]).suffix, 1) for file in self.files)
        parts = 1 + texts // PART_BYTES
        rows = DUPLICATES[self.duplicates]
        near = self.duplicates == "near"
        watches_leaks = near or bool(self.eval_files)
        folder, tally = str(work), Tally()
        read: list[PipelineStep | Callable] = [
            ReadSources(tasks, partial(read_input, reading=self.reading), tally),
            *build_filters(self.cleaning, tally, self.reading.max_seconds),
            WriteClean(folder, near, self.eval_fraction, tally),
        ]
        evaluation = partial(read_evaluation, self.eval_files, self.reading)
        stages = [
            Stage("read", read, len(tasks), sizes),
            Stage("check", [CheckBroken(folder, self.files, self.max_broken_fraction, self.cleaning.languages)], 1),
            Stage("pairs", [FindPairs(folder, parts, self.near_similarity)], rows * parts),
            Stage("clusters", [JoinPairs(folder, parts)], 1),
            Stage("index", [BuildIndex(folder, evaluation)], int(watches_leaks)),
            Stage("leaks", [FindLeaks(folder)], len(tasks) * watches_leaks, sizes),
            Stage("write", [WriteCorpus(folder, watches_leaks)], len(tasks), sizes),
            Stage("report", [WriteReport(folder, self.files, settings)], 1),
        ]
        return [stage for stage in stages if stage.tasks]
