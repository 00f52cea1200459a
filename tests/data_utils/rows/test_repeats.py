"""Passages that stand twice in a row."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from data_utils.rows.repeats import SHORTEST, RepeatedRows, repeat_passage


@given(st.integers(1, 300), st.integers(0, 2**32))
def test_one_later_passage_becomes_an_earlier_one(length, seed):
    ids = np.arange(length, dtype=np.int32)
    found = repeat_passage(ids, np.random.default_rng(seed))
    assert found.dtype == ids.dtype and len(found) == length
    changed = np.flatnonzero(found != ids)
    if length * 2 // 5 < SHORTEST:
        assert not len(changed)
        return
    place, size = changed[0], len(changed)
    start = found[place]
    assert SHORTEST <= size <= length * 2 // 5
    assert changed[-1] == place + size - 1  # in one piece
    assert start + size <= place
    assert found[changed].tolist() == list(range(start, start + size))


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Dataset.from_dict({"input_ids": np.arange(400 * 32, dtype=np.int32).reshape(400, 32)})


def changed_rows(rows: RepeatedRows, blocks: Dataset) -> list[bool]:
    return [bool((rows[i]["input_ids"] != np.array(blocks[i]["input_ids"])).any()) for i in range(len(rows))]


def test_a_share_of_the_rows_has_one_and_others_in_each_epoch(blocks):
    rows = RepeatedRows(blocks, 0.25)
    assert len(rows) == 400
    first = changed_rows(rows, blocks)
    assert 70 < sum(first) < 130
    assert changed_rows(rows, blocks) == first
    assert np.array_equal(RepeatedRows(blocks, 0.25)[7]["input_ids"], rows[7]["input_ids"])
    rows.set_epoch(1)
    assert changed_rows(rows, blocks) != first
    assert all(changed_rows(RepeatedRows(blocks, 1.0), blocks))
    with pytest.raises(IndexError):
        rows[400]


def test_what_is_below_is_told_the_epoch(blocks):
    told = []

    class Below:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> dict:
            return blocks.with_format("numpy")[place]

        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)

    RepeatedRows(Below(), 0.5).set_epoch(3)
    assert told == [3]
