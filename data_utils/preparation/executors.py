"""Runs the tasks of a preparation on this machine, on a Slurm cluster or on Ray, by datatrove's executors."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dill
import psutil
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from loguru import logger

from data_utils.caching import open_progress
from errors import InputError, first_line, needing

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    """A part of a preparation: `run(number)` for each of `tasks` tasks, after the stage before it is done."""

    name: str
    run: Callable[[int], None]
    tasks: int
    sizes: list[int] | None = None  # bytes of each task, for the progress bar

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Run a task, as datatrove calls the blocks of a pipeline."""
        self.run(rank)


class LocalExecutor(LocalPipelineExecutor):
    """datatrove's executor for one machine with a pool that tells when a worker was killed, and a progress bar.

    datatrove's own pool waits for ever for a worker that the system ended for lack of memory, and its log of each task
    would fill the screen: what a user must know stands in the report.
    """

    def run(self) -> None:
        """Run what isn't done yet; raise what a task raised."""
        ranks = self.get_incomplete_ranks()
        stage: Any = self.pipeline[0]
        sizes = stage.sizes or [1] * self.tasks
        done = sum(sizes) - sum(sizes[rank] for rank in ranks)
        unit = "B" if stage.sizes else " tasks"
        with open_progress(stage.name, sum(sizes), done=done, unit=unit) as bar:
            if min(self.workers, len(ranks)) < 2 or not can_share_work():
                for rank in ranks:
                    run_task(dill.dumps(self), rank)
                    bar.update(sizes[rank])
                return
            payload = dill.dumps(self)
            os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            context = get_context("forkserver" if sys.platform == "linux" else "spawn")
            if sys.platform == "linux":  # all is imported once, and each worker begins as a copy of that
                context.set_forkserver_preload(["data_utils.preparation.plan"])
            with ProcessPoolExecutor(self.workers, context, leave_with, (os.getpid(),)) as pool:
                waiting = {pool.submit(run_task, payload, rank): rank for rank in ranks}
                try:
                    while waiting:
                        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                            bar.update(sizes[waiting.pop(future)])
                            future.result()
                except BrokenProcessPool as error:
                    raise RuntimeError(
                        "out of memory? a worker process was killed; the same command goes on, --workers 1 needs less"
                    ) from error
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)


def can_share_work() -> bool:
    """Tell whether processes can be given work here; say where they can't, as in a container with a full /dev/shm."""
    try:
        get_context("spawn").Lock()
    except (ImportError, OSError) as error:
        print(f"note: one process does all, since no semaphore can be made (/dev/shm): {first_line(error)}")
        return False
    return True


def run_task(payload: bytes, rank: int) -> None:
    """Run one task of a pickled executor, each on a copy of its own."""
    logger.disable("datatrove")
    dill.loads(payload)._run_for_rank(rank)


def leave_with(parent: int) -> None:
    """Let this worker process end when `parent` has: whoever goes on must not find it still writing."""

    def watch() -> None:
        while True:
            time.sleep(0.5)
            if not psutil.pid_exists(parent):
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_executor(stage: Stage, kind: str, work: Path, workers: int, slurm: dict, before: Any):
    """Return datatrove's executor of this kind for a stage."""
    logs = str(work / "runs" / stage.name)
    if kind == "local":
        return LocalExecutor([stage], stage.tasks, workers, logs)
    if kind == "ray":
        return RayPipelineExecutor([stage], stage.tasks, workers, logging_dir=logs, mem_per_cpu_gb=1)
    # The compute nodes see the same folders; they need this Python and this code.
    environment = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={ROOT}:$PYTHONPATH"
    return SlurmPipelineExecutor(
        [stage],
        stage.tasks,
        workers=workers,
        job_name=f"corpus-{stage.name}",
        env_command=environment,
        logging_dir=logs,
        depends=before,
        sbatch_args={"kill-on-invalid-dep": "yes"},  # after a stage that failed the others would wait for ever
        **slurm,
    )


def run_stages(stages: list[Stage], kind: str, work: Path, workers: int, slurm: dict, ray_address: str | None) -> bool:
    """Run the stages in order, what is done already left out; return whether they are done (Slurm's run later)."""
    if kind == "slurm":
        if shutil.which("sbatch") is None:
            raise InputError("--executor slurm: there is no sbatch here; run it on a login node of the cluster")
        submit_stages(stages, work, workers, slurm)
        print(f"submitted to Slurm; scripts and logs in {work / 'runs'}; the same command goes on after a failure")
        return False
    if kind == "ray":
        start_ray(ray_address)
    for stage in stages:
        executor = make_executor(stage, kind, work, workers, slurm, None)
        executor.run()
        if failed := executor.get_incomplete_ranks(skip_completed=True):
            raise_failure(executor, stage, failed)
    return True


def submit_stages(stages: list[Stage], work: Path, workers: int, slurm: dict) -> None:
    """Submit the stages as jobs, each after the one before; raise InputError where they were and haven't ended yet."""
    path = work / "jobs.txt"
    if path.exists():
        command = ["squeue", "--noheader", "--jobs", path.read_text(), "--format", "%i %j"]
        waiting = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if waiting:
            raise InputError(f"{work.parent}: still runs as Slurm job {waiting[0]}; wait for it, or scancel it")
    executors: list[Any] = []
    for stage in stages:
        executors.append(make_executor(stage, "slurm", work, workers, slurm, executors[-1] if executors else None))
    logger.disable("datatrove")
    executors[-1].run()
    path.write_text(",".join(str(executor.job_id) for executor in executors if executor.job_id not in (None, -1)))


def start_ray(address: str | None) -> None:
    """Join a Ray cluster, or start Ray on this machine."""
    with needing("--executor ray", "ray.txt"):
        import ray
    if not ray.is_initialized():
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        ray.init(address, runtime_env={"env_vars": {"PYTHONPATH": path}}, log_to_driver=False, include_dashboard=False)
    logger.disable("datatrove")


def raise_failure(executor: PipelineExecutor, stage: Stage, failed: list[int]) -> None:
    """Raise what the log of a failed task says; Ray's executor keeps it for itself."""
    path = f"logs/task_{failed[0]:05d}.log"
    log = executor.logging_dir.open(path, "r").read() if executor.logging_dir.isfile(path) else ""
    errors = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception)): (.*)$", log, re.MULTILINE)
    kind, reason = errors[-1] if errors else ("", "it was killed")
    if kind == "InputError":
        raise InputError(reason)
    raise RuntimeError(f"stage {stage.name}, task {failed[0]}: {kind} {reason}; see {executor.logging_dir.path}/{path}")
