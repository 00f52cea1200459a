"""Replies of the base itself among the dialogues of a fine-tuning, against forgetting: written once, kept in the cache.

What it answers to questions of general knowledge is learned on beside what is new, and some of it is held out, so that
each evaluation shows what was forgotten. Source: Shenfeld et al. 2025 (what a model would say itself moves it least).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
import xxhash
from datasets import Dataset
from huggingface_hub.constants import HF_HOME
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.checking import as_exchange
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.reading import DIALOGUE_FEATURES
from data_utils.dialogue.window import encode_prompt
from data_utils.sources.builtin import DIALOGUE_SOURCES
from errors import InputError
from eval_utils.asking import continue_together
from eval_utils.likelihood import window_of
from files import write_whole
from model_utils.checkpoint import load_tokenizer
from model_utils.tokenizer import decode_text
from train_utils.arguments import wait_for_all
from train_utils.checkpoint import weights_version
from train_utils.run import Run

REPLY_TOKENS = 112
BATCH = 32
HELD_OUT = 10  # of so many replies one
SHARE = 0.2  # of all that is learned, which they are repeated to make up
# Who the assistant is will be taught, so the base is not asked.
QUESTION = re.compile(r"(what|who|which|when|where|why|how|explain|define|is|are|can|do|does|in what)\b", re.IGNORECASE)
PERSONAL = re.compile(r"\b(you|your|yours|yourself|u|name)\b", re.IGNORECASE)


def list_questions(count: int) -> list[str]:
    """Return so many different English questions of general knowledge, of the built-in source chatterbot."""
    dialogues = (row for row in DIALOGUE_SOURCES["chatterbot"]() if row["language"] == "en")
    asked = dict.fromkeys(row["messages"][0]["content"] for row in dialogues)
    kept = [text for text in asked if QUESTION.match(text) and not PERSONAL.search(text)]
    return sorted(kept, key=lambda text: xxhash.xxh64(text.encode()).intdigest())[:count]


def replay_replies(run: Run, base: str, model: PreTrainedModel, count: int, beside: Dataset) -> tuple[Dataset, Dataset]:
    """Return dialogues of questions and the base's own replies, of so many questions: (to learn, held out).

    Those to learn are repeated until they are SHARE of all that is learned, with the dialogues `beside` them.
    Raises InputError where the base has no chat template, and so has learned no replies.
    """
    tokenizer = load_tokenizer(base)
    if tokenizer.chat_template is None:
        raise InputError(f"--replay_replies {count}: {base} has no chat template, so it has no replies to keep")
    key = f"{weights_version(base)} {tokenizer.chat_template} {count} {REPLY_TOKENS} {run.args.seed}"
    file = Path(HF_HOME) / "replies" / f"{xxhash.xxh64(key.encode()).hexdigest()}.jsonl"
    if not file.is_file() and run.is_first:
        run.say(f"replay: the base answers {count} questions, once")
        questions = list_questions(count)
        found = []
        for start in range(0, count, BATCH):
            found += write_replies(model, tokenizer, questions[start : start + BATCH], run.args.seed)
        write_whole(file, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found))
    wait_for_all(run.args)
    rows = [
        {"messages": as_exchange(*json.loads(line)), "unlearned": [], "language": "base", "source": "replies"}
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    if len(rows) < 2:
        raise InputError(f"--replay_replies {count}: {base} ended {len(rows)} of its replies, of which 2 are needed")
    run.say(f"replay: {len(rows)} whole replies of the base to {count} questions, {len(rows[::HELD_OUT])} held out")
    kept = repeat_to_share([row for number, row in enumerate(rows) if number % HELD_OUT], beside)
    return Dataset.from_list(kept, DIALOGUE_FEATURES), Dataset.from_list(rows[::HELD_OUT], DIALOGUE_FEATURES)


def repeat_to_share(replies: list[dict], beside: Iterable[dict]) -> list[dict]:
    """Return dialogues repeated until they are SHARE of the bytes of all, with those `beside` them; once at least."""
    return replies * max(1, round(SHARE / (1 - SHARE) * dialogue_bytes(beside) / max(1, dialogue_bytes(replies))))


def dialogue_bytes(dialogues: Iterable[dict]) -> int:
    """Return the bytes of all messages of dialogues.

    >>> dialogue_bytes([{"messages": [{"role": "user", "content": "Hi 你"}]}])
    6
    """
    return sum(len(message["content"].encode()) for row in dialogues for message in row["messages"])


def write_replies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[str], seed: int
) -> list[tuple[str, str]]:
    """Return (question, reply) for those questions that a model answers within REPLY_TOKENS."""
    window = window_of(model)
    prompts = [encode_prompt(tokenizer, as_exchange(text, "")[:1], window, REPLY_TOKENS)[0] for text in questions]
    drawn = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": REPLY_TOKENS}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = continue_together(model.eval(), prompts, [stop_token_id(tokenizer)], **drawn)
    replies = [decode_text(tokenizer, ids).strip() if has_stopped else "" for ids, has_stopped in found]
    return [pair for pair in zip(questions, replies, strict=True) if pair[1]]
