"""The parts of an evaluation: which items each takes, and the figures that it returns."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from transformers import PreTrainedModel

from eval_utils.asking import ask_model
from eval_utils.decoding_speed import measure_speed
from eval_utils.figures import Figure
from eval_utils.held_out import REPLY_BYTES, TEXT_BYTES, read_held_out, reply_bytes, take_first, text_bytes
from eval_utils.items import Choice, Continuation
from eval_utils.likelihood_figures import (
    Reader,
    measure_choices,
    measure_continuations,
    measure_pairs,
    measure_replies,
    measure_text,
)
from eval_utils.minimal_pairs import PAIRS, Pair, make_both
from eval_utils.scorecard import Ask, measure_scorecard

Item = TypeVar("Item", Pair, Choice, Continuation)
FULL_PARAMETERS = 20e6  # a model with more is measured on fewer of the built-in items, in proportion
LEAST_SHARE = 0.05


@dataclass
class Subject:
    """A model that is measured: what reads texts under it, what asks it one thing alone, its name if it is known."""

    reader: Reader
    ask_alone: Ask
    assistant_name: str | None = None

    @property
    def share(self) -> float:
        """The share of the built-in items that it is measured on."""
        return choose_share(self.reader.scorer.model)


def choose_share(model: PreTrainedModel) -> float:
    """Return the share of the built-in items that a model is measured on, by its size."""
    return max(LEAST_SHARE, min(1.0, FULL_PARAMETERS / sum(weight.numel() for weight in model.parameters())))


def limit_groups(items: list[Item], limit: int | None) -> list[Item]:
    """Return the first items of each phenomenon or file, in their order."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        group = item.phenomenon if isinstance(item, Pair) else item.group
        seen[group] += 1
        if limit is None or seen[group] <= limit:
            found.append(item)
    return found


def measure_documents(subject: Subject, rows: list[dict], limit: int | None) -> list[Figure]:
    """Return the bits per byte of held-out text: the user's, or the built-in."""
    found = rows or take_first(read_held_out()["documents"], text_bytes, TEXT_BYTES, subject.share)
    return measure_text(subject.reader, take_first(found, lambda _: 1, limit or math.inf))


def measure_dialogues(subject: Subject, rows: list[dict], limit: int | None) -> list[Figure]:
    """Return the bits per byte of held-out replies: the user's, or the built-in."""
    found = rows or take_first(read_held_out()["dialogues"], reply_bytes, REPLY_BYTES, subject.share)
    return measure_replies(subject.reader, take_first(found, lambda _: 1, limit or math.inf))


def measure_all_pairs(subject: Subject, given: list[Pair], limit: int | None) -> list[Figure]:
    """Return the shares of our own minimal pairs, and of those of files."""
    count = min(PAIRS, limit or max(1, round(PAIRS * subject.share)))
    figures = measure_pairs(subject.reader, make_both(count))
    return figures + (measure_pairs(subject.reader, limit_groups(given, limit), "pairs of files") if given else [])


def measure_replies_seen(subject: Subject, _: list, limit: int | None) -> list[Figure]:
    """Return the scorecard of what a reader sees, with three seeds; one for a large model."""
    reader = subject.reader
    seeds = (1, 2, 3) if subject.share == 1 else (1,)
    ask = partial(ask_model, reader.scorer.model, reader.tokenizer, open_bar=reader.open_bar)
    return measure_scorecard(ask, subject.assistant_name, limit, seeds)


# What each part makes of a subject, the user's own items and a limit: items at most of each language, phenomenon, kind
# or file.
PARTS: dict[str, Callable[[Subject, list, int | None], list[Figure]]] = {
    "text": measure_documents,
    "dialogues": measure_dialogues,
    "pairs": measure_all_pairs,
    "choices": lambda subject, items, limit: measure_choices(subject.reader, limit_groups(items, limit)),
    "continuations": lambda subject, items, limit: measure_continuations(subject.reader, limit_groups(items, limit)),
    "replies": measure_replies_seen,
    "speed": lambda subject, *_: measure_speed(subject.ask_alone, subject.reader.scorer.model),
}
