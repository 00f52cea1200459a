"""Kill runs at random moments and cut their power, go on, and compare the weights with those of an undisturbed run.

python -m benchmarks.faults --kills 100                         # then power cuts: some twenty minutes
python -m benchmarks.faults --kills 100 --record found.json      # the same in pieces of --minutes, until all are done

SIGKILL, SIGTERM, SIGHUP and SIGINT take turns.

Four runs: train.py with Muon and with AdamW, finetune_dialogue.py with all weights and with LoRA; a checkpoint every
second step, so that many kills fall into the saving. A power cut keeps what was synced, and of the rest whatever a disk
may: the benchmark follows every sync, rename and deletion of a run and lays out the folders that could be left.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # whose threads a fork would lose
SCRATCH = Path(tempfile.mkdtemp(prefix="faults-"))
os.environ.update(HF_HOME=str(SCRATCH / "hf"), HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import psutil
import torch

import finetune_dialogue
import train
from data_utils.sources.builtin import own_files
from errors import run_guarded
from files import COMPLETE_FILE, find_damage, mark_complete, write_whole
from train_utils import callbacks
from train_utils.places import read_record
from train_utils.run_folder import (
    checkpoint_step,
    find_checkpoints,
)

for module in ("train_utils.training", "train_utils.tuning", "train_utils.objectives", "data_utils.dialogue.report"):
    import_module(module)  # once: a killed run is a fork that has them already

SHAPE = {
    "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
}  # fmt: skip
COMMON = [
    "--max_steps", "12", "--save_steps", "2", "--eval_strategy", "no", "--logging_steps", "5", "--warmup_steps", "2",
    "--report_to", "none", "--bf16", "false", "--torch_compile", "false", "--use_cpu", "true",
    "--resume_from_checkpoint", "true",
]  # fmt: skip
RUN = tuple[Callable, list[str]]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
MODES = ("synced alone", "names first", "by chance", "by chance")  # what of the rest a power cut leaves


def make_runs(base: Path) -> dict[str, RUN]:
    """Return the runs by name: a script's `main` and its options, without the folder."""
    (SCRATCH / "shape.json").write_text(json.dumps(SHAPE))
    lines = [line for file in own_files("own") for line in file.read_text(encoding="utf-8").splitlines()]
    (SCRATCH / "dialogues.jsonl").write_text("\n".join(lines[::20]), encoding="utf-8")
    texts = ["\n".join(message["content"] for message in json.loads(line)["messages"]) for line in lines[::20]]
    (SCRATCH / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    pretraining = ["--corpus", str(SCRATCH / "text.txt"), "--model_shape", str(SCRATCH / "shape.json")]
    pretraining += ["--vocab_size", "600", "--block_tokens", "32", "--head_start", "false", "--eval_fraction", "0.1"]
    pretraining += ["--per_device_train_batch_size", "2", *COMMON]
    tuning = ["--base", str(base), "--dialogues", str(SCRATCH / "dialogues.jsonl"), "--row_tokens", "128"]
    tuning += ["--eval_fraction", "0.1", "--per_device_train_batch_size", "2"]
    tuning += ["--eval_on_start", "false", *COMMON]
    return {
        "train, Muon": (train.main, pretraining),
        "train, AdamW": (train.main, [*pretraining, "--optim", "adamw"]),
        "tune, Muon": (finetune_dialogue.main, tuning),
        "tune, LoRA": (finetune_dialogue.main, [*tuning, "--lora", "true", "--optim", "adamw"]),
    }


def start(work: Callable[[], int], log: Path) -> int:
    """Start a process that ends with the exit code of `work`; return its number."""
    process = os.fork()
    if process == 0:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        torch.set_num_threads(1)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores, and a job in the background the other
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 1
        try:
            code = run_guarded(work)
        except BaseException as error:
            print(f"Traceback: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(code)
    return process


def wait_for(process: int, cpu_seconds: float | None = None) -> int | None:
    """Return how a process ended, as subprocess does (-9: by SIGKILL); None where it has used its seconds before."""
    while True:
        found, status = os.waitpid(process, 0 if cpu_seconds is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if count_cpu(process) >= cpu_seconds:
            return None
        time.sleep(0.002)


def count_cpu(process: int) -> float:
    """Return the processor's seconds that a process has used: moments by these don't depend on what else runs."""
    with suppress(psutil.Error):
        return sum(psutil.Process(process).cpu_times()[:2])
    return 0.0


def digest(folder: Path) -> str:
    """Return a digest of a finished run's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def fail(reason: str, log: Path) -> int:
    """Say what went wrong, with the end of a log; return the exit code of the benchmark."""
    print(f"{reason}; {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
    return 1


def measure_kills(name: str, run: RUN, *, kills: int, until: float, record: "Record") -> int:
    """Kill a run again and again until it is done, and that until there were so many kills."""
    main, options = run
    log, whole = SCRATCH / "log.txt", SCRATCH / "whole" / name.replace(", ", "-").lower()
    seconds, found = 0.0, record.of(name)
    chance = random.Random(f"{name} {found.runs}")
    for attempt in ("warm", "timed"):  # the first one fills the caches
        shutil.rmtree(whole, ignore_errors=True)
        before = sum(os.times()[2:4])  # of the children that have ended
        if wait_for(start(lambda: main([*options, "--output_dir", str(whole)]), log)):
            return fail(f"{name}: the {attempt} run failed", log)
        seconds = sum(os.times()[2:4]) - before
    expected = digest(whole)
    while found.killed.total() < kills and time.monotonic() < until:
        folder = SCRATCH / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        while True:
            process = start(lambda folder=folder: main([*options, "--output_dir", str(folder)]), log)
            code = wait_for(process, chance.uniform(0.2, 1.0) * seconds)
            number = SIGNALS[found.killed.total() % len(SIGNALS)]
            if code is None:
                os.kill(process, number)
                code = wait_for(process)
            if code == 0:
                break
            if code not in (-number, 128 + number):
                return fail(f"{name}: ended with {code} after {number.name}", log)
            found.killed[number.name] += 1
            found.in_save += sum(not (one / COMPLETE_FILE).exists() for one in find_checkpoints(folder))
        found.runs += 1
        if digest(folder) != expected:
            return fail(f"{name}: other weights after kills", log)
        record.save()
    return 0


@dataclass
class Found:
    """What a run went through, and came out of with the weights of the undisturbed one."""

    killed: Counter = field(default_factory=Counter)  # by the signal's name
    in_save: int = 0  # kills that left a checkpoint cut off
    runs: int = 0
    cuts: int = 0
    kept: int = 0  # folders that a power cut left, from which a run went on


class Record:
    """What was found so far, by the run's name; kept in a file, if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.runs = path, {}
        for name, found in json.loads(path.read_text()).items() if path and path.exists() else ():
            self.runs[name] = Found(**found | {"killed": Counter(found["killed"])})

    def of(self, name: str) -> Found:
        """Return what was found of a run."""
        return self.runs.setdefault(name, Found())

    def save(self) -> None:
        """Keep what was found."""
        if self.path:
            write_whole(self.path, json.dumps({name: vars(found) for name, found in self.runs.items()}, indent=1))

    def describe(self) -> str:
        """Return the table of what was found."""
        names = [number.name for number in SIGNALS]
        titles = ["run", *names, "cut off in a save", "runs ended, weights equal", "power cuts", "went on from one"]
        rows = [
            [name, *(found.killed[one] for one in names), found.in_save, found.runs, f"{found.cuts:,}", found.kept]
            for name, found in self.runs.items()
        ]
        lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


class Disk:
    """What a disk may hold of a folder if the power goes: follows the syncs of this process."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root, self.chance = root, chance
        self.files: dict[int, bytes] = {}  # inode -> content when it was last synced
        self.folders: dict[int, dict[str, tuple[int, bool]]] = {}  # inode -> names -> (inode, whether a folder)
        self.pins: dict[int, int] = {}  # a handle of each inode, so that it is given to no other file
        self.whole: dict[int, dict[str, str]] = {}  # step -> name -> digest, of what was marked complete
        self.faults: list[str] = []
        self.cuts = Counter()
        self.kept: list[Path] = []
        self.has_marked = False  # once a checkpoint was called complete, there must always be one
        self.is_busy = False  # its own deletions are none of the run's

    def sync(self, handle: int) -> None:
        """Note what a sync has put on the disk."""
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path != self.root.parent and self.root not in (path, *path.parents):
            return
        number = os.fstat(handle).st_ino
        if path.is_dir():
            self.folders[number] = list_names(path)
            for name, (inode, _) in self.folders[number].items():
                if inode not in self.pins:
                    self.pins[inode] = os.open(path / name, os.O_RDONLY)
        else:
            self.files[number] = path.read_bytes()

    def cut(self) -> None:
        """Lay out what the power might leave now, in each way, and check it."""
        if self.is_busy or not self.root.exists():
            return
        self.is_busy = True
        try:
            for mode in MODES:
                self.cut_once(mode)
        except Exception as error:  # which the code that is followed might let pass
            self.faults.append(f"the benchmark: {type(error).__name__}: {error}")
        self.is_busy = False

    def cut_once(self, mode: str) -> None:
        """Lay out what the power might leave in one way, and check it."""
        for folder in find_checkpoints(self.root):
            if checkpoint_step(folder) not in self.whole and find_damage(folder) is None:
                self.whole[checkpoint_step(folder)] = digest_files(folder)
        target = SCRATCH / "cut"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        names = self.choose(self.root.parent, mode)
        if self.root.name in names:
            self.lay_out(self.root, names[self.root.name][0], target / "out", mode)
        self.check(target / "out", mode)
        self.cuts[mode] += 1
        if self.chance.random() < 0.01 and mode == "by chance":
            kept = SCRATCH / f"kept-{os.getpid()}-{len(self.kept)}"
            shutil.copytree(target, kept)
            self.kept.append(kept / "out")

    def choose(self, live: Path | None, mode: str, number: int | None = None) -> dict[str, tuple[int, bool]]:
        """Return the names that a folder has after the cut; `live` is where it is now, if it is anywhere."""
        now = list_names(live) if live else {}
        synced = self.folders.get(live.stat().st_ino if live else number, {})
        if mode == "synced alone":
            return synced
        if mode == "names first":
            return now
        sides = {name: self.chance.choice((synced, now)) for name in sorted({*synced, *now})}
        return {name: side[name] for name, side in sides.items() if name in side}

    def lay_out(self, live: Path | None, number: int, target: Path, mode: str) -> None:
        """Write what a folder is after the cut."""
        target.mkdir()
        if live is None or not live.exists() or live.stat().st_ino != number:
            live = None
        for name, (inode, is_folder) in self.choose(live, mode, number).items():
            place = live / name if live else None
            if is_folder:
                self.lay_out(place, inode, target / name, mode)
                continue
            is_live = place is not None and place.is_file() and place.stat().st_ino == inode
            content = place.read_bytes() if is_live else self.files.get(inode, b"")
            synced = self.files.get(inode)
            if synced is None or (mode == "by chance" and synced != content):
                lost = {"synced alone": [b""], "names first": [bytes(len(content))]}
                options = [b"", content[: len(content) // 2], content, bytes(len(content))]
                synced = self.chance.choice(lost.get(mode, options))
            (target / name).write_bytes(synced)

    def check(self, folder: Path, mode: str) -> None:
        """Note what looks whole and isn't, and whether all that was whole is gone."""
        steps = []
        for found in find_checkpoints(folder) if folder.exists() else []:
            if find_damage(found) is None:
                steps.append(checkpoint_step(found))
                differing = digest_files(found).items() ^ self.whole.get(steps[-1], {}).items()
                if differing:
                    names = ", ".join(sorted({name for name, _ in differing}))
                    self.faults.append(f"{mode}: {found.name} looks whole and is not: {names}")
        record = read_record(folder) if folder.exists() else None
        is_finished = record is not None and record["status"] == "finished"
        if self.has_marked and not steps and not is_finished:
            self.faults.append(f"{mode}: no whole checkpoint, of {sorted(self.whole)}")
        weights = folder / "model.safetensors"
        if is_finished or weights.exists():
            same = weights.exists() and weights.read_bytes() == (self.root / "model.safetensors").read_bytes()
            if not same:
                self.faults.append(f"{mode}: the weights of {'a finished' if is_finished else 'the'} run are not whole")


def list_names(folder: Path) -> dict[str, tuple[int, bool]]:
    """Return the names in a folder with their inodes, and whether each is a folder."""
    with os.scandir(folder) as entries:
        return {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}


def digest_files(folder: Path) -> dict[str, str]:
    """Return a digest of each file of a checkpoint."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def watch_disk(main: Callable, options: list[str], folder: Path, seed: int) -> int:
    """Run a script, the power cut in thought at each of its syncs, renames and deletions; write what was found."""
    disk = Disk(folder, random.Random(seed))
    warnings.simplefilter("ignore")
    sync = os.fsync

    def fsync(handle: int) -> None:
        disk.cut()
        sync(handle)
        disk.sync(handle)
        disk.cut()

    def watched(function: Callable) -> Callable:
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            inside = any(str(folder) in os.fspath(arg) for arg in args if isinstance(arg, (str, Path)))
            if inside or "dir_fd" in kwargs:
                disk.cut()
            return result

        return call

    def mark(checkpoint: Path) -> None:
        mark_complete(checkpoint)
        disk.has_marked = True

    callbacks.mark_complete = mark
    os.fsync = fsync
    for name in ("replace", "rename", "unlink", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))
    code = main([*options, "--output_dir", str(folder)])
    found = {"faults": disk.faults, "cuts": disk.cuts, "kept": [str(path) for path in disk.kept]}
    (SCRATCH / "disk.json").write_text(json.dumps(found))
    return code


def measure_cuts(name: str, run: RUN, seed: int, record: Record) -> int:
    """Cut the power of a run at each of its syncs, and go on from some of what is left."""
    main, options = run
    log, folder = SCRATCH / "log.txt", SCRATCH / "power" / "out"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir()
    if wait_for(start(lambda: watch_disk(main, options, folder, seed), log)):
        return fail(f"{name}: the run whose power is cut failed", log)
    found = json.loads((SCRATCH / "disk.json").read_text())
    if found["faults"]:
        print(f"{name}: {len(found['faults'])} of {sum(found['cuts'].values())} cuts: {Counter(found['faults'])}")
        return 1
    expected = digest(folder)
    for left in found["kept"]:
        if wait_for(start(lambda left=left: main([*options, "--output_dir", left]), log)):
            return fail(f"{name}: a run does not go on from {left}", log)
        if digest(Path(left)) != expected:
            return fail(f"{name}: other weights after a power cut, in {left}", log)
    record.of(name).cuts, record.of(name).kept = sum(found["cuts"].values()), len(found["kept"])
    record.save()
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 where nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of all four runs together")
    parser.add_argument("--minutes", type=float, default=10, help="nothing more is begun after so many")
    parser.add_argument("--record", type=Path, help="file that keeps what was found, for the next call to go on from")
    parser.add_argument("--seed", type=int, default=0, help="of the power cuts")
    args = parser.parse_args(argv)
    began, record = time.monotonic(), Record(args.record)
    base = SCRATCH / "base"
    runs = make_runs(base)
    if wait_for(start(lambda: runs["train, Muon"][0]([*runs["train, Muon"][1], "--output_dir", str(base)]),
                      SCRATCH / "log.txt")):  # fmt: skip
        return fail("the base could not be trained", SCRATCH / "log.txt")
    kills, end = args.kills // len(runs), began + 60 * args.minutes
    for number, (name, run) in enumerate(runs.items(), 1):
        until = began + 60 * args.minutes * number / len(runs)
        if record.of(name).killed.total() < kills and measure_kills(name, run, kills=kills, until=until, record=record):
            return 1
    for name, run in runs.items():
        is_due = not record.of(name).cuts and time.monotonic() < end
        if is_due and measure_cuts(name, run, args.seed, record):
            return 1
    print(record.describe())
    is_done = all(found.killed.total() >= kills and found.cuts for found in record.runs.values())
    print("all done" if is_done else "not all done; the same command with --record goes on")
    shutil.rmtree(SCRATCH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
