"""Learns from rewards of the model's own replies: it answers prompts in rounds, one to a step.

REINFORCE with the other replies to a prompt as the baseline (RLOO: Kool et al. 2019; Ahmadian et al. 2024, "Back to
basics"): a reply becomes likelier by as much as its reward is above theirs. Beside it the dialogue's own reply is
learned, against forgetting. A round is drawn by the model of the step before, since Trainer's loader is a batch ahead;
it is kept in the run's folder, so that a run that is resumed goes on with the same.
"""

import json
import math
import runpy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import pstdev
from typing import Any

import torch
from torch.utils.data import Dataset as TorchDataset
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from data_utils.dialogue.format import stop_token_id
from data_utils.rows.packing import assign_rows
from data_utils.rows.preferences import collate_pairs, encode_pair, pack_pair_row
from errors import InputError, first_line
from eval_utils.scorecard import Answer
from files import write_whole
from model_utils.text_encoder import encode_text
from train_utils.arguments import RunArguments, change_arguments
from train_utils.own_replies import TEMPERATURE, Asked, sample_replies
from train_utils.places import find_reward
from train_utils.preferences import PreferenceLoss

ROUND_PROMPTS = 64  # that are answered together, and are a step
TOLD_ROUNDS = 10  # of a run, whose mean reward and KL are printed
LEAST_WEIGHT = 1e-9  # of a reply; a sum that rounding left beside zero is less
SHOWN = 5  # prompts of the first round, with the best and the worst reply
Reward = Callable[[str, str], float]
Judge = Callable[[list[Asked], list[list[Answer]]], list[list[float]]]


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


def judge_by(reward: Reward) -> Judge:
    """Return what judges the replies of a round by a function of the user's last message and a reply."""
    return lambda prompts, replies: [
        [reward(asked.question, answer.text) for answer in answers]
        for asked, answers in zip(prompts, replies, strict=True)
    ]


def weigh_replies(rewards: list[list[float]]) -> list[list[float]]:
    """Return how much likelier each reply to each prompt is to become: its reward against the mean of the others'.

    In standard deviations of all rewards, so that their unit doesn't matter.

    >>> weigh_replies([[1, 0], [0, 0]])
    [[2.309..., -2.309...], [0.0, 0.0]]
    """
    unit = pstdev([value for values in rewards for value in values]) or 1.0
    return [
        [(value - (sum(values) - value) / max(1, len(values) - 1)) / unit for value in values] for values in rewards
    ]


@dataclass(eq=False)
class AskedRows(TorchDataset):
    """Prompts, each with what is learned of it: replies that the model gives when its round is due, and the true one.

    An item has `replies`, encoded as those of preferences that were only liked, of each its weight in the loss, and the
    temperature that it was drawn with (`heats`).
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    judge: Judge
    measure_kl: Callable[[], float]  # nats a reply from the base to the model as it is
    prompts: list[Asked]
    samples: int  # replies to each prompt
    truth_weight: float  # of the true reply's loss a token
    seed: int
    folder: Path  # that keeps the replies of each round
    say: Callable[[str], None] = print
    epoch: int = 0
    made: tuple[int, int, list[dict]] = field(default=(-1, -1, []))

    def __post_init__(self) -> None:
        self.stop_id = stop_token_id(self.tokenizer)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def item_tokens(self) -> int:
        """Tokens of an item, about: replies are as long as the true ones."""
        lengths = [
            len(asked.ids) + len(encode_text(self.tokenizer, asked.truth)) for asked in self.prompts[:ROUND_PROMPTS]
        ]
        return (self.samples + 1) * sum(lengths) // len(lengths)

    @property
    def rounds(self) -> int:
        """Rounds of an epoch."""
        return math.ceil(len(self.prompts) / ROUND_PROMPTS)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, in which all prompts are answered anew; the training tells it."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict:
        """Return a prompt's item; the first of a round has the model answer that round's prompts."""
        number = index // ROUND_PROMPTS
        if self.made[:2] != (self.epoch, number):
            self.made = self.epoch, number, self.make_round(self.epoch, number)
        return self.made[2][index % ROUND_PROMPTS]

    def make_round(self, epoch: int, number: int) -> list[dict]:
        """Return the items of a round, of replies that are drawn now, or of those that were kept when it began."""
        prompts = self.prompts[number * ROUND_PROMPTS : (number + 1) * ROUND_PROMPTS]
        order = epoch * self.rounds + number
        path = self.folder / f"round-{order}.json"
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            replies = [[Answer(**answer) for answer in one["replies"]] for one in kept]
            rewards = [one["rewards"] for one in kept]
        else:
            how = {"count": self.samples, "seed": self.seed + order}
            replies = sample_replies(self.model, self.tokenizer, [asked.ids for asked in prompts], **how)
            rewards = self.judge(prompts, replies)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(describe_round(prompts, replies, rewards), ensure_ascii=False))
        self.tell(order, prompts, replies, rewards)
        weights = weigh_replies(rewards)
        return [self.make_item(*parts) for parts in zip(prompts, replies, weights, strict=True)]

    def make_item(self, asked: Asked, answers: list[Answer], weights: list[float]) -> dict:
        """Return what is learned of a prompt; a reply without its end is learned, or unlearned, without one.

        Replies that are alike are learned once, by the sum of their weights, and those without a weight not at all.
        """
        learned: dict[tuple[int, ...], float] = defaultdict(float)
        for answer, weight in zip(answers, weights, strict=True):
            learned[*answer.ids, *[self.stop_id] * answer.has_stopped] += weight / (len(answers) + 1)
        drawn = {ids: weight for ids, weight in learned.items() if abs(weight) > LEAST_WEIGHT}
        pair = {"prompt": asked.messages, "chosen": asked.truth, "rejected": ""}
        truth = (encode_pair(self.tokenizer, pair, 2**31) or {})["chosen"]  # with what the template writes after it
        empty = {"prompt": asked.ids, "rejected": [], "chosen_bytes": 0}
        return {
            "replies": [{**empty, "chosen": [*reply]} for reply in (*drawn, truth)],
            "weights": [*drawn.values(), self.truth_weight / len(truth)],
            "heats": [*[TEMPERATURE] * len(drawn), 1.0],
        }

    def tell(self, order: int, prompts: list[Asked], replies: list[list[Answer]], rewards: list[list[float]]) -> None:
        """Say how a round went, of some rounds of the run, and show replies of the first one."""
        if order % math.ceil(self.rounds / TOLD_ROUNDS) == 0:
            differ = sum(len(set(values)) > 1 for values in rewards)
            mean = sum(map(sum, rewards)) / max(1, sum(map(len, rewards)))
            found = f"mean reward {mean:.3f}, {differ} of {len(prompts)} prompts have replies that differ in it"
            self.say(f"round {order + 1}: {found}, KL of the base to it {self.measure_kl():.2f} nats a reply")
        for asked, answers, values in [*zip(prompts, replies, rewards, strict=True)][: 0 if order else SHOWN]:
            best, worst = (answers[pick(range(len(values)), key=values.__getitem__)].text for pick in (max, min))
            self.say(describe_choice(asked.question, best, worst))


def describe_choice(question: str, better: str, worse: str) -> str:
    """Return lines that show what is preferred to what."""
    asked, one, other = (" ".join(text.split())[:160] for text in (question, better, worse))
    return f"    {asked}\n        + {one}\n        - {other}"


def describe_round(prompts: list[Asked], replies: list[list[Answer]], rewards: list[list[float]]) -> list[dict]:
    """Return what is kept of a round: of each prompt its question, the replies and their rewards."""
    return [
        {"question": asked.question, "replies": [vars(answer) for answer in answers], "rewards": values}
        for asked, answers, values in zip(prompts, replies, rewards, strict=True)
    ]


def collate_asked(items: list[dict], row_tokens: int, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Lay items of AskedRows in as many rows of T tokens as they need; rows that are there, of an evaluation, stay.

    `temperatures` (B, S) are those that the replies were drawn with; a true one, the last of an item, has none.
    """
    if "input_ids" in items[0]:
        return collate_pairs(items)
    parts = [part for item in items for part in zip(item["replies"], item["weights"], item["heats"], strict=True)]
    assigned = assign_rows([len(reply["prompt"]) + len(reply["chosen"]) for reply, _, _ in parts], row_tokens)
    slots, rows = 2 * max(map(len, assigned)), []
    temperatures = torch.ones(len(assigned), slots)
    for number, places in enumerate(assigned):
        replies, weights, heats = zip(*(parts[place] for place in places), strict=True)
        rows.append(pack_pair_row([*replies], row_tokens, slots, pad_token_id))
        rows[-1]["weights"][: len(places)] = weights
        temperatures[number, : 2 * len(places) : 2] = torch.tensor(heats)
    # Trainer divides by the prompts of a step, however many of their replies are learned.
    return {
        **collate_pairs(rows),
        "temperatures": temperatures,
        "shift_labels": torch.ones(len(items), dtype=torch.long),
    }


class RewardLoss:
    """The loss of AskedRows, of what `score_replies` returns: minus each reply's log-probability times its weight."""

    def __call__(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None):
        """Return the loss of a batch: `outputs.logits` (B, S), `labels` (B, S / 2, 6) as `collate_pairs` makes them."""
        scores = outputs.logits.float().view(*labels.shape[:2], 2)[..., 0]
        items = (labels[..., 2] > 0).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        return -(labels[..., 5] * scores).sum() / items

    def measure(self, evaluated: EvalPrediction) -> dict[str, float]:
        """Return the figures of an evaluation, of true replies: nats a token and bits a byte."""
        figures = PreferenceLoss().measure(evaluated)
        return {"loss": figures["chosen_nats"], "bits_per_byte": figures["bits_per_byte"]}


def settle_round(args: RunArguments, *, draws: bool) -> RunArguments:
    """Return arguments whose steps are of a round's prompts, where the model learns from its own replies.

    Unless the user said how many passes are a step. Layers are not compiled: passes have unlike numbers of rows.
    """
    if not draws:
        return args
    passes = ROUND_PROMPTS // (args.per_device_train_batch_size * args.world_size)
    compiled = bool(args.compile_layers) and "torch_compile" in args.given
    settled = args.gradient_accumulation_steps if "gradient_accumulation_steps" in args.given else max(1, passes)
    return change_arguments(args, gradient_accumulation_steps=settled, compile_layers=compiled)
