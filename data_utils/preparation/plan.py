"""A preparation in stages: which files make a task, and which steps each stage takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.preparation.arguments import CleaningArguments
from data_utils.preparation.duplicates import PART_BYTES, ROWS, write_clusters, write_pairs
from data_utils.preparation.executors import Stage
from data_utils.preparation.filters import build_filters
from data_utils.preparation.leaks import write_index, write_leaks
from data_utils.preparation.manifest import check_broken, finish_corpus
from data_utils.preparation.stages import read_sources, write_clean, write_corpus
from data_utils.preparation.tally import Tally
from data_utils.readers.arguments import ReadArguments
from data_utils.readers.files import file_bytes
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
        {"path": part, "source": source.path, "bytes": file_bytes(part) if source.files else 0,
         "changed": source.part_version(part)}
        for source in map(open_source, sources)
        for part in source.parts()
    ]  # fmt: skip


def divide_files(files: list[dict], task_megabytes: float, reading: ReadArguments) -> list[list[dict]]:
    """Divide files, and those that can be cut into parts, into tasks of about as much input, in order.

    A small input is divided too, by its size alone: the corpus is the same for any number of workers.
    """
    total = sum(file["bytes"] for file in files)
    task_bytes = int(min(task_megabytes * 10**6, max(total // 8, 10**6)))
    pieces = []
    for file in files:
        piece = {"path": file["path"], "given": file["source"]}
        parts = cut_file(file["path"], file["bytes"], part_bytes=task_bytes, options=reading)
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
    sources = [open_source(path, reading=reading) for path in paths]
    parts = [(source, part) for source in sources for part in source.parts()]
    return [(row["id"], row["text"]) for source, part in parts for row in source.documents(part)]


@dataclass
class Preparation:
    """What a preparation does in its folder `work`; `settings` are the options that the corpus depends on."""

    work: Path
    files: list[dict]
    tasks: list[list[dict]]  # of each reading task: the files, and parts of files, that it reads
    settings: dict[str, Any]
    reading: ReadArguments
    cleaning: CleaningArguments

    def read_task(self, rank: int) -> None:
        """Read, clean and sign the documents of a task."""
        tally = Tally()
        tally.steps["read"] = {}
        documents = read_sources(self.tasks[rank], self.reading, tally)
        for step in build_filters(self.cleaning, tally):
            documents = step(documents)
        how = {"near": self.settings["duplicates"] == "near", "eval_fraction": self.settings["eval_fraction"]}
        write_clean(documents, rank, self.work, **how, tally=tally)

    def stages(self, max_broken_fraction: float) -> list[Stage]:
        """Return the stages, each of which leaves in `work` what the next one reads."""
        work, files, settings, languages = self.work, self.files, self.settings, self.cleaning.languages
        sizes = [sum(piece["bytes"] for piece in task) for task in self.tasks]
        texts = sum(file["bytes"] * EXPANSION.get(Path(file["path"]).suffix, 1) for file in files)
        parts, tasks = 1 + texts // PART_BYTES, len(self.tasks)
        duplicates, exams = settings["duplicates"], settings["eval_files"]
        leaks = duplicates == "near" or bool(exams)  # whether they are watched
        stages = [
            Stage("read", self.read_task, tasks, sizes),
            Stage("check", lambda _: check_broken(work, files, max_broken_fraction, languages), 1),
            Stage("pairs", lambda rank: write_pairs(rank, work, parts, settings["near_similarity"]),
                  DUPLICATES[duplicates] * parts),
            Stage("clusters", lambda _: write_clusters(work, parts), 1),
            Stage("index", lambda _: write_index(work, read_evaluation(exams, self.reading)), int(leaks)),
            Stage("leaks", lambda rank: write_leaks(rank, work), tasks * leaks, sizes),
            Stage("write", lambda rank: write_corpus(rank, work, leaks), tasks, sizes),
            Stage("report", lambda _: finish_corpus(work, files, settings), 1),
        ]  # fmt: skip
        return [stage for stage in stages if stage.tasks]
