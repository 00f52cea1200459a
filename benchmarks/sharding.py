"""Sharded training on CPU processes: kills it at random moments, also while it saves; measures its memory and saving.

python -m benchmarks.sharding --kills 50     # two processes, Muon and AdamW; each goes on, to the same weights
python -m benchmarks.sharding --memory 123   # FSDP2 and DDP on 4 processes, M parameters: losses, memory, the plan's
python -m benchmarks.sharding --saving 123   # what a checkpoint takes on one process, and sharded on two
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from benchmarks.faults import SCRATCH, digest, fail, make_runs, start  # first: it names the caches' folders

# isort: split
import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import train
from files import COMPLETE_FILE
from model_utils.shapes import count_parameters
from train_utils import callbacks, guard, training
from train_utils.plan.devices import measure_model, row_bytes, state_bytes
from train_utils.run_folder import find_checkpoints
from train_utils.steps.muon import local_part

SHAPES = {31: (384, 16), 123: (768, 16)}  # M parameters: width, layers


M_MMAP_THRESHOLD = -3  # malloc.h


def start_all(count: int, work: Callable[[], int], log: Path) -> list[int]:
    """Start so many processes of one run; return their numbers."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}

    def run(rank: int) -> int:
        os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count))
        return work()

    return [start(lambda rank=rank: run(rank), log) for rank in range(count)]


def end_all(processes: list[int]) -> list[int]:
    """Wait for all processes of a run; return their exit codes."""
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def kill_when(processes: list[int], is_time: Callable[[], bool]) -> bool:
    """Kill all processes of a run at a moment; return whether it came before the run's end."""
    while not is_time():
        if not all(
            psutil.pid_exists(process) and psutil.Process(process).status() != "zombie" for process in processes
        ):
            return False
        time.sleep(0.002)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    return True


def measure_kills(options: list[str], kills: int, seed: int) -> int:
    """Kill a sharded run again and again, every second time within a save, until there were so many kills."""
    chance, log = random.Random(seed), SCRATCH / "log.txt"
    sharded = [*options, "--fsdp", "true"]
    whole, folder = SCRATCH / "whole", SCRATCH / "killed"
    for _ in range(2):  # the first one fills the caches
        shutil.rmtree(whole, ignore_errors=True)
        before = time.monotonic()
        if any(end_all(start_all(2, lambda: train.main([*sharded, "--output_dir", str(whole)]), log))):
            return fail("the undisturbed run failed", log)
        seconds = time.monotonic() - before
    expected, killed, in_save, finished = digest(whole), 0, 0, 0
    while killed < kills:
        shutil.rmtree(folder, ignore_errors=True)
        while True:
            processes = start_all(2, lambda: train.main([*sharded, "--output_dir", str(folder)]), log)
            if killed % 2:
                end = time.monotonic() + chance.uniform(0.3, 1.0) * seconds
                was_killed = kill_when(processes, lambda end=end: time.monotonic() > end)
            else:  # as soon as a checkpoint is begun, and a moment later
                there = set(find_checkpoints(folder))
                was_killed = kill_when(processes, lambda there=there: bool(set(find_checkpoints(folder)) - there))
            codes = end_all(processes)
            if not was_killed:
                if any(codes):
                    return fail(f"ended with {codes}", log)
                break
            killed += 1
            in_save += any(not (found / COMPLETE_FILE).exists() for found in find_checkpoints(folder))
            if killed % 2:
                continue
        finished += 1
        if digest(folder) != expected:
            return fail("other weights after kills", log)
    print(
        f"FSDP2 on 2 processes, {seconds:.1f} s: {killed} kills, {in_save} of them within a save; {finished} runs "
        "went on to the weights of the undisturbed one, bit for bit"
    )
    return 0


def follow_memory(found: Path) -> None:
    """Have the first process write what it holds at its third step, and its peak since the training began."""
    training.keep_freed_memory = lambda device: None  # or what was freed would count
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**16)  # tensors go back to the system when they are freed, as a GPU's do
    train_and_save, step = training.train_and_save, guard.Guard.on_pre_optimizer_step
    base = [0]

    def enter(run, model, *others):
        base[0] = psutil.Process().memory_info().rss - 4 * count_parameters(model)
        return train_and_save(run, model, *others)

    def measure(self, args, state, control, **kwargs):
        if state.global_step == 1:
            libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        parameters = [local_part(p) for p in kwargs["model"].parameters()]
        gradients = [local_part(p.grad) for p in kwargs["model"].parameters()]
        states = [local_part(value) for of in kwargs["optimizer"].state.values() for value in of.values()]
        parts = {"weights": parameters, "gradients": gradients, "optimizer": states}
        step(self, args, state, control, **kwargs)
        if state.global_step == 2 and state.is_world_process_zero:
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
            sums = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in parts.items()}
            found.write_text(json.dumps(sums | {"peak": peak - base[0]}))

    training.train_and_save, guard.Guard.on_pre_optimizer_step = enter, measure


def make_large(options: list[str], millions: int, **changes: str) -> tuple[list[str], dict]:
    """Return options of a run of a model of so many parameters, and its shape."""
    width, layers = SHAPES[millions]
    shape = {"model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64}
    shape |= {"max_position_embeddings": 256, "tie_word_embeddings": False}
    (SCRATCH / "large.json").write_text(json.dumps(shape))
    given = dict(zip(options[::2], options[1::2], strict=True)) | {"--model_shape": str(SCRATCH / "large.json")}
    given |= {"--optim": "adamw", "--per_device_train_batch_size": "1", "--block_tokens": "128", "--overwrite": "true"}
    del given["--resume_from_checkpoint"]
    given |= {f"--{name}": value for name, value in changes.items()}
    return [word for pair in given.items() for word in pair], shape


def measure_memory(options: list[str], millions: int, count: int = 4) -> int:
    """Print what a process holds at a step by DDP and by FSDP2, beside what the plan says, and their losses."""
    del options[options.index("--save_steps") : options.index("--save_steps") + 2]
    words, shape = make_large(options, millions, max_steps="10", save_strategy="no", warmup_steps="1")
    log, totals, losses = SCRATCH / "log.txt", {}, {}
    for strategy, more in (("DDP", []), ("FSDP2", ["--fsdp", "true"])):
        found, folder = SCRATCH / f"{strategy}.json", SCRATCH / "memory"

        def work(more: list[str] = more, found: Path = found, folder: Path = folder) -> int:
            follow_memory(found)
            return train.main([*words, *more, "--output_dir", str(folder)])

        if any(end_all(start_all(count, work, log))):
            return fail(f"{strategy} failed", log)
        held = json.loads(found.read_text())
        losses[strategy] = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        with torch.device("meta"):
            vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, vocab_size=vocab))
        sizes = measure_model(model, 128, muon=False, compute_bytes=4)
        planned = state_bytes(sizes, strategy, count) | row_bytes(sizes, 1)
        peak = held.pop("peak")
        totals[strategy] = sum(held.values())
        words_of = ", ".join(f"{name} {held[name] / 1e6:,.0f} MB (plan {planned[name] / 1e6:,.0f})" for name in held)
        print(
            f"{sizes.parameters / 1e6:.0f} M parameters, {strategy} on {count} processes: {words_of}; peak of a step "
            f"{peak / 1e6:,.0f} MB (plan {sum(planned.values()) / 1e6:,.0f}); losses {losses[strategy]}",
            flush=True,
        )
    apart = max(abs(one - two) for one, two in zip(*losses.values(), strict=True))
    print(
        f"FSDP2 holds {totals['FSDP2'] / totals['DDP']:.0%} of what DDP does in weights, gradients and optimizer; "
        f"losses of {len(losses['DDP'])} steps within {apart:.6f}"
    )
    return 0


def follow_saving(found: Path) -> None:
    """Have the first process write how long each checkpoint takes to write, and then to be synced and hashed."""
    save, mark, seconds = training.Trainer._save_checkpoint, callbacks.mark_complete, {"write": [], "sync and hash": []}

    def timed(name: str, function: Callable, *args) -> None:
        begin = time.monotonic()
        function(*args)
        seconds[name].append(time.monotonic() - begin)

    def mark_timed(folder: Path) -> None:
        timed("sync and hash", mark, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found.write_text(json.dumps(seconds | {"bytes": size}))

    training.Trainer._save_checkpoint = lambda *args: timed("write", save, *args)
    callbacks.mark_complete = mark_timed


def measure_saving(options: list[str], millions: int) -> int:
    """Print what a checkpoint takes: AdamW's, which is the largest, three times."""
    words, _ = make_large(options, millions, max_steps="3", save_steps="1", warmup_steps="1")
    log, found = SCRATCH / "log.txt", SCRATCH / "saving.json"
    for count, more in ((1, []), (2, ["--fsdp", "true"])):

        def work(more: list[str] = more) -> int:
            follow_saving(found)
            return train.main([*words, *more, "--output_dir", str(SCRATCH / "saving")])

        if any(end_all(start_all(count, work, log) if count > 1 else [start(work, log)])):
            return fail(f"{count} processes failed", log)
        values = json.loads(found.read_text())
        size, middle = values.pop("bytes"), {name: median(seconds) for name, seconds in values.items()}
        total = sum(middle.values())
        words_of = ", ".join(f"{name} {value:.1f} s" for name, value in middle.items())
        print(
            f"{millions} M parameters on {count} processes{', sharded' * bool(more)}: a checkpoint of {size / 1e9:.2f} "
            f"GB takes {total:.1f} s ({words_of}): 2% of the time where it comes every {total / 0.02:,.0f} s",
            flush=True,
        )
    return 0


def main() -> int:
    """Run what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--memory", type=int, choices=SHAPES)
    parser.add_argument("--saving", type=int, choices=SHAPES)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = make_runs(SCRATCH)["train, Muon"][1]
    if args.memory:
        return measure_memory(options, args.memory)
    if args.saving:
        return measure_saving(options, args.saving)
    return measure_kills(options, args.kills or 50, args.seed)


if __name__ == "__main__":
    raise SystemExit(main())
