"""Figures by likelihood: bits per byte of text and of replies, and which of several sentences a model prefers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.window import fit_messages
from errors import say_note
from eval_utils.figures import Figure
from eval_utils.items import Choice, Continuation, join_texts
from eval_utils.likelihood import Scored, Scorer, encode_scored, split_windows, window_of
from eval_utils.minimal_pairs import Pair
from model_utils.text_encoder import encode_text
from model_utils.tokenizer import first_token

LN2 = math.log(2)


@dataclass
class Reader:
    """A model that texts are scored under, with its tokenizer; `open_bar` shows how many of how many texts are done."""

    scorer: Scorer
    tokenizer: PreTrainedTokenizerBase
    open_bar: Callable[[int], tqdm] = field(default_factory=lambda: partial(tqdm, disable=True))

    @property
    def window(self) -> int:
        """Tokens that the model sees at once."""
        return window_of(self.scorer.model)

    def encode(self, groups: list[list[tuple[str, str]]]) -> list[list[Scored]]:
        """Return what is scored of each context and text of each group."""
        scored = encode_scored(self.tokenizer, [pair for group in groups for pair in group], self.window)
        if cut := sum(len(text.places) >= self.window for text in scored):
            say_note(
                f"{cut:,} texts fill the model's window of {self.window:,} tokens: what their last are counts alone"
            )
        found = iter(scored)
        return [[next(found) for _ in group] for group in groups]

    def score(self, groups: list[list[Scored]], finds_greedy: bool = False) -> tuple[list[list[float]], list[bool]]:
        """Return the nats of each text of each group, and whether all of a group were the model's likeliest."""
        flat = [text for group in groups for text in group]
        with self.open_bar(len(flat)) as bar:
            found = self.scorer.score(flat, bar.update, finds_greedy=finds_greedy)
        nats, greedy = iter(found.nats.tolist()), iter(found.is_greedy.tolist())
        all_greedy = [all([next(greedy) for _ in group]) for group in groups]  # noqa: C419 -- a list takes each of them
        return [[next(nats) for _ in group] for group in groups], all_greedy


def measure_text(reader: Reader, documents: list[dict]) -> list[Figure]:
    """Return the bits per byte of documents ({"text", "language"}) for each language.

    Bytes are those of the text itself, so that a tokenizer which cuts characters has no advantage and no loss.
    """
    first = first_token(reader.tokenizer)
    windows = [split_windows(encode_text(reader.tokenizer, row["text"]), first, reader.window) for row in documents]
    nats, _ = reader.score(windows)
    rows = [
        (row["language"], "", sum(found) / LN2, float(len(row["text"].encode())))
        for row, found in zip(documents, nats, strict=True)
    ]
    return group_languages("text", "held-out text", rows, unit="bits/byte")


def measure_replies(reader: Reader, dialogues: list[dict]) -> list[Figure]:
    """Return the bits that a byte of the assistant's words costs, given what was said before, for each language.

    Of a dialogue longer than the window the oldest turns drop, and their words don't count. Special tokens (the stop
    token) stand for no text and don't count either. A dialogue of which nothing is scored keeps its place, without
    weight: other models are compared by the same items.
    """
    scored, kept = [], []
    for row in dialogues:
        try:
            parts, _ = fit_messages(reader.tokenizer, row["messages"], reader.window)
        except DialogueError:  # a template that has no place for the dialogue's system turn
            parts = []
        ids, places = [], []
        for part, origin in parts:
            if origin == "assistant":
                places += range(max(1, len(ids)), len(ids) + len(part))
            ids += part
        scored.append([Scored(tuple(ids), places)] if places else [])
        said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        turns = sum(origin == "assistant" for _, origin in parts)
        kept.append((row["language"], float(sum(len(text.encode()) for text in said[-turns:])) if places else 0.0))
    if missing := sum(not texts for texts in scored):
        reason = f"its chat template or window of {reader.window:,} tokens has no room for them"
        say_note(f"left out: {missing:,} of {len(scored):,} dialogues; {reason}")
    nats, _ = reader.score(scored)
    rows = [(language, "", sum(found) / LN2, size) for (language, size), found in zip(kept, nats, strict=True)]
    return group_languages("dialogues", "held-out replies", rows, unit="bits/byte")


def measure_pairs(reader: Reader, pairs: list[Pair], name: str = "minimal pairs") -> list[Figure]:
    """Return the share of pairs whose acceptable sentence is the likelier, for each language; a tie is half right."""
    nats, _ = reader.score(reader.encode([[("", pair.good), ("", pair.bad)] for pair in pairs]))
    right = [(good < bad) + (good == bad) / 2 for good, bad in nats]
    rows = [(pair.language, pair.phenomenon, share, 1.0) for pair, share in zip(pairs, right, strict=True)]
    return group_languages("pairs", name, rows)


def measure_choices(reader: Reader, choices: list[Choice]) -> list[Figure]:
    """Return the share of questions whose right answer costs the fewest bits a byte, as it stands in the file.

    So it is what lm-evaluation-harness calls acc_bytes: a space between question and answer is scored, not counted.
    """
    answers = [[(choice.query, join_texts(choice.query, text)) for text in choice.choices] for choice in choices]
    nats, _ = reader.score(reader.encode(answers))
    rows = []
    for choice, found in zip(choices, nats, strict=True):
        costs = [cost / len(text.encode()) for cost, text in zip(found, choice.choices, strict=True)]
        rows.append(("", choice.group, float(costs.index(min(costs)) == choice.gold), 1.0))
    return group_languages("choices", "choices", rows)


def measure_continuations(reader: Reader, items: list[Continuation]) -> list[Figure]:
    """Return the share of texts that the model, always taking the likeliest token, goes on with word for word."""
    _, greedy = reader.score(reader.encode([[(item.context, item.continuation)] for item in items]), finds_greedy=True)
    rows = [("", item.group, float(found), 1.0) for item, found in zip(items, greedy, strict=True)]
    return group_languages("continuations", "continuations", rows)


def group_languages(part: str, name: str, rows: list[tuple[str, str, float, float]], unit: str = "%") -> list[Figure]:
    """Return a figure for each language of rows (language, group, value, weight)."""
    kind: dict[str, Any] = {"part": part, "unit": unit, "lower_is_better": unit == "bits/byte"}
    figures = []
    for language in sorted({row[0] for row in rows if row[3]}):
        groups, values, weights = map(list, zip(*(row[1:] for row in rows if row[0] == language), strict=True))
        groups = groups if any(groups) else []
        figures.append(Figure(f"{name}, {language}" if language else name, values, weights, groups, **kind))
    return figures
