"""Token ids in, rows out: nothing lost, nothing twice, no row over its length."""

from itertools import chain, pairwise

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from data_utils.dialogue.format import IGNORE_LABEL, encode_dialogue
from data_utils.dialogue.reading import DIALOGUE_FEATURES, read_dialogues
from data_utils.rows.packing import (
    assign_rows,
    encode_dialogues,
    pack_dialogues,
    pack_documents,
    pack_row,
    tokenize_documents,
)
from data_utils.sources.source import open_sources

IDS = st.integers(0, 2**31 - 1)
INT32 = List(Value("int32"))


def make_documents(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts, "source": ["test"] * len(texts)})


def make_dialogues(*contents: list[str]) -> Dataset:
    roles = ("user", "assistant")
    rows = [
        {
            "messages": [{"role": roles[i % 2], "content": content} for i, content in enumerate(turns)],
            "unlearned": [],
            "language": "en",
            "source": "test",
        }
        for turns in contents
    ]
    return Dataset.from_list(rows, features=DIALOGUE_FEATURES)


# Documents


def test_documents_become_ids_that_end_in_the_end_token(tokenizer):
    texts = ["Tea is warm.", "我喜欢喝茶。", "<|endoftext|> and <|im_start|> are letters here", "a"]
    tokenized = tokenize_documents(make_documents(texts), tokenizer, "key")
    assert tokenized.column_names == ["input_ids"]
    for ids, text in zip(tokenized["input_ids"], texts, strict=True):
        assert ids[-1] == tokenizer.eos_token_id
        assert not set(ids[:-1]) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(ids[:-1]) == text


@given(st.lists(st.lists(IDS, max_size=20), min_size=1, max_size=20), st.integers(1, 12))
def test_blocks_joined_are_the_documents_joined(documents, block_tokens):
    blocks = pack_documents(Dataset.from_dict({"input_ids": documents}, Features({"input_ids": INT32})), block_tokens)
    joined = list(chain.from_iterable(documents))
    assert all(len(block) == block_tokens for block in blocks["input_ids"])
    assert list(chain.from_iterable(blocks["input_ids"])) == joined[: len(blocks) * block_tokens]
    assert 0 <= len(joined) - len(blocks) * block_tokens < block_tokens


@pytest.mark.parametrize("lengths", ["ragged", "equal"])
def test_nothing_is_lost_between_the_batches_of_a_dataset(lengths):
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 60, 2345) if lengths == "ragged" else np.full(2345, 7)
    documents = [generator.integers(0, 50_000, size).tolist() for size in sizes]
    joined = np.concatenate(documents)
    blocks = pack_documents(Dataset.from_dict({"input_ids": documents}), 64)
    assert len(blocks) == len(joined) // 64
    assert np.array_equal(np.concatenate(blocks["input_ids"]), joined[: len(blocks) * 64])


def test_text_shorter_than_a_block_gives_none():
    assert len(pack_documents(Dataset.from_dict({"input_ids": [[1, 2], [3]]}), 4)) == 0


# Rows of dialogues


@given(st.integers(1, 60).flatmap(lambda row: st.tuples(st.just(row), st.lists(st.integers(1, row), max_size=80))))
def test_each_item_is_in_one_row_and_no_row_overflows(case):
    row_tokens, lengths = case
    rows = assign_rows(lengths, row_tokens)
    assert sorted(chain.from_iterable(rows)) == list(range(len(lengths)))
    sums = [sum(lengths[item] for item in row) for row in rows]
    assert max(sums, default=0) <= row_tokens
    # No two rows would fit into one.
    assert sum(sorted(sums)[:2]) > row_tokens or len(rows) <= 1


def test_pack_row():
    dialogues = [
        {"input_ids": [5, 6, 7], "labels": [5, -100, 7]},
        {"input_ids": [8, 9], "labels": [8, 9]},
    ]
    row = {name: values.tolist() for name, values in pack_row(dialogues, 8, pad_token_id=0).items()}
    assert row == {
        "input_ids": [5, 6, 7, 8, 9, 0, 0, 0],
        "labels": [-100, -100, 7, -100, 9, -100, -100, -100],
        "position_ids": [0, 1, 2, 0, 1, 0, 1, 2],
    }
    assert dialogues[1]["labels"] == [8, 9]


def test_full_row_has_no_filler():
    row = pack_row([{"input_ids": [5, 6], "labels": [5, 6]}], 2, pad_token_id=0)
    assert row["input_ids"].tolist() == [5, 6]
    assert {values.dtype for values in row.values()} == {np.dtype("int32")}


def test_dialogues_that_cannot_fit_are_dropped_and_the_others_kept_whole(tokenizer):
    dialogues = make_dialogues(["hi", "hello"], ["tea " * 60, "no"], ["茶？", "好。"], ["why", "words " * 60])
    encoded = encode_dialogues(dialogues, tokenizer, "key", 32)
    assert encoded.to_list() == [encode_dialogue(tokenizer, dialogues[i]["messages"]) for i in (0, 2)]
    assert max(map(len, encoded["input_ids"])) <= 32


def test_when_no_dialogue_fits_there_are_no_rows(tokenizer):
    encoded = encode_dialogues(make_dialogues(["tea " * 60, "no"], ["a " * 60, "b"]), tokenizer, "key", 32)
    assert len(encoded) == 0
    assert len(pack_dialogues(encoded, 32, 0)) == 0


def test_long_dialogue_is_encoded_without_its_oldest_turns(tokenizer):
    turns = [f"turn {i} about tea" for i in range(20)]
    [row] = encode_dialogues(make_dialogues(turns), tokenizer, "key", 80).to_list()
    text = tokenizer.decode(row["input_ids"])
    kept = [turn for turn in turns if turn in text]
    assert kept == turns[-len(kept) :]
    assert len(kept) % 2 == 0
    assert 2 <= len(kept) < 20


@pytest.fixture(scope="module")
def own_rows(tokenizer):
    """The project's own dialogues, encoded and packed as fine-tuning does it by default."""
    encoded = encode_dialogues(read_dialogues(open_sources(["own"])), tokenizer, "key", 512)
    return encoded, pack_dialogues(encoded, 512, tokenizer.pad_token_id)


@pytest.mark.slow
def test_own_dialogues_fill_their_rows(own_rows):
    encoded, rows = own_rows
    tokens = sum(map(len, encoded["input_ids"]))
    assert len(encoded) > 3000
    assert {len(ids) for ids in rows["input_ids"]} == {512}
    assert tokens / (512 * len(rows)) >= 0.95


@pytest.mark.slow
def test_packed_rows_hold_each_dialogue_once_with_its_labels(own_rows, tokenizer):
    encoded, rows = own_rows
    found = []
    for row in rows.with_format("numpy"):
        starts = [*np.flatnonzero(row["position_ids"] == 0), 512]
        for start, end in pairwise(starts):
            assert np.array_equal(row["position_ids"][start:end], np.arange(end - start))
            if (row["input_ids"][start:end] != tokenizer.pad_token_id).any():
                found.append((tuple(row["input_ids"][start:end]), tuple(row["labels"][start:end])))
            else:
                assert (row["labels"][start:end] == IGNORE_LABEL).all()
    expected = [(tuple(row["input_ids"]), (IGNORE_LABEL, *row["labels"][1:])) for row in encoded]
    assert sorted(found) == sorted(expected)
