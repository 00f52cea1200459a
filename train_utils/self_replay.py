"""Replies of the base itself among the dialogues of a fine-tuning, against forgetting: written once, kept in the cache.

What it answers to questions of general knowledge is learned on beside what is new, and some of it is held out, so that
each evaluation shows what was forgotten. Source: Shenfeld et al. 2025 (what a model would say itself moves it least).
"""

import contextlib
import re
from collections.abc import Iterable, Iterator

import xxhash
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError, as_exchange
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.reading import DIALOGUE_FEATURES
from data_utils.dialogue.window import encode_prompt
from data_utils.sources.builtin import DIALOGUE_SOURCES
from data_utils.sources.corpus import repeat_rows
from errors import InputError
from eval_utils.asking import continue_together
from eval_utils.likelihood import window_of
from model_utils.checkpoint import load_tokenizer
from model_utils.tokenizer import decode_text, tokenizer_fingerprint
from train_utils.run import Run
from train_utils.run_folder import weights_version

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
    tokenizer, seed = load_tokenizer(base), run.args.seed
    if tokenizer.chat_template is None:
        raise InputError(f"--replay_replies {count}: {base} has no chat template, so it has no replies to keep")

    def ask() -> Iterator[dict]:
        questions = list_questions(count)
        for start in range(0, len(questions), BATCH):
            for pair in write_replies(model, tokenizer, questions[start : start + BATCH], seed):
                yield {"messages": as_exchange(*pair), "unlearned": [], "language": "base", "source": "replies"}

    key = cache_key("replies", weights_version(base), tokenizer_fingerprint(tokenizer), count, seed)
    rows = generate_rows(ask, DIALOGUE_FEATURES, key, "asking the base")
    if len(rows) < 2:
        raise InputError(f"--replay_replies {count}: {base} ended {len(rows)} of its replies, of which 2 are needed")
    held_out = rows.select(range(0, len(rows), HELD_OUT))
    run.say(f"replay: {len(rows)} whole replies of the base to {count} questions, {len(held_out)} held out")
    learned = rows.select([number for number in range(len(rows)) if number % HELD_OUT])
    return repeat_rows(learned, count_repeats(learned, beside)), held_out


def count_repeats(replies: Iterable[dict], beside: Iterable[dict]) -> int:
    """Return how often dialogues are repeated to be SHARE of the bytes of all, with those `beside` them."""
    return max(1, round(SHARE / (1 - SHARE) * dialogue_bytes(beside) / max(1, dialogue_bytes(replies))))


def dialogue_bytes(dialogues: Iterable[dict]) -> int:
    """Return the bytes of all messages of dialogues.

    >>> dialogue_bytes([{"messages": [{"role": "user", "content": "Hi 你"}]}])
    6
    """
    return sum(len(message["content"].encode()) for row in dialogues for message in row["messages"])


def write_replies(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: list[str], seed: int
) -> list[tuple[str, str]]:
    """Return (question, reply) for those questions that a model answers within REPLY_TOKENS and its window."""
    window, prompts = window_of(model), {}
    for text in questions:
        with contextlib.suppress(DialogueError):  # a window of few tokens has no room for question and reply
            prompts[text], _ = encode_prompt(tokenizer, as_exchange(text, "")[:1], window, REPLY_TOKENS)
    if not prompts:
        return []
    drawn: dict = {"seed": seed, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_new_tokens": REPLY_TOKENS}
    found = continue_together(model.eval(), list(prompts.values()), [stop_token_id(tokenizer)], **drawn)
    replies = [decode_text(tokenizer, ids).strip() if has_stopped else "" for ids, has_stopped in found]
    return [pair for pair in zip(prompts, replies, strict=True) if pair[1]]
