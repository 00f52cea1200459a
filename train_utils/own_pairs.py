"""Makes preferences from the model itself: it answers training prompts several times, and the worst is rejected.

What is worse is told without a judge, by what a scorecard sees: no end, another language, loops, off the topic, a wrong
name; among replies with as many faults, by how little they have in common with the true reply.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.pairs import PAIR_FEATURES
from data_utils.dialogue.window import encode_prompt
from data_utils.sources.corpus import split_languages
from data_utils.text.cleaning import clean_text
from data_utils.text.languages import detect_language
from eval_utils.asking import continue_together
from eval_utils.scorecard import MAX_TOKENS, Answer, is_loop
from eval_utils.topic import is_on_topic, list_units
from model_utils.shapes import evaluating
from model_utils.tokenizer import decode_text

BATCH_PROMPTS = 32


@dataclass(frozen=True)
class Asked:
    """A prompt that the model is asked: messages and ids, the reply that its dialogue has, the assistant's name."""

    messages: list[dict]
    ids: list[int]
    truth: str
    language: str
    name: str | None = None

    @property
    def question(self) -> str:
        """The user's last message."""
        return self.messages[-1]["content"]


def pick_prompts(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, *, count: int, window: int, seed: int, name: str | None
) -> list[Asked]:
    """Return prompts of dialogues, `count` in all, the same number of each language where there are as many.

    Each dialogue is asked up to one of its user's turns, drawn by seed.
    """
    found: list[Asked] = []
    parts = list(split_languages(dialogues))
    draw = Random(seed)
    for language, rows in parts:
        for row in rows.shuffle(seed=seed).select(range(min(len(rows), -(-count // len(parts))))):
            replies = [i for i, message in enumerate(row["messages"]) if message["role"] == "assistant"]
            *messages, reply = row["messages"][: draw.choice(replies) + 1]
            try:
                ids, _ = encode_prompt(tokenizer, messages, window, MAX_TOKENS)
            except DialogueError:  # no reply has room beside it
                continue
            found.append(Asked(messages, ids, reply["content"], language, name))
    return found


def sample_replies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    *,
    count: int,
    seed: int,
    temperature: float = 0.8,
) -> list[list[Answer]]:
    """Return `count` replies to each prompt of ids, drawn by chance; the same for a seed, whatever was drawn before."""
    # All that is drawn by, since what is left out would be the checkpoint's own.
    drawn: dict = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    drawn |= {"seed": seed, "count": count, "max_new_tokens": MAX_TOKENS}
    replies: list[list[Answer]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with evaluating(model):
        for start in range(0, len(order), BATCH_PROMPTS):
            chosen = order[start : start + BATCH_PROMPTS]
            found = continue_together(model, [prompts[i] for i in chosen], [stop_token_id(tokenizer)], **drawn)
            for number, (ids, has_stopped) in enumerate(found):
                text = clean_text(decode_text(tokenizer, ids))
                replies[chosen[number // count]].append(Answer(text, has_stopped, len(ids), ids=tuple(ids)))
    return replies


def find_reply_faults(asked: Asked, answer: Answer) -> list[str]:
    """Return what is wrong with a reply, as far as it can be seen without a judge."""
    if not answer.text:
        return ["empty", "off topic"]
    checks = {
        "unstopped": not answer.has_stopped,
        "wrong language": detect_language(answer.text) != detect_language(asked.truth),
        "loop": is_loop(answer.text),
        "off topic": not is_on_topic(asked.question, answer.text),
        "wrong name": bool(asked.name) and asked.name in asked.truth and asked.name not in answer.text,
    }
    return [name for name, found in checks.items() if found]


def likeness(one: str, other: str) -> float:
    """Return how much two texts have in common, from 0 to 1: F1 of their units.

    >>> likeness("I like tea", "I like rice"), likeness("茶", "水")
    (0.6666666666666666, 0.0)
    """
    units, others = set(list_units(one)), set(list_units(other))
    return 2 * len(units & others) / max(1, len(units) + len(others))


def choose_pair(asked: Asked, answers: list[Answer]) -> tuple[str, str, list[str]] | None:
    """Return (chosen, rejected, faults of the rejected) of a prompt; None where no reply is clearly worse.

    Chosen is the best sample, and the dialogue's own reply only where each sample has a fault: what a model says itself
    is nearer to what it can learn.
    """
    faults = {answer: find_reply_faults(asked, answer) for answer in answers if answer.text}
    if not faults:
        return None
    ranked = sorted(faults, key=lambda answer: (len(faults[answer]), -likeness(answer.text, asked.truth)))
    chosen = asked.truth if faults[ranked[0]] else ranked[0].text
    if not faults[ranked[-1]] or ranked[-1].text == chosen:
        return None
    return chosen, ranked[-1].text, faults[ranked[-1]]


def make_own_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Asked],
    *,
    key: str,
    samples: int,
    seed: int,
) -> Dataset:
    """Return the preferences that a model makes of prompts; made once for each `key`, which tells the model's weights.

    A prompt whose replies don't differ gives none. `source` names the faults of the rejected reply.
    """

    def rows() -> Iterator[dict]:
        replies = sample_replies(model, tokenizer, [asked.ids for asked in prompts], count=samples, seed=seed)
        for number, (asked, answers) in enumerate(zip(prompts, replies, strict=True), 1):
            pair = choose_pair(asked, answers)
            if pair:
                chosen, rejected, faults = pair
                place = {"source": ", ".join(faults), "place": str(number), "language": asked.language}
                yield {"prompt": asked.messages, "chosen": chosen, "rejected": rejected, **place}

    asked_of = cache_key(*(f"{asked.ids} {asked.truth} {asked.name}" for asked in prompts))
    return generate_rows(rows, PAIR_FEATURES, cache_key("own pairs", key, asked_of, samples, seed))
