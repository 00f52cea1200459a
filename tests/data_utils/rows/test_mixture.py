"""The order of rows: a permutation, computed for each row alone, the same for any number of processes."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from data_utils.rows import mixture
from data_utils.rows.mixture import Mixture, find_draw, permute_index

WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=5)


class Tokens:
    """A token stream of the numbers from `start` on."""

    def __init__(self, start: int, count: int) -> None:
        self.start, self.count = start, count

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, count: int) -> np.ndarray:
        return np.arange(self.start + start, self.start + start + count).astype(np.uint32)


def first_tokens(mixture: Mixture, epoch: int = 0) -> list[int]:
    mixture.set_epoch(epoch)
    return [int(mixture[i]["input_ids"][0]) for i in range(len(mixture))]


@given(size=st.integers(1, 700), key=st.integers(0, 2**64 - 1))
def test_permutation_is_a_bijection(size, key):
    assert sorted(permute_index(i, size, key) for i in range(size)) == list(range(size))


@given(size=st.integers(1, 2**60), key=st.integers(0, 2**64 - 1), data=st.data())
def test_permutation_of_any_size_stays_inside_and_is_one_to_one(size, key, data):
    indices = data.draw(st.sets(st.integers(0, size - 1), max_size=20))
    found = {permute_index(i, size, key) for i in indices}
    assert len(found) == len(indices)
    assert all(0 <= index < size for index in found)


def test_permutation_depends_on_the_key_and_mixes_well():
    size = 10_000
    orders = [np.array([permute_index(i, size, key) for i in range(size)]) for key in (1, 2)]
    assert (orders[0] == orders[1]).sum() < 20  # about one by chance
    for order in orders:
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05  # neighbours
        assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.05  # drift
        counts = np.bincount(order[: size // 2] * 10 // size)  # the first half comes from everywhere
        assert counts.min() > 400


def test_a_place_in_a_huge_permutation_costs_no_more(monkeypatch):
    """Under four walks of ROUNDS each, on average, at any size."""
    scrambled = []
    scramble = mixture.scramble
    monkeypatch.setattr(mixture, "scramble", lambda value: scrambled.append(value) or scramble(value))
    assert len({permute_index(i, 10**15, 3) for i in range(1000)}) == 1000
    assert len(scrambled) < 1000 * 4 * mixture.ROUNDS


@given(WEIGHTS)
def test_draws_are_the_sources_in_the_order_of_their_places(weights):
    total = sum(weights)
    places = sorted(((2 * k + 1) / w, s, k) for s, w in enumerate(weights) for k in range(2 * w))
    # Equal places are told apart by the source's number; floats of equal fractions are equal here.
    expected = [(s, k) for _, s, k in places]
    assert [find_draw(row, weights) for row in range(2 * total)] == expected


@given(WEIGHTS, st.integers(0, 10**12))
def test_every_stretch_of_rows_keeps_the_shares(weights, start):
    rows = [find_draw(start + i, weights)[0] for i in range(sum(weights))]
    for source, weight in enumerate(weights):
        assert abs(rows.count(source) - weight) <= 1 + len(weights) / 2


def test_an_epoch_reads_each_block_once_in_an_order_of_its_own():
    mixture = Mixture([Tokens(0, 403), Tokens(10_000, 250)], 4, seed=1)
    epochs = [first_tokens(mixture, epoch) for epoch in (0, 1)]
    blocks = [*range(0, 400, 4), *range(10_000, 10_248, 4)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == blocks
    assert epochs[0] != epochs[1]
    assert epochs[0] != first_tokens(Mixture([Tokens(0, 403), Tokens(10_000, 250)], 4, seed=2))
    assert epochs[0] == first_tokens(Mixture([Tokens(0, 403), Tokens(10_000, 250)], 4, seed=1))


def test_times_repeat_a_source_within_an_epoch():
    counts = Counter(first_tokens(Mixture([Tokens(0, 40), Tokens(1000, 40)], 4, seed=0, times=[3, 1])))
    assert counts == {**dict.fromkeys(range(0, 40, 4), 3), **dict.fromkeys(range(1000, 1040, 4), 1)}


def test_weights_are_shares_and_a_small_source_is_repeated_evenly():
    mixture = Mixture([Tokens(0, 4000), Tokens(100_000, 400)], 4, seed=0, weights=[1, 1])
    rows = first_tokens(mixture)
    small = Counter(row for row in rows if row >= 100_000)
    assert len(rows) == 1100
    assert small.total() == 550
    assert set(small.values()) == {5, 6}
    assert max(Counter(row for row in rows if row < 100_000).values()) == 1
    for start in range(0, 1100, 100):
        assert sum(row >= 100_000 for row in rows[start : start + 100]) == 50
    assert mixture.count_epochs(1100) == pytest.approx([0.55, 5.5])


def test_epochs_are_whole_steps_and_go_on_where_the_last_one_ended():
    mixture = Mixture([Tokens(0, 103)], 1, seed=0, step_rows=8)
    assert len(mixture) == 96
    rows = first_tokens(mixture, 0) + first_tokens(mixture, 1)
    assert sorted(rows[:103]) == list(range(103))
    assert Counter(rows).most_common(1)[0][1] == 2
    with pytest.raises(IndexError):
        mixture[96]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_holds_the_same_rows_on_any_number_of_processes(processes):
    """The batches that accelerate gives each process, at 8 rows of a step."""
    mixture = Mixture([Tokens(0, 4001)], 4, seed=0, step_rows=8)
    batch = 2
    accumulation = 8 // batch // processes
    shards = []
    for process in range(processes):
        batches = BatchSampler(SequentialSampler(mixture), batch, drop_last=False)
        shards.append(list(BatchSamplerShard(batches, processes, process)))
    assert len({len(shard) for shard in shards}) == 1
    for step in range(len(mixture) // 8):
        rows = [shard[step * accumulation : (step + 1) * accumulation] for shard in shards]
        assert sorted(chain.from_iterable(chain.from_iterable(rows))) == list(range(step * 8, step * 8 + 8))
