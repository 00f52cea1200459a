"""Prepare a corpus: sources -> clean documents -> no duplicates, no leaks -> a folder that train.py reads.

python prepare_corpus.py configs/corpus/my_files.yaml                            # a folder of your own files
python prepare_corpus.py configs/corpus/wikipedia_zh.yaml --output_dir wiki_zh   # one value changed
python prepare_corpus.py --sources notes/ book.epub --output_dir corpus          # without a file of settings
Stopped or killed, the same command goes on where it was. corpus/report.md says what became of everything.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from data_utils.preparation.arguments import CleaningArguments
from data_utils.readers.arguments import ReadArguments, use_limits
from data_utils.readers.remote import check_address, is_address, send_folder
from environment import begin_script
from errors import needing, run_script
from files import one_writer, write_whole
from options import Options, option, parse_arguments

ROOT = Path(__file__).parent
DUPLICATES = ("near", "exact", "none")
EXECUTORS = ("local", "slurm", "ray")


@dataclass
class PrepareArguments(Options):
    """What is prepared, and where it runs."""

    sources: list[str] = option([], "Files, folders, globs, addresses or hub names")
    output_dir: str = option("corpus", "Folder to write, or an address of object storage: s3://bucket/folder")
    duplicates: str = option("near", "Duplicates that are dropped; near: exact ones too", choices=DUPLICATES)
    near_similarity: float = option(
        0.7,
        "Share of common 5-token shingles from which on documents are near duplicates",
        within=(0, 1),
        needs="--duplicates near",
    )
    eval_fraction: float = option(
        0.02, "Share that training holds out, by hash; near: kept from the rest", within=(0, 1)
    )
    eval_files: list[str] = option([], "Evaluation files, whose text must not be in the corpus")
    max_broken_fraction: float = option(0.2, "Stop where more of the input than this cannot be read", within=(0, 1))
    executor: str = option("local", "Where it runs", choices=EXECUTORS)
    workers: int = option(0, "Tasks at a time; 0: one for each core (slurm: no limit)")
    task_megabytes: float = option(32, "Input of a task at most, which is what a kill costs", within=(0.001, 1e6))
    ray_address: str | None = option(None, "Ray cluster; unset: Ray is started on this machine", needs="--executor ray")
    slurm_partition: str = option("normal", "Slurm partition", needs="--executor slurm")
    slurm_time: str = option("12:00:00", "Slurm time limit of a task, hours:minutes:seconds", needs="--executor slurm")
    overwrite: bool = option(False, "Begin anew, also where a corpus is there already")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor == "slurm" and is_address(self.output_dir):
            raise ValueError("--executor slurm needs an --output_dir that is a folder which its machines share")


# What may change between a stop and going on: it changes nothing in the corpus.
FREE = ("output_dir", "executor", "workers", "max_broken_fraction", "ray_address", "overwrite")
FREE += ("slurm_partition", "slurm_time")


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    kinds = (PrepareArguments, ReadArguments, CleaningArguments)
    args, reading, cleaning = parse_arguments(kinds, argv, ROOT / "configs" / "corpus" / "my_files.yaml", __doc__)
    use_limits(reading.reader_limits)
    from data_utils.sources.source import MANIFEST, open_source

    check_address(args.output_dir)
    for path in (*args.sources, *args.eval_files):
        open_source(path).parts()
    with needing("preparing a corpus", "corpus.txt"):
        from data_utils.caching import cache_key
        from data_utils.preparation.begun import begin_work, is_finished
        from data_utils.preparation.executors import run_stages
        from data_utils.preparation.manifest import describe_corpus
        from data_utils.preparation.plan import Preparation, divide_files, list_inputs
    output = local_folder(args.output_dir)

    # 1. What there is to read, and whether this was begun before.
    files = list_inputs(args.sources)
    options = asdict(args) | asdict(reading) | asdict(cleaning)
    settings = {name: value for name, value in options.items() if name not in FREE}
    with one_writer(output):
        if is_finished(args.output_dir, output, settings, args.overwrite):
            print(f"{args.output_dir}: prepared already; nothing to do (--overwrite prepares it again)")
            return 0
        work = output / ".work"
        work.mkdir(parents=True, exist_ok=True)
        begun = begin_work(work, {"settings": settings, "files": files, "code": cache_key()})
        if "tasks" not in begun:
            begun["tasks"] = divide_files(files, args.task_megabytes, reading)
            write_whole(work / "plan.json", json.dumps(begun))  # for who goes on has the same tasks

        # 2. The stages, each of which leaves what the next one reads.
        plan = Preparation(work, files, begun["tasks"], settings, reading, cleaning)
        stages = plan.stages(args.max_broken_fraction)
        slurm = {"partition": args.slurm_partition, "time": args.slurm_time}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = args.workers or (-1 if args.executor == "slurm" else cores)
        if not run_stages(stages, args.executor, work, workers, slurm, args.ray_address):
            return 0
        shutil.rmtree(work)

        # 3. To object storage it goes whole, the manifest last; and what it came to.
        if is_address(args.output_dir):
            send_folder(output, args.output_dir, last=MANIFEST)
        for line in describe_corpus(args.output_dir, output, cleaning.languages):
            print(line)
        if is_address(args.output_dir):
            shutil.rmtree(output)
    return 0


def local_folder(output_dir: str) -> Path:
    """Return the folder in which a corpus is made: its own, or one of the cache that is sent to an address."""
    if not is_address(output_dir):
        return Path(output_dir)
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "corpora" / output_dir.rstrip("/").replace("://", "-").replace("/", "-")


if __name__ == "__main__":
    begin_script()
    run_script(main)
