"""Parts of a text are hidden: source and target together are the text, and no document sees another."""

from itertools import groupby

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.rows.denoising import DENOISERS, DenoisedRows, cut_documents, denoise, share_out

END, FIRST_SENTINEL = 0, 1000
SENTINELS = list(range(FIRST_SENTINEL, FIRST_SENTINEL + 8))
TEXTS = st.lists(st.lists(st.integers(1, 99), max_size=40), min_size=1, max_size=12)


def make_row(texts: list[list[int]]) -> np.ndarray:
    return np.array([token for text in texts for token in (*text, END)], dtype=np.int32)


def restore(source: np.ndarray, target: np.ndarray) -> list[int]:
    """Put what a target says in the places of its source's sentinels, or behind it where there are none."""
    spans: dict[int, list[int]] = {}
    rest: list[int] = []
    for token in target.tolist():
        rest = spans.setdefault(token, []) if token >= FIRST_SENTINEL else rest
        if token < FIRST_SENTINEL:
            rest.append(token)
    restored = [word for token in source.tolist() for word in (spans.pop(token) if token in spans else [token])]
    assert not spans
    return restored if set(source.tolist()) & set(SENTINELS) else restored + rest


def hide(row: np.ndarray, how: str, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    return denoise(row, how, end_id=END, sentinels=SENTINELS, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("how", DENOISERS)
@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, seed=st.integers(0, 5))
def test_source_and_target_give_the_text_back(how, texts, seed):
    row = make_row(texts)
    pairs = hide(row, how, seed)
    assert [token for pair in pairs for token in restore(*pair)] == row.tolist()
    assert all(len(source) for source, _ in pairs)
    assert len(row) < 2 or any(len(target) for _, target in pairs)  # a decoder can't run on nothing


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS)
def test_no_pair_holds_two_documents(texts):
    for pair in hide(make_row(texts), "mixed"):
        piece = restore(*pair)
        # What follows an end token is at most another one, too short to be a document.
        assert len([1 for is_end, _ in groupby(piece, lambda token: token == END) if not is_end]) <= 2
        assert END not in piece[2:-2]


@pytest.mark.parametrize("how", DENOISERS)
def test_as_many_tokens_are_hidden_in_every_row(how):
    rng = np.random.default_rng(1)
    for _ in range(20):
        row = make_row([rng.integers(1, 99, rng.integers(3, 60)).tolist() for _ in range(60)])[:256]
        hidden = sum((target < FIRST_SENTINEL).sum() for _, target in hide(row, how))
        assert hidden == round(DENOISERS[how][1] * 256)


def test_spans_are_those_of_t5():
    source, target = hide(np.arange(1, 101, dtype=np.int32), "spans")[0]
    places = np.flatnonzero(source >= FIRST_SENTINEL)
    assert source[places].tolist() == target[target >= FIRST_SENTINEL].tolist() == SENTINELS[: len(places)]
    assert (np.diff(places) > 1).all()  # a token stays between two spans


def test_no_sentinel_is_used_twice_in_a_pair():
    for source, _ in hide(np.arange(1, 1000, dtype=np.int32) % 900, "spans"):
        used = source[source >= FIRST_SENTINEL]
        assert len(set(used.tolist())) == len(used) <= len(SENTINELS)


def test_an_empty_document_stays_with_its_neighbour():
    assert [piece.tolist() for piece in cut_documents(make_row([[], [5], [], [6, 7]]), END)] == [
        [0, 5, 0],
        [0, 6, 7, 0],
    ]


def test_shares_are_met_though_documents_are_short():
    assert share_out(np.array([0.0, 1.0, 0.5]), np.array([2, 2, 2]), 3).tolist() == [1, 1, 1]
    assert share_out(np.array([1.0, 1.0]), np.array([2, 9]), 0).tolist() == [0, 0]


def test_an_epoch_hides_other_parts_and_the_same_one_the_same():
    blocks = Dataset.from_dict({"input_ids": [list(range(1, 65)), list(range(2, 66))]})
    less = DenoisedRows(blocks, "prefix", end_id=END, start_id=7, sentinels=[], share=0.125)[0]
    assert (len(less["input_ids"]), len(less["target_parts"])) == (56, 8)
    rows = DenoisedRows(blocks, "prefix", end_id=END, start_id=7, sentinels=[])
    first = [rows[i]["labels"].tolist() for i in range(2)]
    rows.set_epoch(1)
    assert rows[0]["labels"].tolist() != first[0]
    rows.set_epoch(0)
    assert [row["labels"].tolist() for row in rows] == first
    row = rows[0]
    pairs = row["target_parts"]
    assert len(row["input_ids"]) == len(row["source_parts"]) == 32
    assert len(row["decoder_input_ids"]) == len(pairs) == len(row["labels"]) - 1 == 32
    starts = np.flatnonzero(np.diff(pairs, prepend=0))
    assert (row["decoder_input_ids"][starts] == 7).all()
    inside = np.setdiff1d(np.arange(32), starts)
    assert (row["decoder_input_ids"][inside] == row["labels"][inside]).all()  # each is given what it should have said
