"""What fine-tuning does to a model: rows filled, replies learned, text forgotten; all weights and LoRA, with replay.

    python benchmarks/tuning.py ckpt                # some ten minutes on two CPU cores for a model of 1.5 M parameters
    python benchmarks/tuning.py ckpt --steps 100    # shorter runs

The base must be a checkpoint of train.py whose corpus is still there: its held-out text tells what was forgotten.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import finetune_dialogue
from data_utils.dialogue.reading import name_assistant, read_dialogues
from data_utils.rows.packing import encode_dialogues, pack_dialogues
from data_utils.sources.source import open_sources
from model_utils.checkpoint import load_tokenizer
from model_utils.tokenizer import tokenizer_fingerprint

SETS = ("own", "chatterbot", "hsk", "chitchat")  # the dialogues that the project ships and installs
ROW_TOKENS = 512
LORA = ["--lora", "true"]


def report_packing(base: str) -> None:
    """Print for each set of dialogues how much of its rows is real tokens."""
    tokenizer = load_tokenizer(base)
    key = tokenizer_fingerprint(tokenizer)
    print("| dialogues | number | rows of 512 | real tokens |\n| --- | --- | --- | --- |")
    for name in SETS:
        encoded = encode_dialogues(
            name_assistant(read_dialogues(open_sources([name])), "Momo"), tokenizer, key, ROW_TOKENS
        )
        rows = pack_dialogues(encoded, ROW_TOKENS, tokenizer.pad_token_id)
        filled = sum(map(len, encoded["input_ids"])) / (len(rows) * ROW_TOKENS)
        print(f"| {name} | {len(encoded):,} | {len(rows):,} | {filled:.1%} |", flush=True)


def tune(base: str, steps: int, options: list[str], folder: Path) -> tuple[dict, dict, float]:
    """Fine-tune as a user would; return (figures before, figures after, seconds)."""
    start = time.time()
    common = ["--base", base, "--max_steps", str(steps), "--report_to", "none"]
    common += ["--eval_steps", "0.999", "--eval_tokens", "32768"]
    code = finetune_dialogue.main([*common, *options, "--output_dir", str(folder)])
    if code:
        raise SystemExit(code)
    after = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))["metrics"]
    state = json.loads((folder / f"checkpoint-{steps}" / "trainer_state.json").read_text(encoding="utf-8"))
    before = {name: value for entry in state["log_history"] if entry["step"] == 0 for name, value in entry.items()}
    return before, after, time.time() - start


def report_forgetting(base: str, steps: int) -> None:
    """Print held-out reply loss and bits per byte of the pretraining text, before and after each run."""
    names = ("eval_en_loss", "eval_zh_loss", "eval_text_en_bits_per_byte", "eval_text_zh_bits_per_byte")
    lines = [
        "| run | reply loss en | zh | bits per byte of the text, en | zh | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for weights, options in (("all weights", []), ("LoRA", LORA)):
            for replay in ("0", "0.2"):
                run = Path(folder) / f"{weights[:3]}{replay}"
                before, after, seconds = tune(base, steps, [*options, "--replay", replay], run)
                if len(lines) == 2:
                    lines.append(f"| before | {' | '.join(f'{before[name]:.3f}' for name in names)} | |")
                share = "no replay (the default)" if replay == "0" else f"--replay {replay}"
                figures = " | ".join(f"{after[name]:.3f}" for name in names)
                lines.append(f"| {weights}, {share} | {figures} | {seconds:.0f} |")
    print("\n".join(lines))


def main() -> None:
    """Print what fine-tuning does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder of a checkpoint of train.py")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each run (400)")
    options = parser.parse_args()
    report_packing(options.base)
    report_forgetting(options.base, options.steps)


if __name__ == "__main__":
    main()
