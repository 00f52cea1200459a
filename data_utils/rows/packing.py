"""Packs token ids into rows of equal length: nothing is padded in vain, nothing is lost."""

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import IGNORE_LABEL, set_weights
from data_utils.dialogue.window import fit_dialogue
from errors import InputError
from model_utils.text_encoder import encode_texts

IDS = List(Value("int32"))


class Rows(Protocol):
    """Rows that are taken by their numbers: a Dataset, a Mixture, or what is made when it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Any: ...


class VariedRows(torch.utils.data.Dataset):
    """Rows of text (T ids) that are others in each epoch, determined by epoch and number of the row.

    `kind` keeps what is drawn apart from what another kind draws for the same row.
    """

    kind = 0

    def __init__(self, blocks) -> None:
        self.blocks = blocks.with_format("numpy") if isinstance(blocks, Dataset) else blocks
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; the training tells it."""
        self.epoch = epoch
        if hasattr(self.blocks, "set_epoch"):
            self.blocks.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.kind, self.epoch, int(index)))
        return self.vary_row(self.blocks[int(index)]["input_ids"], rng)

    def vary_row(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a row of a text's ids (T)."""
        raise NotImplementedError


ENCODED = Features(dict.fromkeys(("input_ids", "labels"), IDS))
PACKED_FEATURES = Features(dict.fromkeys(("input_ids", "labels", "position_ids"), IDS))
BATCH_ROWS = 1000


def tokenize_documents(documents: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str) -> Dataset:
    """Encode each document to `input_ids` that end in the end token, on all cores (the tokenizer's own threads).

    `tokenizer_key` names the tokenizer in the cache.
    """

    def encode() -> Iterator[pa.Table]:
        for batch in documents.select_columns(["text"]).iter(BATCH_ROWS):
            ids = encode_texts(tokenizer, batch["text"])
            yield make_id_table(np.frombuffer(b"".join(ids), dtype=np.int32), np.cumsum([0, *map(len, ids)]))

    key = cache_key("tokenize_documents", documents._fingerprint, tokenizer_key)
    return generate_rows(encode, Features({"input_ids": IDS}), key, "tokenizing")


def make_id_table(ids: np.ndarray, offsets: np.ndarray) -> pa.Table:
    """Return rows of `input_ids`, each from one offset in the joined ids to the next."""
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets.astype(np.int32), ids)})


def pack_documents(tokenized: Dataset, block_tokens: int) -> Dataset:
    """Join tokenized documents and cut them into blocks, `input_ids` of T tokens; the last partial one is dropped."""

    def cut() -> Iterator[pa.Table]:
        tail = np.empty(0, np.int32)
        for table in tokenized.with_format("arrow").iter(BATCH_ROWS):
            joined = np.concatenate([tail, *(chunk.flatten().to_numpy() for chunk in table["input_ids"].chunks)])
            whole = len(joined) // block_tokens * block_tokens
            tail = joined[whole:]
            yield make_id_table(joined[:whole], np.arange(0, whole + 1, block_tokens))

    key = cache_key("pack_documents", tokenized._fingerprint, block_tokens)
    return generate_rows(cut, Features({"input_ids": IDS}), key, "packing")


def encode_dialogues(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str, max_tokens: int
) -> Dataset:
    """Encode dialogues to `input_ids` and `labels` of at most `max_tokens`; one that cannot fit is dropped."""

    def encode(messages: list[dict]) -> list[dict]:
        encoded = fit_dialogue(tokenizer, messages, max_tokens)
        return [encoded] if encoded else []

    key = cache_key("encode_dialogues", dialogues._fingerprint, tokenizer_key, max_tokens)
    return encode_each(dialogues, tokenizer, encode, key)


def encode_each(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, encode: Callable[[list[dict]], Iterable[dict]], key: str
) -> Dataset:
    """Return the rows of `input_ids` and `labels` that `encode` makes of each dialogue's messages; kept under a key.

    Raises InputError, which names the tokenizer's place, where a dialogue can't be encoded.
    """

    @lru_cache(8192)  # a source of few dialogues may be repeated a hundred times
    def encode_one(dialogue: str) -> list[dict]:
        return list(encode(set_weights(*json.loads(dialogue))))

    def encode_all() -> Iterator[dict]:
        for dialogue in dialogues:
            try:
                yield from encode_one(json.dumps([dialogue["messages"], dialogue["unlearned"]]))
            except DialogueError as error:
                raise InputError(f"{tokenizer.name_or_path}: {error}") from error

    return generate_rows(encode_all, ENCODED, key, "encoding dialogues")


def assign_rows(lengths: list[int], row_tokens: int) -> list[list[int]]:
    """Assign items to rows of T tokens by best-fit decreasing; return the items' numbers for each row.

    The longest goes first, each into the fullest row that still takes it.

    >>> assign_rows([3, 5, 2, 1], 6)
    [[1, 3], [0, 2]]
    """
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(space, (lengths[item], -1))
        free, row = space.pop(place) if place < len(space) else (row_tokens, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(item)
        insort(space, (free - lengths[item], row))
    return rows


def pack_row(dialogues: list[dict], row_tokens: int, pad_token_id: int) -> dict[str, np.ndarray]:
    """Join encoded dialogues to one row of T tokens: `input_ids`, `labels`, `position_ids`.

    Positions restart at each dialogue, by which the model's attention keeps them apart when no attention mask is given;
    what is left over is filled with the pad token, as a dialogue of its own without labels.
    """
    filler = row_tokens - sum(len(dialogue["input_ids"]) for dialogue in dialogues)
    # A dialogue's first token has nothing before it to be predicted from.
    labels = [[IGNORE_LABEL, *dialogue["labels"][1:]] for dialogue in dialogues]
    return {
        "input_ids": np.concatenate([*(d["input_ids"] for d in dialogues), np.full(filler, pad_token_id)]).astype("i4"),
        "labels": np.concatenate([*labels, np.full(filler, IGNORE_LABEL)]).astype("i4"),
        "position_ids": np.concatenate(
            [*(np.arange(len(d["input_ids"])) for d in dialogues), np.arange(filler)]
        ).astype("i4"),
    }


def pack_dialogues(encoded: Dataset, row_tokens: int, pad_token_id: int) -> Dataset:
    """Return a cached Dataset of rows of T tokens from encoded dialogues; none sees another."""

    def rows() -> Iterator[dict]:
        lengths = [len(ids) for ids in encoded["input_ids"]]
        for items in assign_rows(lengths, row_tokens):
            yield pack_row([encoded[item] for item in items], row_tokens, pad_token_id)

    key = cache_key("pack_dialogues", encoded._fingerprint, row_tokens, pad_token_id)
    return generate_rows(rows, PACKED_FEATURES, key, "packing dialogues")


def collate_rows(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack B rows to `input_ids`, `labels`, `position_ids` (B, T); with a mask, positions would not part dialogues.

    Of text, which has `input_ids` alone, these are the labels too, since the model shifts them itself.
    """
    batch = {name: torch.from_numpy(np.stack([row[name] for row in rows])).long() for name in rows[0]}
    return {"labels": batch["input_ids"], **batch}


def thin_rows(rows: Dataset, count: int) -> Dataset:
    """Return at most `count` rows, at least one where there is any, taken evenly from all.

    >>> thin_rows(Dataset.from_dict({"n": list(range(10))}), 3)["n"][:]
    [0, 3, 6]
    """
    count = min(max(1, count), len(rows))
    return rows.select([number * len(rows) // count for number in range(count)])
