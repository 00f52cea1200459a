"""Measures what CPUs can't show: training and chat on one GPU, against a plain Trainer, in ten minutes.

python -m benchmarks.gpu                     # all, in this order, as far as --seconds allow
python -m benchmarks.gpu --parts plain fsdp  # some
python -m benchmarks.gpu --parts plain adamw fsdp --shapes configs/models/qwen3-5m.json --vocab_size 600 \
    --rows 2 --passes 1 --row_tokens 128 --steps 3     # on a CPU, to see that it runs: two minutes

Each line is a process of its own: train.py as a user runs it, its speed from run.yaml (without the first step, which
compiles), or the stock Trainer on random tokens. All take steps of rows x passes x row_tokens tokens, in bf16 where the
device has it. Losses of train.py's lines must agree but for rounding. Never run on a GPU yet: none was lent.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ["configs/models/qwen3-120m.json", "configs/models/gpt2-medium.json"]  # 124 and 337 M with this vocabulary
ONE_PROCESS = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
# What each part adds to train.py; compiled unless it says otherwise, since a run this short would not by itself.
PARTS = {
    "compiled": ["--torch_compile", "true"],
    "eager": ["--torch_compile", "false"],
    "adamw": ["--torch_compile", "false", "--optim", "adamw"],  # fused
    "fsdp": ["--torch_compile", "false", "--fsdp", "true"],  # on one device
    "checkpointing": ["--torch_compile", "false", "--activation_checkpointing", "true"],
    "liger": ["--use_liger_kernel", "true"],
}
LEAST_SECONDS = 45  # nothing is begun with less


def train_words(part: str, shape: str, options: argparse.Namespace) -> list[str]:
    """Return the words of train.py for a part."""
    return [
        "--model_shape", shape, "--vocab_size", str(options.vocab_size), "--block_tokens", str(options.row_tokens),
        "--per_device_train_batch_size", str(options.rows), "--gradient_accumulation_steps", str(options.passes),
        "--max_steps", str(options.steps), "--eval_strategy", "no", "--save_strategy", "no", "--head_start", "false",
        "--warmup_steps", "1", "--logging_steps", "1", "--report_to", "none", *PARTS[part],
    ]  # fmt: skip


def run_train(part: str, shape: str, options: argparse.Namespace, seconds: float) -> str:
    """Run train.py; return its cells of the table."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ONE_PROCESS if part == "fsdp" else []
        words = [*launcher, str(ROOT / "train.py"), *train_words(part, shape, options), "--output_dir", folder + "/out"]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=seconds)
        if done.returncode:
            return f"failed: {' '.join((done.stdout + done.stderr).split())[-400:]}" + " |" * 4
        record = yaml.safe_load((Path(folder) / "out" / "run.yaml").read_text(encoding="utf-8"))
    speed = record["speed"]
    memory = speed.get("peak_gpu_memory_bytes", speed["peak_memory_bytes"])
    cells = f"{speed['tokens_per_second']:,} | {speed['mfu']:.0%} | {memory / 1e9:.1f} | {record['training_loss']:.3f}"
    return cells + f" | {speed['seconds']:.0f}"


def run_plain(attention: str, shape: str, options: argparse.Namespace, seconds: float) -> str:
    """Run the stock Trainer in a process of its own; return its cells of the table."""
    given = {name: getattr(options, name) for name in ("vocab_size", "row_tokens", "rows", "passes", "steps")}
    words = ["-m", "benchmarks.gpu", "--plain", json.dumps(given | {"shape": shape, "attention": attention})]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds
    )
    last = done.stdout.strip().splitlines()[-1:]
    return last[0] if done.returncode == 0 else f"failed: {' '.join(done.stderr.split())[-400:]}" + " |" * 4


def measure_plain(given: dict) -> str:
    """Train a shape on random tokens by Trainer as it comes: eager, bf16, fused AdamW; return cells of the table."""
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

    from benchmarks.train import StepTimes, device_name
    from model_utils.shapes import flops_per_token
    from train_utils.arguments import has_fast_bf16
    from train_utils.plan.machine import measure_peak

    settings, device = json.loads((ROOT / given["shape"]).read_text(encoding="utf-8")), device_name()
    config = AutoConfig.for_model(**settings, vocab_size=given["vocab_size"], pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=given["attention"])
    count = given["rows"] * given["passes"] * given["steps"]
    rows = torch.randint(given["vocab_size"], (count, given["row_tokens"])).tolist()
    data, times = Dataset.from_dict({"input_ids": rows, "labels": rows}).with_format("torch"), StepTimes()
    bf16, began = has_fast_bf16(device == "cpu"), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=given["rows"],
            gradient_accumulation_steps=given["passes"],
            max_steps=given["steps"],
            bf16=bf16,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=device == "cpu",
        )
        Trainer(model, args, train_dataset=data, callbacks=[times]).train()
    tokens, seconds = count * given["row_tokens"] // given["steps"], times.seconds[1:]
    rate = tokens * len(seconds) / sum(seconds)
    peak = measure_peak(device, "bf16" if bf16 else "fp32")
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device == "cuda" else ""
    share = rate * flops_per_token(model, given["row_tokens"]) / peak
    return f"{rate:,.0f} | {share:.0%} | {memory} | | {time.monotonic() - began:.0f}"


def run_part(part: str, shape: str, options: argparse.Namespace, seconds: float) -> str:
    """Run a part for so many seconds at most; return its cells of the table, or why it has none."""
    lacking = {"liger": "liger_kernel", "plain, flash": "flash_attn"}.get(part)
    if seconds < LEAST_SECONDS:
        return "left out: no time" + " |" * 4
    if lacking and not (find_spec(lacking) and torch.cuda.is_available()):
        return f"left out: no {lacking}, or no GPU" + " |" * 4
    try:
        if part.startswith("plain"):
            return run_plain("flash_attention_2" if part == "plain, flash" else "sdpa", shape, options, seconds)
        return run_train(part, shape, options, seconds)
    except subprocess.TimeoutExpired:
        return "ended: no time" + " |" * 4


def measure(options: argparse.Namespace) -> None:
    """Print the table, a line as soon as it is known."""
    end = time.monotonic() + options.seconds
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    step_tokens = options.rows * options.passes * options.row_tokens
    print(f"{device}, torch {torch.__version__}; {step_tokens:,} tokens a step\n")
    print("| shape | part | tokens a second | of the peak | GB | loss | seconds |\n" + "| --- " * 7 + "|")
    for shape in options.shapes:
        for part in options.parts:
            if part != "chat":
                cells = run_part(part, shape, options, end - time.monotonic())
                print(f"| {Path(shape).stem} | {part} | {cells} |", flush=True)
    left = end - time.monotonic()
    if "chat" in options.parts and left > LEAST_SECONDS:
        words = ["-m", "benchmarks.decode", "qwen3-120m", "--engines", "transformers", "batched", "--rounds", "2"]
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, *words], cwd=ROOT, check=False, timeout=left)


def main() -> int:
    """Measure what is asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["plain", "plain, flash", *PARTS, "chat"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--seconds", type=float, default=560)
    for name, default in (("vocab_size", 20480), ("rows", 16), ("passes", 4), ("row_tokens", 1024), ("steps", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--plain", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        print(measure_plain(options.plain))
    else:
        measure(options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
