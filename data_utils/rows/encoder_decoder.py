"""Packs pairs of a source and a target to rows for an encoder and a decoder: both sides full, no pair sees another."""

from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from datasets import Dataset, Features
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import as_exchange, is_learned
from data_utils.dialogue.format import IGNORE_LABEL, encode_dialogue
from data_utils.dialogue.window import fit_messages
from data_utils.rows.packing import IDS, encode_each

SourceTarget = tuple[np.ndarray, np.ndarray]
ROW_FEATURES = Features(
    dict.fromkeys(("input_ids", "labels", "decoder_input_ids", "source_parts", "target_parts"), IDS)
)
POOL = 300  # pairs that a row is filled from
CHOSEN = 0.3  # of a side: while more is free, pairs come as they come, so that rows of one proportion aren't left over
SIDE_STEP = 8  # tokens; the sides of a row are multiples, as a processor's registers are
USUAL = 0.999  # of all targets fit the usual rows; for one that is longer than those, all would be padded


def join_sides(pairs: list[SourceTarget], start_id: int) -> dict[str, np.ndarray]:
    """Join pairs to one row: S tokens of sources, T of targets, and from 1 on the number of the pair of each.

    The decoder is given each target after `start_id`, without its last token: `decoder_input_ids`. What follows each of
    them is its label; `labels` (T + 1) begin with one that is ignored, since everywhere here a label is of the token
    before.
    """
    sources, targets = zip(*pairs, strict=True)
    row = {"input_ids": np.concatenate(sources), "labels": np.concatenate([[IGNORE_LABEL], *targets])}
    row["decoder_input_ids"] = np.concatenate([np.append(start_id, target)[:-1] for target in targets])
    for name, parts in (("source_parts", sources), ("target_parts", targets)):
        row[name] = np.repeat(np.arange(1, len(parts) + 1), [len(part) for part in parts])
    return {name: values.astype(np.int32) for name, values in row.items()}


def collate_halves(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack rows to tensors (B, S) and (B, T), `labels` (B, T + 1), each padded as part 0 to the longest of them."""
    padding = dict.fromkeys(rows[0], 0) | {"labels": IGNORE_LABEL}
    columns = {name: [torch.tensor(row[name]) for row in rows] for name in rows[0]}
    return {name: pad_sequence(column, True, padding[name]).long() for name, column in columns.items()}


def encode_replies(tokenizer: PreTrainedTokenizerBase, messages: list[dict], max_tokens: int) -> Iterator[dict]:
    """Yield a pair for each reply that is learned: `input_ids`, what chat asks the model then, and `labels`, the reply.

    The oldest turns drop where both would be longer than `max_tokens`; of a reply that then does not fit there is no
    pair.
    """
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or not is_learned(message):
            continue
        # Whatever was asked: a reply's labels are its own.
        labels = encode_dialogue(tokenizer, as_exchange("a", message["content"]))["labels"]
        target = [label for label in labels if label != IGNORE_LABEL]
        parts, _ = fit_messages(tokenizer, messages[:place], max_tokens - len(target), add_generation_prompt=True)
        if parts:
            yield {"input_ids": [token for ids, _ in parts for token in ids], "labels": target}


def encode_halves(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str, max_tokens: int
) -> Dataset:
    """Encode dialogues to pairs of at most `max_tokens`, as `encode_replies` does."""
    key = cache_key("encode_halves", dialogues._fingerprint, tokenizer_key, max_tokens)
    encode = partial(encode_replies, tokenizer, max_tokens=max_tokens)
    return encode_each(dialogues, tokenizer, encode, key)


def choose_sides(lengths: np.ndarray, row_tokens: int) -> tuple[int, int]:
    """Return (S, T), of `row_tokens` together, or more, in the proportion of all sources and targets.

    The longest source fits, and all but a thousandth of the targets.

    Args:
        lengths: (pairs, 2) tokens of each source and target, at most `row_tokens` together.

    >>> choose_sides(np.array([[30, 10], [30, 20]]), 128)
    (88, 40)
    """
    source, target = lengths[:, 0].max(), np.quantile(lengths[:, 1], USUAL, method="higher")
    share = lengths[:, 1].sum() / lengths.sum()
    side = round(row_tokens * share / SIDE_STEP) * SIDE_STEP
    longest = max(row_tokens - side, source)
    side = max(side, target, source * share / (1 - share) // SIDE_STEP * SIDE_STEP)
    return int(longest), int(side)


def assign_pairs(lengths: np.ndarray, sides: tuple[int, int]) -> list[list[int]]:
    """Assign pairs to rows of (S, T) tokens; return the pairs' numbers for each row.

    Pairs are taken by chance until a side is nearly full, then of POOL of them the one that leaves least of both sides.

    >>> assign_pairs(np.array([[6, 1], [2, 5], [4, 5]]), (10, 8))
    [[2, 0], [1]]
    """
    shares = lengths / np.array(sides)
    order = np.random.default_rng(0).permutation(len(shares))
    pool, waiting = order[:POOL], deque(order[POOL:])
    rows = []
    while len(pool):
        rows.append([])
        free = np.ones(2)
        while True:
            left = free - shares[pool]
            waste = (left**2).sum(1) if free.min() <= CHOSEN else np.arange(len(pool), dtype=float)
            waste[(left < -1e-9).any(1)] = np.inf
            if np.isinf(best := waste.min(initial=np.inf)):
                break
            place = int(np.flatnonzero(waste == best)[0])
            rows[-1].append(int(pool[place]))
            free = left[place]
            pool = np.delete(pool, place)
            if waiting:
                pool = np.append(pool, waiting.popleft())
    return rows


def pack_halves(encoded: Dataset, start_id: int, row_tokens: int, together: bool = True) -> Dataset:
    """Return a cached Dataset of rows from encoded pairs: several `together`, or one each for a model that mixes them.

    All rows are as long as `choose_sides` says, the few with longer targets as these, or each as its one pair.
    """

    def rows() -> Iterator[dict]:
        pairs = [(np.array(row["input_ids"]), np.array(row["labels"])) for row in encoded]
        lengths = np.array([[len(source), len(target)] for source, target in pairs])
        if not together:
            yield from (join_sides([pair], start_id) for pair in pairs)
            return
        sides = choose_sides(lengths, row_tokens)
        is_long = lengths[:, 1] > sides[1]
        for chosen, longest in ((~is_long, sides[1]), (is_long, lengths[:, 1].max())):
            numbers, wide = np.flatnonzero(chosen), (sides[0], int(longest))
            for items in assign_pairs(lengths[chosen], wide):
                yield pad_row(join_sides([pairs[number] for number in numbers[items]], start_id), wide)

    key = cache_key("pack_halves", encoded._fingerprint, start_id, row_tokens, together)
    return generate_rows(rows, ROW_FEATURES, key, "packing dialogues")


def pad_row(row: dict[str, np.ndarray], sides: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return a row whose sides are S and T tokens, with padding as part 0."""
    longest = dict.fromkeys(row, sides[1]) | dict.fromkeys(("input_ids", "source_parts"), sides[0])
    longest["labels"] += 1
    return {
        name: np.pad(values, (0, longest[name] - len(values)), constant_values=IGNORE_LABEL if name == "labels" else 0)
        for name, values in row.items()
    }
