"""The CPU processes that `accelerate launch` promises: started before what takes seconds to import."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import yaml

from errors import InputError


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
