"""Token ids in, rows of equal length out: nothing is padded in vain, nothing is lost."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from data_utils.caching import cache_key, generate_rows
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.format import IGNORE_LABEL, set_weights
from data_utils.dialogue.window import fit_dialogue
from data_utils.text.splitting import share_of
from errors import InputError
from model_utils.text_encoder import encode_texts

IDS = List(Value("int32"))


def tokenize_documents(documents: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str) -> Dataset:
    """Encode each document to `input_ids` that end in the end token, on all cores (the tokenizer's own threads).

    `tokenizer_key` names the tokenizer in the cache.
    """

    def encode(table: pa.Table) -> pa.Table:
        ids = encode_texts(tokenizer, table["text"].to_pylist())
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
        values = np.frombuffer(b"".join(ids), dtype=np.int32)
        return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, values)})

    key = cache_key("tokenize_documents", documents._fingerprint, tokenizer_key)
    return map_ids(documents, encode, key, "tokenizing")


def map_ids(rows: Dataset, function: Callable[[pa.Table], pa.Table], key: str, desc: str) -> Dataset:
    """Return the `input_ids` that a function makes of batches of rows, as Arrow tables; cached by `key`."""
    made = rows.with_format("arrow").map(
        function,
        batched=True,
        remove_columns=rows.column_names,
        features=Features({"input_ids": IDS}),
        new_fingerprint=key,
        desc=desc,
    )
    return made.with_format(None)


def pack_tokens(documents: Iterable[Iterable[int]], block_tokens: int) -> Iterator[np.ndarray]:
    """Join documents and cut them into blocks of T tokens; the tail is carried over, the last partial block is dropped.

    >>> [block.tolist() for block in pack_tokens([[1, 2, 3], [4, 5]], 2)]
    [[1, 2], [3, 4]]
    """
    parts: list[np.ndarray] = []
    held = 0
    for document in documents:
        parts.append(np.asarray(document, dtype=np.int32))
        held += len(parts[-1])
        if held >= block_tokens:
            joined = np.concatenate(parts)
            whole = held // block_tokens * block_tokens
            yield from joined[:whole].reshape(-1, block_tokens)
            parts, held = [joined[whole:]], held - whole


def pack_documents(tokenized: Dataset, block_tokens: int) -> Dataset:
    """Return a cached Dataset of blocks, `input_ids` of T tokens each, from tokenized documents."""
    tail = np.empty(0, np.int32)

    def cut(table: pa.Table) -> pa.Table:
        nonlocal tail
        values = [chunk.flatten().to_numpy() for chunk in table["input_ids"].chunks]
        joined = np.concatenate([tail, *values])
        whole = len(joined) // block_tokens * block_tokens
        tail = joined[whole:].copy()
        offsets = np.arange(0, whole + 1, block_tokens, dtype=np.int32)
        return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, joined[:whole])})

    key = cache_key("pack_documents", tokenized._fingerprint, block_tokens)
    return map_ids(tokenized, cut, key, "packing")


def stream_blocks(
    documents: IterableDataset, tokenizer: PreTrainedTokenizerBase, block_tokens: int, eval_fraction: float
) -> IterableDataset:
    """Return blocks of T tokens from a stream of documents, those left out that belong to the held-out part."""

    def blocks() -> Iterator[dict]:
        kept = (row["text"] for row in documents if share_of(row) >= eval_fraction)
        batches = iter(lambda: list(islice(kept, 64)), [])
        for block in pack_tokens((ids for texts in batches for ids in encode_texts(tokenizer, texts)), block_tokens):
            yield {"input_ids": block}

    return IterableDataset.from_generator(blocks, Features({"input_ids": IDS}))


def encode_dialogues(
    dialogues: Dataset, tokenizer: PreTrainedTokenizerBase, tokenizer_key: str, max_tokens: int
) -> Dataset:
    """Encode dialogues to `input_ids` and `labels` of at most `max_tokens`; one that cannot fit is dropped."""

    def encode(batch: dict) -> dict:
        try:
            encoded = [
                fit_dialogue(tokenizer, set_weights(messages, unlearned), max_tokens)
                for messages, unlearned in zip(batch["messages"], batch["unlearned"], strict=True)
            ]
        except DialogueError as error:
            raise InputError(f"{tokenizer.name_or_path}: {error}") from error
        kept = [row for row in encoded if row is not None]
        return {name: [row[name] for row in kept] for name in ("input_ids", "labels")}

    return dialogues.map(
        encode,
        batched=True,
        remove_columns=dialogues.column_names,
        features=Features({"input_ids": IDS, "labels": IDS}),
        new_fingerprint=cache_key("encode_dialogues", dialogues._fingerprint, tokenizer_key, max_tokens),
        desc="encoding dialogues",
    )


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
    features = Features(dict.fromkeys(("input_ids", "labels", "position_ids"), IDS))
    return generate_rows(rows, features, key)


def collate_blocks(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack B rows to `input_ids` (B, T); the labels are the same, since the model shifts them itself."""
    input_ids = torch.from_numpy(np.stack([row["input_ids"] for row in rows])).long()
    return {"input_ids": input_ids, "labels": input_ids}


def collate_rows(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Stack B rows to `input_ids`, `labels`, `position_ids` (B, T); with a mask, positions would not part dialogues."""
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])).long() for name in rows[0]}


def thin_rows(rows: Dataset, count: int) -> Dataset:
    """Return at most `count` rows, at least one where there is any, taken evenly from all.

    >>> thin_rows(Dataset.from_dict({"n": list(range(10))}), 3)["n"][:]
    [0, 3, 6]
    """
    count = min(max(1, count), len(rows))
    return rows.select([number * len(rows) // count for number in range(count)])
