"""Runs scripts on several processes forked from one that has imported what they need: a second each, instead of ten.

As a program it is that process: it reads a job a line, and answers with the exit codes of the job's processes.
"""

import json
import os
import socket
import subprocess
import sys
import traceback
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = ("train", "train_utils.training", "train_utils.tuning", "data_utils.rows.pretraining")


class Forked:
    """The process from which others are forked, as a test sees it."""

    def __init__(self, log: Path) -> None:
        """Args:
        log: takes the output of all processes.
        """
        self.log = log
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.server = subprocess.Popen(
            [sys.executable, __file__], cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, script: str, count: int, argv: list[str], **env: str) -> tuple[list[int], str]:
        """Run a script on so many processes; return their exit codes and what they wrote."""
        self.log.write_text("")
        job = {"script": script, "count": count, "argv": argv, "log": str(self.log), "env": env}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline()), self.log.read_text(encoding="utf-8")

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=30)


def run_process(script: str, argv: list[str], log: str, env: dict[str, str]) -> None:
    """Run a script in a forked process, and leave it."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(env)
    code = 70
    try:
        code = import_module("errors").run_guarded(lambda: import_module(script).main(argv))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_job(script: str, count: int, argv: list[str], log: str, env: dict[str, str]) -> list[int]:
    """Run a job in its processes; return their exit codes."""
    if count > 1:
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        env |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        env |= {"LOCAL_WORLD_SIZE": str(count)}
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            run_process(script, argv, log, env | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    """Answer jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for module in IMPORTED:
        import_module(module)
    for line in sys.stdin:
        print(json.dumps(run_job(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
