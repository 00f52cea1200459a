"""What a reader sees of a chat model, on 40 held-out prompts: does it stop, in the asker's language, without looping?

    python -m tests.scorecard ckpt_chat/            # the figures; add --replies to read what it said

The prompts (tests/prompts.jsonl) stand in no training data, which a test checks. Each is asked with three seeds.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import yaml
from transformers.utils import logging

from chat_utils.engine import Engine, load_engine
from chat_utils.sampling import Sampling
from data_utils.text.languages import detect_language
from errors import run_script
from train_utils.report import is_loop

PROMPTS = Path(__file__).parent / "prompts.jsonl"
SEEDS = (1, 2, 3)
MAX_TOKENS = 80
NAME_QUESTIONS = ("你叫什么名字？", "What is your name?")
GREETINGS = {"你好": ("你好", "您好", "嗨", "哈喽", "好呀", "好啊"), "Hello": ("hello", "hi", "hey")}


def ask(engine: Engine, prompt: str, seed: int) -> tuple[str, bool]:
    """Return the reply to one prompt and whether it ended by the stop token."""
    dialogue = [{"role": "user", "content": prompt}]
    reply = engine.reply(dialogue, Sampling(max_new_tokens=MAX_TOKENS, seed=seed))
    return "".join(reply).strip(), reply.finish_reason == "stop"


def score(engine: Engine, assistant_name: str, show: bool = False) -> dict[str, float]:
    """Return the shares (0 to 1) of the scorecard."""
    rows = []
    for line in PROMPTS.read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        for seed in SEEDS:
            reply, stopped = ask(engine, asked["prompt"], seed)
            rows.append((stopped, detect_language(reply) == asked["language"], is_loop(reply)))
            if show and seed == SEEDS[0]:
                print(f"{asked['prompt']}\n    {reply}")
    names = [assistant_name in ask(engine, question, seed)[0] for question in NAME_QUESTIONS for seed in SEEDS]
    greetings = [
        any(word in ask(engine, greeting, seed)[0].lower() for word in words)
        for greeting, words in GREETINGS.items()
        for seed in SEEDS
    ]
    shares = {
        f"ended by the stop token within {MAX_TOKENS} tokens": [row[0] for row in rows],
        "in the asker's language": [row[1] for row in rows],
        "looped (a 4-gram three times)": [row[2] for row in rows],
        "gave its name when asked": names,
        "returned a greeting": greetings,
    }
    return {name: sum(values) / len(values) for name, values in shares.items()}


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="ckpt_chat", help="folder of a checkpoint (ckpt_chat)")
    parser.add_argument("--replies", action="store_true", help="print a reply to each prompt too")
    options = parser.parse_args(argv)
    logging.disable_progress_bar()
    engine = load_engine(options.model)
    record = Path(options.model) / "run.yaml"
    settings = yaml.safe_load(record.read_text(encoding="utf-8"))["settings"] if record.exists() else {}
    for name, share in score(engine, settings.get("assistant_name", "Momo"), options.replies).items():
        print(f"{share:7.1%}  {name}")
    return 0


if __name__ == "__main__":
    run_script(main)
