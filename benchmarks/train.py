"""How fast and how well training goes here, against plain recipes on the same machine: `make bench`.

    python benchmarks/train.py                       # all: about 30 minutes on two CPU cores
    python benchmarks/train.py speed                 # tokens a second and MFU at three sizes, against a plain Trainer
    python benchmarks/train.py quality --minutes 3   # bits per byte at equal wall clock, against GPT-2 with AdamW
    python benchmarks/train.py scaling               # two processes against one, and peak memory

Timed alone on the machine. Every line is printed as soon as it is known. Peers: benchmarks/peers.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
import yaml
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from model_utils.shapes import count_parameters, flops_per_token, model_config
from train_utils.plan.machine import keep_freed_memory, measure_peak, synchronize
from train_utils.steps.fast_model import make_fast
from train_utils.steps.optimizer import muon_adamw, scale_rates

# Width, vocabulary, and micro-batches of our step: 4, 31 and 124 M parameters. Muon's cost is of the step, not of its
# tokens (at 124 M that of 2,500), so ours has the batch that `choose_batch` of train_utils.plan.rule gives a run of the
# size that has 200 of these steps or more (at 124 M that of two hours); the plain ones, whose AdamW costs next to
# nothing, have one micro-batch.
SIZES = ((256, 2048, 1), (512, 4096, 2), (768, 20480, 4))
ROW_TOKENS, BATCH_ROWS = 512, 8
GPT2_RATES = ("1e-3", "2e-3", "4e-3")
# GPT-2's shape at the width of the default model, and rates of AdamW around what is good at that size.
GPT2 = {
    "model_type": "gpt2", "n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024, "attn_pdrop": 0.0,
    "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip


class StepTimes(TrainerCallback):
    """Keeps the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Start the watch."""
        synchronize(args.device.type)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stop it."""
        synchronize(args.device.type)
        self.seconds.append(time.perf_counter() - self.start)


def measure_speed(width: int, vocab_size: int, accumulation: int, kind: str, steps: int) -> float:
    """Train on random tokens through Trainer; return the tokens a second of the median step.

    Args:
        kind: "fp32" or "bf16" (Trainer as it comes: eager, AdamW), or "ours" (compiled, no logits, Muon).
    """
    torch.manual_seed(0)
    accumulation = accumulation if kind == "ours" else 1
    step_tokens = ROW_TOKENS * BATCH_ROWS * accumulation
    config = AutoConfig.for_model(**model_config(width), vocab_size=vocab_size, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    bf16 = kind == "bf16" or (
        kind == "ours" and measure_peak(device_name(), "bf16") > measure_peak(device_name(), "fp32")
    )
    factory = None
    if kind == "ours":
        keep_freed_memory(device_name())
        make_fast(model, BATCH_ROWS)
        rates = scale_rates(width, step_tokens)
        factory = (
            lambda: muon_adamw,
            {"rates": rates, "weight_decay": 0.0, "betas": (0.8, 0.95), "epsilon": 1e-10, "bf16": bf16},
        )
    rows = torch.randint(vocab_size, (step_tokens // ROW_TOKENS * steps, ROW_TOKENS)).tolist()
    data = Dataset.from_dict({"input_ids": rows, "labels": rows}).with_format("torch")
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH_ROWS,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            bf16=bf16,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=device_name() == "cpu",
        )
        Trainer(model, args, train_dataset=data, callbacks=[times], optimizer_cls_and_kwargs=factory).train()
    return step_tokens / median(times.seconds[1:] or times.seconds)


def device_name() -> str:
    """Return the kind of device that Trainer uses."""
    return torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"


def report_speed(steps: int) -> None:
    """Print tokens a second, MFU and ratios at three sizes."""
    peaks = {name: measure_peak(device_name(), name) for name in ("bf16", "fp32")}
    print(f"matrix products: bf16 {peaks['bf16'] / 1e9:,.0f}, fp32 {peaks['fp32'] / 1e9:,.0f} GFLOP/s")
    print("| parameters | fp32 Trainer | bf16 Trainer | ours | against fp32 | against bf16 | share of the bf16 peak |")
    print("| --- " * 7 + "|")
    for width, vocab_size, accumulation in SIZES:
        config = AutoConfig.for_model(**model_config(width), vocab_size=vocab_size)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        # Each in a process of its own, so that none has the allocator or the warm memory of the one before.
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            plain, half, ours = (
                pool.submit(measure_speed, width, vocab_size, accumulation, kind, steps).result()
                for kind in ("fp32", "bf16", "ours")
            )
        mfu = ours * flops_per_token(model, ROW_TOKENS) / peaks["bf16"]
        size = f"{count_parameters(model) / 1e6:.0f} M"
        print(
            f"| {size} | {plain:,.0f} | {half:,.0f} | {ours:,.0f} | {ours / plain:.2f} | {ours / half:.2f} "
            f"| {mfu:.0%} |"
        )


def run_script(arguments: list[str], folder: Path, launcher: tuple[str, ...] = ()) -> dict:
    """Run train.py as a user would, and return its record."""
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *arguments, "--output_dir", str(folder)]
    start = time.time()
    done = subprocess.run([*command, "--report_to", "none"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    record = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
    return {**record, "wall_seconds": time.time() - start}


def report_quality(minutes: float, corpus: list[str]) -> None:
    """Print held-out bits per byte of ours and of GPT-2 with AdamW at three rates, each by the same clock and text."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "gpt2.json").write_text(json.dumps(GPT2), encoding="utf-8")
        common = ["--minutes", str(minutes), *(["--corpus", *corpus] if corpus else [])]
        plain = ["--model_shape", str(folder / "gpt2.json"), "--vocab_size", "8192", "--head_start", "false",
                 "--optim", "adamw", "--decay_share", "1", "--adam_beta2", "0.95"]  # fmt: skip
        runs = {f"GPT-2, AdamW {rate}": [*plain, "--learning_rate", rate] for rate in GPT2_RATES}
        for title, options in {"ours": [], **runs}.items():
            record = run_script([*common, *options], folder / title.replace(" ", ""))
            bits = {k[5:-14]: v for k, v in record["metrics"].items() if k.endswith("bits_per_byte")}
            print(
                f"{title}: bits per byte {bits}, {record['steps']} steps, {record['wall_seconds']:.0f} s of "
                f"{60 * minutes:.0f}, {record['speed']}"
            )


def report_scaling() -> None:
    """Print tokens a second and peak memory of two processes against one."""
    common = ["--max_steps", "30", "--eval_steps", "1000", "--save_steps", "1000", "--torch_compile", "false"]
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    with tempfile.TemporaryDirectory() as name:
        records = [
            run_script([*common, "--per_device_train_batch_size", rows], Path(name) / rows, launcher)
            for rows, launcher in (("16", ()), ("8", two))
        ]
    one, both = (record["speed"] for record in records)
    print(f"one process {one}, two {both}: {both['tokens_per_second'] / one['tokens_per_second']:.2f} times as fast")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["speed", "quality", "scaling"])
    parser.add_argument("--minutes", type=float, default=3, help="wall clock of each run of `quality`")
    parser.add_argument("--steps", type=int, default=3, help="steps of each run of `speed`")
    parser.add_argument("--corpus", nargs="*", default=[], help="text of `quality`; else the default corpus")
    options = parser.parse_args()
    names = ("torch", "transformers", "accelerate")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
          f"Python {platform.python_version()}, {', '.join(f'{n} {version(n)}' for n in names)}")  # fmt: skip
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        {"speed": lambda: report_speed(options.steps), "scaling": report_scaling,
         "quality": lambda: report_quality(options.minutes, options.corpus)}[part]()  # fmt: skip


if __name__ == "__main__":
    main()
