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
from eval_utils.figures import Figure
from eval_utils.items import Choice, Continuation
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

    def score(self, groups: list[list[Scored]], finds_greedy: bool = False) -> tuple[list[list[float]], list[bool]]:
        """Return the nats of each text of each group, and whether all of a group were the model's likeliest."""
        flat = [text for group in groups for text in group]
        with self.open_bar(len(flat)) as bar:
            found = self.scorer.score(flat, bar.update, finds_greedy=finds_greedy)
        nats, greedy = iter(found.nats.tolist()), iter(found.is_greedy.tolist())
        all_greedy = [min([next(greedy) for _ in group], default=True) for group in groups]
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
    token) stand for no text and don't count either.
    """
    scored, kept = [], []
    for row in dialogues:
        try:
            parts, _ = fit_messages(reader.tokenizer, row["messages"], reader.window)
        except DialogueError:  # a template that has no place for the dialogue's system turn
            continue
        ids, places = [], []
        for part, origin in parts:
            if origin == "assistant":
                places += range(max(1, len(ids)), len(ids) + len(part))
            ids += part
        if places:
            scored.append([Scored(tuple(ids), places)])
            said = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            turns = sum(origin == "assistant" for _, origin in parts)
            kept.append((row["language"], float(sum(len(text.encode()) for text in said[-turns:]))))
    nats, _ = reader.score(scored)
    rows = [(language, "", found[0] / LN2, size) for (language, size), found in zip(kept, nats, strict=True)]
    return group_languages("dialogues", "held-out replies", rows, unit="bits/byte")


def measure_pairs(reader: Reader, pairs: list[Pair], name: str = "minimal pairs") -> list[Figure]:
    """Return the share of pairs whose acceptable sentence is the likelier, for each language; a tie is half right."""
    texts = [[encode_scored(reader.tokenizer, "", text, reader.window) for text in (p.good, p.bad)] for p in pairs]
    nats, _ = reader.score(texts)
    right = [(good < bad) + (good == bad) / 2 for good, bad in nats]
    rows = [(pair.language, pair.phenomenon, share, 1.0) for pair, share in zip(pairs, right, strict=True)]
    return group_languages("pairs", name, rows)


def measure_choices(reader: Reader, choices: list[Choice]) -> list[Figure]:
    """Return the share of questions whose right answer costs the fewest bits a byte."""
    texts = [[encode_scored(reader.tokenizer, c.query, text, reader.window) for text in c.choices] for c in choices]
    nats, _ = reader.score(texts)
    rows = []
    for choice, found in zip(choices, nats, strict=True):
        costs = [cost / len(text.encode()) for cost, text in zip(found, choice.choices, strict=True)]
        rows.append(("", choice.group, float(costs.index(min(costs)) == choice.gold), 1.0))
    return group_languages("choices", "choices", rows)


def measure_continuations(reader: Reader, items: list[Continuation]) -> list[Figure]:
    """Return the share of texts that the model, always taking the likeliest token, goes on with word for word."""
    texts = [[encode_scored(reader.tokenizer, item.context, item.continuation, reader.window)] for item in items]
    _, greedy = reader.score(texts, finds_greedy=True)
    rows = [("", item.group, float(found), 1.0) for item, found in zip(items, greedy, strict=True)]
    return group_languages("continuations", "continuations", rows)


def group_languages(part: str, name: str, rows: list[tuple[str, str, float, float]], unit: str = "%") -> list[Figure]:
    """Return a figure for each language of rows (language, group, value, weight)."""
    kind: dict[str, Any] = {"part": part, "unit": unit, "lower_is_better": unit == "bits/byte"}
    figures = []
    for language in sorted({row[0] for row in rows}):
        groups, values, weights = map(list, zip(*(row[1:] for row in rows if row[0] == language), strict=True))
        groups = groups if any(groups) else []
        figures.append(Figure(f"{name}, {language}" if language else name, values, weights, groups, **kind))
    return figures
