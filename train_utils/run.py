"""Opens a run: its folder is guarded, the checkpoint it goes on from is found, and its time is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from errors import InputError
from files import hold
from model_utils.checkpoint import find_checkpoint
from train_utils.arguments import RunArguments, change_arguments, count_step_rows, wait_for_all
from train_utils.checkpoint import collect_settings, prepare_folder, weights_version
from train_utils.launch import silence_libraries, use_all_cores
from train_utils.plan.rule import Plan
from train_utils.sharding import check_resume
from train_utils.stopwatch import Stopwatch


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
        """Print a line, in the first process alone."""
        if self.is_first:
            print(text)

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
    settings = collect_settings(*options, args) | {"data_version": data_version, "base_version": weights_version(base)}
    resume = None
    if not args.plan_only:  # which writes nothing there
        folder = Path(args.output_dir)
        prepare = partial(prepare_folder, folder, settings, args.resume_from_checkpoint, args.overwrite, base)
        resume = prepare()
        if resume != "finished":
            if args.process_index == 0:
                hold(folder)
            wait_for_all(args)
            resume = prepare()  # again, since another process may have written until it was held
    check_resume(None if resume == "finished" else resume, args)
    wait_for_all(args)  # all have read the folder before one writes in it
    run = Run(script, args, settings=settings, resume=resume, watch=watch)
    if resume == "finished":
        run.say(f"{run.folder}: this run is finished already; nothing to do (--overwrite trains it again)")
        return None
    return run
