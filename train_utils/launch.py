"""Prepares a script that trains: it takes all cores that it may, and silences libraries."""

import logging
import math
import os
import sys
from pathlib import Path

import datasets
import psutil
import torch
from transformers.utils import logging as transformers_logging

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
