"""Compares the weights that short runs of two checkouts leave, bit for bit: a change of form changes no result.

python benchmarks/same_weights.py ../before .     # exit code 1 where a run's weights differ
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPE = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
COMMON = ["--max_steps", "20", "--seed", "7", "--use_cpu", "true", "--bf16", "false", "--torch_compile", "false",
          "--report_to", "none", "--eval_tokens", "1024", "--eval_steps", "10", "--logging_steps", "5"]  # fmt: skip
TRAIN = ["train.py", "--corpus", "texts.txt@2", "hsk@0.5", "--model_shape", "shape.json", "--vocab_size", "1500",
         "--block_tokens", "128", "--per_device_train_batch_size", "4"]  # fmt: skip
TUNE = ["finetune_dialogue.py", "--base", "train", "--dialogues", "dialogues.jsonl@2", "hsk@0.1", "--row_tokens", "256",
        "--per_device_train_batch_size", "4", "--learning_rate", "0.003"]  # fmt: skip
MUON = ["--matrix_learning_rate", "0.008"]  # as before the defaults were lowered
RUNS = {
    "train": TRAIN,
    "train-accumulated": [*TRAIN, "--head_start", "false", "--optim", "adamw", "--gradient_accumulation_steps", "2"],
    "tune": [*TUNE, *MUON],
    "tune-replay": [*TUNE, "--replay", "0.2", "--replay_corpus", "texts.txt@2", "--optim", "adamw"],
    "tune-lora": [*TUNE, *MUON, "--lora", "true"],
}

SINCE = {
    "--repeated": "0",
    "--base_share": "0",
}  # options that came later and change weights: switched off where a checkout has them


def write_data(source: Path, folder: Path) -> None:
    """Write the model's shape and the dialogues of a checkout, as they are and as text: the same for both checkouts."""
    (folder / "shape.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    files = sorted(source.glob("data_utils/chat_data/*.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    (folder / "dialogues.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = ["\n".join(message["content"] for message in json.loads(line)["messages"]) for line in lines]
    (folder / "texts.txt").write_text("\n\n".join(texts), encoding="utf-8")


def run_all(checkout: Path, folder: Path) -> dict[str, str]:
    """Run every run of a checkout in a folder, with a cache of its own; return the hash of each one's weights."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    environment.pop("HF_DATASETS_CACHE", None)
    hashes = {}
    for name, (script, *options) in RUNS.items():
        text = (checkout / script).read_text(encoding="utf-8")
        since = [part for option in SINCE.items() if option[0].strip("-") in text for part in option]
        command = [sys.executable, str(checkout / script), *options, *since, *COMMON, "--output_dir", name]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{checkout}: {name} failed\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
        hashes[name] = hashlib.sha256((folder / name / "model.safetensors").read_bytes()).hexdigest()[:16]
        print(f"{checkout}: {name} {hashes[name]}", file=sys.stderr, flush=True)
    return hashes


def main() -> int:
    """Run and compare; return 1 where weights differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs=2, type=Path, help="two folders of this repository, before and after")
    found, checkouts = [], parser.parse_args().checkouts
    for checkout in checkouts:
        with tempfile.TemporaryDirectory() as folder:
            write_data(checkouts[0], Path(folder))
            found.append(run_all(checkout.resolve(), Path(folder)))
    before, after = found
    for name, value in before.items():
        print(f"{name:<18} {value} {after[name]} {'same' if value == after[name] else 'DIFFERENT'}")
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
