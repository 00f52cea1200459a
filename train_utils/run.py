"""Opens a run: it takes all cores that it may, its folder is guarded, the checkpoint it goes on from is found."""

import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
from transformers.utils import logging as transformers_logging

from errors import InputError, escape_unprintable
from files import hold, release
from model_utils.finding import find_checkpoint
from train_utils.arguments import RunArguments, change_arguments, count_step_rows, wait_for_all
from train_utils.clock import Stopwatch
from train_utils.plan.rule import Plan
from train_utils.run_folder import Start, collect_settings, prepare_folder, weights_version
from train_utils.sharding import check_resume


@dataclass(frozen=True)
class Run:
    """One run of a script that trains.

    `settings` determine its result and stand in its record; `resume` is the checkpoint that it goes on from; `plan` is
    that of a run by `--minutes`. Nothing is changed in place: `change` returns a run with other arguments.
    """

    script: str
    args: RunArguments
    settings: dict[str, Any] = field(default_factory=dict)
    resume: str | None = None
    plan: Plan | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def folder(self) -> Path:
        """The folder that the run writes."""
        return Path(self.args.output_dir)

    @property
    def is_first(self) -> bool:
        """Whether this process is the first of the run, which prints and writes."""
        return self.args.process_index == 0

    @property
    def step_rows(self) -> int:
        """Rows of an optimizer step, of all processes."""
        return count_step_rows(self.args)

    def say(self, text: str) -> None:
        """Print a line, in the first process alone; words of a corpus or a base leave the terminal as it was."""
        if self.is_first:
            print(escape_unprintable(text))

    def change(self, **changes: Any) -> "Run":
        """Return this run with some arguments changed."""
        return replace(self, args=change_arguments(self.args, **changes))

    def count_rows(self, available: int, row_tokens: int) -> float:
        """Return how many rows of T tokens the run trains on, repeated ones too, where so many are `available`."""
        args = self.args
        if self.plan:
            return min(self.plan.max_epochs * available, self.plan.tokens // row_tokens)
        return args.max_steps * self.step_rows if args.max_steps > 0 else args.num_train_epochs * available


def open_run(
    script: str, args: RunArguments, options: Sequence[Any], *, data_version: str, base: str | None = None
) -> Run | None:
    """Open the run that a script was asked for, or say that it is finished already and return None.

    Args:
        options: the other dataclasses of options. data_version: what changes when the data change.
        base: the checkpoint that is trained further.
    Raises InputError where there is no such base, where the folder holds something else that would be lost, and where
    another process writes in it.
    """
    if base:
        find_checkpoint(base)
    if args.plan_only and args.minutes is None:
        raise InputError(
            "command line: --plan_only needs --minutes, of which it prints the plan, or --devices of train.py"
        )
    use_all_cores()
    silence_libraries()
    watch = Stopwatch()
    watch.lap("start")
    folder = Path(args.output_dir)
    settings = collect_settings(*options, args) | {"data_version": data_version, "base_version": weights_version(base)}
    start = Start()
    if not args.plan_only:  # which writes nothing there
        if args.process_index == 0:
            hold(folder)  # before it is read: another process may write until then
        wait_for_all(args)
        try:
            start = prepare_folder(folder, settings, args.resume_from_checkpoint, args.overwrite, base)
        except InputError:
            release(folder)
            raise
    check_resume(start.checkpoint, args)
    wait_for_all(args)  # all have read the folder before one writes in it
    run = Run(script, args, settings=settings, resume=start.checkpoint, watch=watch)
    if start.is_finished:
        release(folder)
        run.say(f"{run.folder}: this run is finished already; nothing to do (--overwrite trains it again)")
        return None
    return run


CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")  # control groups, version 2: what `docker --cpus 2` sets


def use_all_cores() -> None:
    """Share this machine's cores among its processes, where a launcher gave each of them a single thread.

    `accelerate launch` and torch's launcher set OMP_NUM_THREADS=1 unless told otherwise, which on a CPU leaves all
    other cores idle. A script that is started plainly keeps what the user and torch chose, up to what its container may
    use, of which torch knows nothing.
    """
    launched = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"))
    if torch.accelerator.is_available():
        return
    if launched:
        torch.set_num_threads(max(1, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), count_cores()))


def count_cores() -> int:
    """Return the cores that this process may use: not hyper-threads, which matrix products gain nothing from."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = container_cores(CPU_LIMIT.read_text()) if CPU_LIMIT.exists() else math.inf
    return int(max(1, min(psutil.cpu_count(logical=False) or allowed, allowed, limit)))


def container_cores(limit: str) -> float:
    """Return how many cores' time a container may use, of the `cpu.max` of its control group: quota and period.

    >>> container_cores("200000 100000"), container_cores("max 100000")
    (2.0, inf)
    """
    quota, period = limit.split()
    return math.inf if quota == "max" else int(quota) / int(period)


def silence_libraries() -> None:
    """Turn off what libraries show that says nothing to a user, and their bars where nobody sees them move."""
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
