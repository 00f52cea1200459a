"""Judges replies as a reader does: they stop, in the asker's language, without loops, and say what they should.

Every question is asked with each of some seeds; how it is asked (an engine, `generate`) is the caller's. Prompts
stand in no training data.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from data_utils.text.languages import detect_language
from eval_utils.figures import Figure
from eval_utils.topic import is_on_topic

QUESTIONS = Path(__file__).parent / "data" / "questions.yaml"
MAX_TOKENS = 80
Dialogue = list[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """A model's reply to a dialogue, whether it ended by the stop token, and its ids, without that one."""

    text: str
    has_stopped: bool
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    ids: tuple[int, ...] = ()


# Answers dialogues, each with its seed, in their order.
Ask = Callable[[list[tuple[Dialogue, int]]], list[Answer]]


@cache
def read_questions() -> dict:
    """Return the questions of the scorecard."""
    return yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))


def as_user(*turns: str) -> Dialogue:
    """Return turns as messages, the user's first, the assistant's second, and so on."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def measure_scorecard(
    ask: Ask, assistant_name: str | None, limit: int | None = None, seeds: Sequence[int] = (1, 2, 3)
) -> list[Figure]:
    """Return the shares of the scorecard; an item is a question, which counts by the share of its seeds.

    Args:
        assistant_name: None where it isn't known; then it isn't asked.
        limit: how many questions of a kind and language are asked at most.
    """
    questions = read_questions()
    groups: dict[str, list[tuple[Dialogue, Callable[[Answer], bool]]]] = {
        language: [(as_user(text), bool) for text in prompts] for language, prompts in questions["prompts"].items()
    }
    if assistant_name:
        groups["gives its name"] = [
            (as_user(text), lambda answer: assistant_name in answer.text) for text in questions["name"]
        ]
    groups["returns a greeting"] = [(as_user(text), says_one(words)) for text, words in questions["greetings"].items()]
    groups["remembers the turn before"] = [
        (as_user(*turns), says_one(words.split("/"))) for *turns, words in questions["memory"]
    ]
    unknown, admits = zip(*questions["unknown"].values(), strict=True), says_one(questions["admits"])
    groups["admits not to know"] = [(as_user(text), admits) for texts in unknown for text in texts]
    groups = {name: items[:limit] for name, items in groups.items()}

    answers = iter(ask([(dialogue, seed) for items in groups.values() for dialogue, _ in items for seed in seeds]))
    figures, seen = [], []
    for name, items in groups.items():
        replies = [[next(answers) for _ in seeds] for _ in items]
        if name in questions["prompts"]:
            seen += [(name, item[0][-1]["content"], found) for item, found in zip(items, replies, strict=True)]
        else:
            values = [share(map(check, found)) for (_, check), found in zip(items, replies, strict=True)]
            figures.append(Figure(name, values, part="replies"))
    return [*judge_prompts(seen), *figures]


def judge_prompts(seen: list[tuple[str, str, list[Answer]]]) -> list[Figure]:
    """Return what is seen in replies to prompts, given as (language, prompt, replies)."""
    checks = {
        f"stops within {MAX_TOKENS} tokens": lambda _, __, answer: answer.has_stopped,
        "in the asker's language": lambda language, _, answer: detect_language(answer.text) == language,
        "without loops": lambda _, __, answer: not is_loop(answer.text),
        "on the topic": lambda language, prompt, answer: is_on_topic(prompt, answer.text),
    }
    return [
        Figure(name, [share(check(lang, text, a) for a in found) for lang, text, found in seen], part="replies")
        for name, check in checks.items()
    ]


def share(checks) -> float:
    """Return the share of checks that hold."""
    found = [bool(check) for check in checks]
    return sum(found) / len(found)


def says_one(words: list[str]) -> Callable[[Answer], bool]:
    """Return a check whether a reply has one of the words, whatever its case; English ones as whole words."""
    patterns = [re.compile(re.escape(w) if detect_language(w) == "zh" else rf"\b{re.escape(w)}\b", re.I) for w in words]
    return lambda answer: any(pattern.search(answer.text) for pattern in patterns)


def is_loop(text: str, times: int = 3) -> bool:
    """Tell whether a 4-gram, of words or of Chinese characters, comes so many times.

    >>> is_loop("very very very very very very good"), is_loop("a calm day by the sea")
    (True, False)
    """
    units = re.findall(r"[\u3400-\u9fff]|[^\W\d_]+|\d", text.lower())
    grams = [tuple(units[i : i + 4]) for i in range(len(units) - 3)]
    return any(count >= times for count in Counter(grams).values())
