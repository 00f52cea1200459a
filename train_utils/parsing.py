"""Parses the options of the scripts that train, those of Trainer among them; light until they are all right.

`accelerate launch` on CPUs gets its processes here, before what takes seconds to import.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from errors import InputError
from options import parse_arguments


def parse_training(
    kinds: tuple[type, ...], argv: list[str] | None, recipe: Path, description: str, check: Callable[..., object]
) -> tuple[Any, ...]:
    """Parse the options of a script that trains; the last of `kinds`, RunOptions or its child, with TrainingArguments.

    Help and mistakes are told before what training needs is imported, those that `check` finds in the parsed options
    too. `accelerate launch` on CPUs gets the processes that it was asked for.
    """
    *others, options = kinds
    trained: Any = options
    if "--help_all" not in (sys.argv if argv is None else argv):  # which lists Trainer's too
        check(*parse_arguments(kinds, argv, recipe, description, other_names=trainer_names()))
    start_cpu_processes()
    from train_utils.arguments import add_trainer_options

    kinds = (*others, add_trainer_options(trained))
    return parse_arguments(kinds, argv, recipe, description)


def trainer_names() -> set[str]:
    """Return the names of all options of TrainingArguments, read from its source: importing it takes seconds."""
    folder = next(iter(getattr(find_spec("transformers"), "submodule_search_locations", ())))
    source = Path(folder, "training_args.py").read_text(encoding="utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    lines = next(node.body for node in classes if node.name == "TrainingArguments")
    return {ast.unparse(line.target) for line in lines if isinstance(line, ast.AnnAssign)}


def start_cpu_processes() -> None:
    """Start the processes that `accelerate launch --cpu --num_processes N` promises, by torch's own launcher.

    accelerate leaves CPU processes to mpirun, and without it runs a single one and says nothing. Where that has
    happened (its marks stand in the environment, but no rank), this process becomes `python -m torch.distributed.run`
    of N.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_ADDR" in os.environ
    if not asked or any(name in os.environ for name in ("RANK", "WORLD_SIZE", "PMI_RANK", "OMPI_COMM_WORLD_RANK")):
        return
    processes = count_asked_processes(psutil.Process().parent().cmdline())
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        if os.name == "nt":  # where execv would let the parent believe that all is over
            sys.exit(subprocess.run([*launcher, *sys.argv], check=False).returncode)
        os.execv(sys.executable, [*launcher, *sys.argv])


def count_asked_processes(command: list[str]) -> int:
    """Return the `--num_processes` of an `accelerate launch` command line or of its `--config_file`; else 1.

    Raises InputError where that file asks for more than processes.

    >>> count_asked_processes(["python", "accelerate", "launch", "--cpu", "--num_processes", "2", "train.py"])
    2
    """
    options = dict(pairwise(command))
    options |= dict(argument.split("=", 1) for argument in command if argument.startswith("--") and "=" in argument)
    config = {}
    if "--config_file" in options:
        config = yaml.safe_load(Path(options["--config_file"]).read_text(encoding="utf-8"))
        kind = config.get("distributed_type")
        if kind in ("FSDP", "DEEPSPEED"):  # which accelerate then leaves out, and says nothing
            raise InputError(f"{options['--config_file']}: {kind} has no effect with --cpu; leave --cpu out")
    return int(options.get("--num_processes", config.get("num_processes", 1)))
