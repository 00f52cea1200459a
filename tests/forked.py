"""Runs scripts in processes forked from one that has imported what they need: a second each, instead of ten.

As a program it is that process: it reads a request a line, to start a script or to wait for what was started.
"""

import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "train", "finetune_dialogue", "tune_preferences", "chat", "export", "chat_utils.engine", "train_utils.training",
    "train_utils.tuning", "train_utils.preference_data", "data_utils.rows.pretraining",
)  # fmt: skip


@dataclass
class Job:
    """A script's processes, as a test sees them."""

    server: "Forked"
    pids: list[int]
    folder: Path

    @property
    def out(self) -> str:
        """What the processes wrote to standard output so far."""
        return (self.folder / "out").read_text(encoding=self.server.encoding)

    @property
    def err(self) -> str:
        """What the processes wrote to standard error so far."""
        return (self.folder / "err").read_text(encoding=self.server.encoding)

    @property
    def text(self) -> str:
        return self.out + self.err

    def wait_for(self, path: Path, seconds: float = 90) -> None:
        """Wait until the path exists; what was written so far is the error where it doesn't in so many seconds."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < deadline, self.text
            assert all(Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" for pid in self.pids), self.text
            time.sleep(0.005)

    def send(self, number: int) -> None:
        """Send all processes a signal."""
        for pid in self.pids:
            os.kill(pid, number)

    def wait(self) -> list[int]:
        """Return the exit codes of the processes, once all have ended."""
        return self.server.ask({"wait": self.pids})


class Forked:
    """The process from which others are forked, as a test sees it."""

    def __init__(self, folder: Path, root: Path = ROOT, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
        """Args:
        folder: takes the output of all jobs.
        root: the repository, as it is reached. cwd: where scripts run. env: what surrounds them, by default this one's.
        """
        self.folder, self.jobs = folder, 0
        env = {**(os.environ if env is None else env), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        self.encoding = env.get("PYTHONIOENCODING", "utf-8")
        command = [sys.executable, str(root / "tests" / "forked.py")]
        self.server = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, request: dict):
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(
        self,
        script: str,
        argv: list[str],
        *,
        count: int = 1,
        typed: bytes = b"",
        file_bytes: int | None = None,
        env: dict[str, str] | None = None,
    ) -> Job:
        """Start a script on so many processes.

        Args:
            script: a module whose `main` takes the arguments.
            typed: standard input.
            file_bytes: what a file that it writes may have at most.
            env: variables beside those of this process.
        """
        self.jobs += 1
        folder = self.folder / str(self.jobs)
        folder.mkdir()
        (folder / "in").write_bytes(typed)
        for name in ("out", "err"):
            (folder / name).touch()
        job = {"script": script, "argv": argv, "count": count, "folder": str(folder), "file_bytes": file_bytes}
        return Job(self, self.ask({"start": job | {"env": env or {}}}), folder)

    def run(self, script: str, argv: list[str], **more) -> tuple[list[int], Job]:
        """Run a script to its end; return the exit codes of its processes, and what they wrote."""
        job = self.start(script, argv, **more)
        return job.wait(), job

    def close(self) -> None:
        self.server.kill()
        self.server.wait()


def run_process(script: str, argv: list[str], folder: Path, file_bytes: int | None, env: dict[str, str]) -> None:
    """Run a script in a forked process, and leave it."""
    for stream, (name, flags) in enumerate({"in": os.O_RDONLY, "out": os.O_WRONLY, "err": os.O_WRONLY}.items()):
        os.dup2(os.open(folder / name, flags | (os.O_APPEND if stream else 0)), stream)
    sys.stdin = open(0, encoding=sys.stdout.encoding, closefd=False)  # noqa: SIM115 - a descriptor
    if file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    os.environ.update(env)
    sys.argv = [f"{script}.py", *argv]
    code = 70
    try:
        code = import_module("errors").run_guarded(lambda: import_module(script).main(argv))
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start_job(
    script: str, argv: list[str], count: int, folder: str, file_bytes: int | None, env: dict[str, str]
) -> list[int]:
    """Fork the processes of a job; return their numbers."""
    if count > 1:
        with socket.socket() as listener:
            listener.bind(("localhost", 0))
            port = listener.getsockname()[1]
        env |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        env |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    pids = []
    for rank in range(count):
        pid = os.fork()
        if not pid:
            ranked = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            run_process(script, argv, Path(folder), file_bytes, env | ranked)
        pids.append(pid)
    return pids


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import_module("environment").begin_script()
    for module in IMPORTED:
        import_module(module)
    # Else each process does it again: measures the processor, looks at every character, and passes over what stays.
    import_module("train_utils.plan.machine").measure_peak("cpu", "fp32")
    import_module("data_utils.text.characters").kind_table()
    # And a tuning's report asks fewer questions, for shorter replies: they would be most of its time.
    import_module("train_utils.reply_report").QUESTIONS = 1
    for module in ("eval_utils.asking", "train_utils.own_replies"):
        import_module(module).MAX_TOKENS = 24
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = start_job(**request["start"])
        else:
            answer = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in request["wait"]]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
