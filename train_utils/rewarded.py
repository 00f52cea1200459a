"""Learns from a reward that a Python function gives: in each round the model answers, and its best and worst replies
are a pair.

On-policy DPO (Guo et al. 2024, "Direct language model alignment from online AI feedback"): the pairs of a round are
made when its first row is asked for, by the model as it is then, against the base as the reference. They are kept in
the run's folder, so that a run that is resumed goes on with the same ones.
"""

import json
import math
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.format import stop_token_id
from data_utils.dialogue.pairs import hold_pairs
from data_utils.rows.packing import assign_rows
from data_utils.rows.preferences import encode_pair, pack_pair_row
from errors import InputError, first_line
from eval_utils.scorecard import Answer
from files import write_whole
from model_utils.shapes import evaluating
from train_utils.own_pairs import Asked, sample_replies
from train_utils.places import find_reward
from train_utils.preferences import score_rows
from train_utils.reply_report import measure_nats

Reward = Callable[[str, str], float]
PAIR_TOKENS = 16  # two replies of a word each, with their prompts: no pair is shorter


def load_reward(name: str) -> Reward:
    """Return the function that `FILE.py:FUNCTION` names; raise InputError where there is none.

    It takes the user's last message and a reply, and returns a number, the higher the better.
    """
    path, function = find_reward(name)
    try:
        module = runpy.run_path(path)
    except Exception as error:  # the user's own code may raise anything
        raise InputError(f"--reward {path}: cannot be loaded: {first_line(error)}") from error
    found: Any = module.get(function)
    if not callable(found):
        raise InputError(f"--reward {name}: {path} has no function {function}")

    def reward(prompt: str, reply: str) -> float:
        try:
            value = float(found(prompt, reply))
        except Exception as error:
            raise InputError(f"--reward {name}: failed on {reply[:40]!r}: {first_line(error)}") from error
        if not math.isfinite(value):
            raise InputError(f"--reward {name}: returned {value} for {reply[:40]!r}; a number is expected")
        return value

    return reward


def rank_replies(asked: Asked, answers: list[Answer], reward: Reward, number: int) -> tuple[dict | None, list[float]]:
    """Return (the pair of the best and the worst reply, None where they are worth the same; the reward of each)."""
    values = [reward(asked.question, answer.text) for answer in answers]
    best, worst = (pick(range(len(values)), key=values.__getitem__) for pick in (max, min))
    texts = [answers[place].text for place in (best, worst)]
    if values[best] == values[worst] or not all(texts):
        return None, values
    sides = {"prompt": asked.messages, "chosen": texts[0], "rejected": texts[1]}
    return {**sides, "language": asked.language, "source": "reward", "place": str(number)}, values


def rank_prompts(prompts: list[Asked], replies: list[list[Answer]], reward: Reward) -> tuple[Dataset, float]:
    """Return the pairs that replies to prompts give, and the mean reward."""
    ranked = [rank_replies(*both, reward, i) for i, both in enumerate(zip(prompts, replies, strict=True))]
    values = [value for _, found in ranked for value in found]
    return hold_pairs([pair for pair, _ in ranked if pair]), sum(values) / max(1, len(values))


@dataclass(eq=False)
class RewardedRows(TorchDataset):
    """Rows of T tokens of `count` rounds, each of pairs that the model makes of the next prompts when they are due."""

    model: PreTrainedModel
    reference: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward: Reward
    prompts: list[Asked]
    count: int
    samples: int  # replies to each prompt
    row_tokens: int
    seed: int
    folder: Path  # that keeps the pairs of each round
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        size = max(1, len(self.prompts) // self.count)
        self.parts = [self.prompts[i * size : (i + 1) * size] for i in range(self.count)]
        longest = max(len(asked.ids) for asked in self.prompts) + 80
        self.rows_each = max(1, math.ceil(2 * longest * size / self.row_tokens / 2))
        self.made: tuple[int, list[dict]] = (-1, [])

    def __len__(self) -> int:
        return self.rows_each * len(self.parts)

    def __getitem__(self, index: int) -> dict:
        """Return a row; the first of a round has the model answer that round's prompts."""
        number = index // self.rows_each
        if self.made[0] != number:
            self.made = number, self.make_round(number)
        rows = self.made[1]
        return rows[index % self.rows_each % len(rows)]

    def make_round(self, number: int) -> list[dict]:
        """Return the rows of a round, of pairs made now, or of those that were kept when it began."""
        path, name = self.folder / f"round-{number}.json", f"round {number + 1}"
        if path.exists():
            pairs = hold_pairs(json.loads(path.read_text(encoding="utf-8")))
        else:
            prompts, how = self.parts[number], {"count": self.samples, "seed": self.seed + number}
            replies = sample_replies(self.model, self.tokenizer, [asked.ids for asked in prompts], **how)
            pairs, mean = rank_prompts(prompts, replies, self.reward)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(pairs.to_list(), ensure_ascii=False))
            kl = self.measure_kl(prompts, replies)
            found = f"mean reward {mean:.3f}, {len(pairs)} pairs, KL to the base {kl:.2f} nats a reply"
            self.say(f"{name} of {self.count}: {found}")
        rows = pack_fixed(pairs, self.tokenizer, self.row_tokens)
        used = sum(int((row["sizes"][::2] > 0).sum()) for row in rows[: self.rows_each])
        if used < len(pairs):
            self.say(f"{name}: {len(pairs) - used} pairs have no room in its rows; larger --row_tokens")
        self.reference.to(self.model.device)
        references = score_rows(rows := rows[: self.rows_each], self.reference)
        return [{**row, "references": scores} for row, scores in zip(rows, references, strict=True)]

    def measure_kl(self, prompts: list[Asked], replies: list[list[Answer]]) -> float:
        """Return by how many nats the model's replies are likelier under it than under the base: the first to each."""
        stop_id, first = stop_token_id(self.tokenizer), [answers[0] for answers in replies]
        with evaluating(self.model):
            now, before = (measure_nats(model, prompts, first, stop_id) for model in (self.model, self.reference))
        return (sum(before) - sum(now)) / max(1, len(first))


def pack_fixed(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, row_tokens: int) -> list[dict]:
    """Return rows of T tokens with place for as many replies as can be, whatever the pairs; one empty row for none."""
    encoded = [found for pair in pairs if (found := encode_pair(tokenizer, pair, row_tokens))]
    lengths = [2 * len(pair["prompt"]) + len(pair["chosen"]) + len(pair["rejected"]) for pair in encoded]
    slots = 2 * (row_tokens // PAIR_TOKENS)
    assigned = assign_rows(lengths, row_tokens) or [[]]
    return [pack_pair_row([encoded[i] for i in items], row_tokens, slots, tokenizer.pad_token_id) for items in assigned]
