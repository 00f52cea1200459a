"""Tells what dialogues became: how many are trained on, how full their rows are, and an example to look at."""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from data_utils.dialogue.format import IGNORE_LABEL, encode_dialogue, set_weights
from errors import InputError

MIN_TRAINED_SHARE = 0.005  # below it, a run learns nothing and its user should know why


def describe_dialogues(
    train_set: Dataset, held_out: Dataset, encoded: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """Yield the lines that say what is trained on; raise InputError where nearly nothing would be learned.

    Args:
        train_set, held_out: all that were read. encoded: those of the first that fit a row.
        rows: of T tokens each.
    """
    yield (
        f"dialogues: {len(train_set) + len(held_out):,} read, {len(held_out):,} held out, "
        f"{len(train_set) - len(encoded):,} dropped as longer than a row, {len(encoded):,} trained on"
    )
    positions, batches = len(rows) * len(rows[0]["input_ids"]), rows.with_format("numpy").iter(batch_size=1000)
    trained = sum(int((np.asarray(batch["labels"]) != IGNORE_LABEL).sum()) for batch in batches)
    if trained < MIN_TRAINED_SHARE * max(positions, 1):
        raise InputError(
            f"only {trained} of {positions} tokens would be trained: the dialogues hold next to no assistant's words"
        )
    tokens = sum(len(ids) for ids in encoded["input_ids"])
    yield f"rows: {len(rows):,}, filled to {tokens / positions:.1%}; {trained / tokens:.1%} of the tokens are trained"
    example = encode_dialogue(tokenizer, set_weights(train_set[0]["messages"], train_set[0]["unlearned"]))
    yield "an example, what is trained in guillemets:"
    yield mark_trained(tokenizer, example)


def describe_replies(
    train_set: Dataset, held_out: Dataset, encoded: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """Yield the same of dialogues that became pairs of a source and a reply."""
    replies = sum(message["role"] == "assistant" for row in train_set for message in row["messages"])
    replies -= sum(len(row["unlearned"] or []) for row in train_set)
    yield (
        f"dialogues: {len(train_set) + len(held_out):,} read, {len(held_out):,} held out; {replies:,} replies to "
        f"learn, {replies - len(encoded):,} dropped as longer than a row, {len(encoded):,} trained on"
    )
    source, target = (sum(map(len, encoded[name])) for name in ("input_ids", "labels"))
    places = sum(map(len, rows["input_ids"])) + sum(map(len, rows["decoder_input_ids"]))
    sides = f"{len(rows[0]['input_ids'])} tokens of sources and {len(rows[0]['decoder_input_ids'])} of replies"
    yield (
        f"rows: {len(rows):,} of {sides}, filled to {(source + target) / places:.1%}; "
        f"{target / (source + target):.1%} of the tokens are trained"
    )
    yield f"an example, what is read: {tokenizer.decode(encoded[0]['input_ids'])!r}"
    yield f"and what is written: {tokenizer.decode(encoded[0]['labels'])!r}"


def mark_trained(tokenizer: PreTrainedTokenizerBase, encoded: dict[str, list[int]]) -> str:
    """Return the text of an encoded dialogue with what is trained between guillemets."""
    tokens = zip(encoded["input_ids"], encoded["labels"], strict=True)
    runs = [(trained, [token for token, _ in run]) for trained, run in groupby(tokens, lambda t: t[1] != IGNORE_LABEL)]
    return "".join(f"«{tokenizer.decode(run)}»" if trained else str(tokenizer.decode(run)) for trained, run in runs)
