"""Talk to a checkpoint: in the terminal, by one prompt, or with lines from standard input.

python chat.py                                  # ckpt_chat/ if there is one, else ckpt/
python chat.py --prompt "你叫什么名字？"          # one answer
printf 'Hello\\nTell me more\\n' | python chat.py  # a message a line, one conversation
python chat.py --model ckpt_chat --temperature 0 --stats
"""

import argparse
import os
import sys
from dataclasses import MISSING, fields
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched unless the user says so

from transformers.utils import logging

from chat_utils.engine import Engine, Sampling
from chat_utils.terminal import Conversation, answer, talk
from data_utils.dialogue import DialogueError
from errors import InputError, run_script

SAMPLE_PROMPTS = ("Hello! How are you today?", "What is your name?", "你好！", "你叫什么名字？")


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    """Return the options; those of Sampling are made from its fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: (_ for _ in ()).throw(InputError(f"command line: {message}; see --help"))
    parser.add_argument("--model", help="folder of a checkpoint (ckpt_chat, else ckpt)")
    parser.add_argument("--prompt", help="answer this and leave")
    parser.add_argument("--system", help="system prompt: how the assistant should behave")
    parser.add_argument(
        "--stats", action="store_true", help="after each reply, time to first token and tokens a second"
    )
    parser.add_argument("--samples", action="store_true", help="answer four sample prompts and leave")
    for option in fields(Sampling):
        default = None if option.default is MISSING else option.default
        kind = int if option.name in ("top_k", "max_new_tokens", "seed") else float
        parser.add_argument(
            f"--{option.name}", type=kind, default=default, help=f"{option.metadata['help']} ({default})"
        )
    options = parser.parse_args(argv)
    for name, low, high in (
        ("temperature", 0, 100), ("top_p", 1e-9, 1), ("top_k", 0, 1e9), ("repetition_penalty", 1e-9, 100),
        ("max_new_tokens", 1, 1e9), ("seed", 0, 2**63 - 1),
    ):  # fmt: skip
        if getattr(options, name) is not None and not low <= getattr(options, name) <= high:
            raise InputError(f"command line: --{name} {getattr(options, name)} is outside {low:g} to {high:g}")
    return options


def find_model() -> str:
    """Return the checkpoint to talk to where none is named: the fine-tuned one, else the pretrained one with a note."""
    if any(Path("ckpt_chat").glob("*.safetensors")):
        return "ckpt_chat"
    if any(Path("ckpt").glob("*.safetensors")):
        print("note: ckpt/ is not fine-tuned on dialogues: it continues text rather than answers", file=sys.stderr)
        return "ckpt"
    raise InputError(
        "neither ckpt_chat/ nor ckpt/ holds a model here; run train.py and finetune_dialogue.py, or name --model"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    options = parse_options(argv)
    logging.disable_progress_bar()
    engine = Engine(options.model or find_model())
    sampling = Sampling(**{option.name: getattr(options, option.name) for option in fields(Sampling)})
    conversation = Conversation(engine, sampling, options.system, options.stats)
    if options.prompt is not None:
        if not options.prompt.strip():
            raise InputError("command line: --prompt is empty")
        try:
            conversation.ask(options.prompt)
        except DialogueError as error:
            raise InputError(f"command line: --prompt: {error}") from error
    elif options.samples:
        for prompt in SAMPLE_PROMPTS:
            print(f"> {prompt}")
            Conversation(engine, sampling, options.system, options.stats).ask(prompt)
    elif sys.stdin.isatty():
        talk(conversation)
    else:
        sys.stdin.reconfigure(errors="replace")
        for line in sys.stdin:
            if line.strip():
                answer(conversation, line)
    return 0


if __name__ == "__main__":
    run_script(main)
