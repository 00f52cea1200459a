"""Figures: values, intervals that hold what they should, differences beyond chance and within it."""

import numpy as np
import pytest

from eval_utils.figures import Figure, compare_figures


def make(values, weights=None, lower=False, unit="%") -> Figure:
    return Figure(
        "f", list(map(float, values)), list(map(float, weights or [])), part="pairs", unit=unit, lower_is_better=lower
    )


def test_a_figure_is_the_sum_by_the_weights():
    assert make([10, 30], [10, 10], lower=True, unit="bits/byte").value == 2.0
    assert make([1, 0, 0, 0]).value == 0.25


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = make(draw.random(150) < 0.7).interval()
        hits += low <= 0.7 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_interval_is_narrower_with_more_items():
    widths = [high - low for low, high in (make([0, 1, 1] * count).interval() for count in (10, 1000))]
    assert widths[1] < widths[0] / 5


@pytest.mark.parametrize("right", [0, 1])
def test_a_few_that_are_all_alike_prove_little(right):
    low, high = make([right] * 6).interval()
    assert high - low > 0.3
    assert low <= right <= high


def test_a_single_item_says_nothing_of_chance():
    assert make([5.0], unit="MB").interval() is None
    assert compare_figures(make([5.0]), make([4.0])) == 0


def test_differences_are_judged_pair_by_pair():
    """Documents differ much, models little but always: only by pairs is that seen."""
    draw = np.random.default_rng(0)
    hard = draw.uniform(1, 5, 100)
    better, worse = make(hard, lower=True, unit="bits/byte"), make(hard + 0.05, lower=True, unit="bits/byte")
    assert (compare_figures(better, worse), compare_figures(worse, better)) == (1, -1)
    assert better.interval()[1] > worse.interval()[0]


def test_noise_is_no_difference():
    draw = np.random.default_rng(0)
    found = [compare_figures(make(draw.random(100) < 0.5), make(draw.random(100) < 0.5)) for _ in range(100)]
    assert sum(map(abs, found)) <= 12


def test_items_that_only_one_has_are_left_out():
    assert compare_figures(make([1, 0] * 5 + [1] * 90), make([1, 0] * 5)) == 0
    assert compare_figures(make([1, 0] * 5 + [1] * 90), make([1, 0] * 50)) == 1


def test_items_without_weight_keep_the_others_in_their_places():
    """One model has no room for the first document, the other has: the rest are compared each with itself."""
    hard = np.random.default_rng(0).uniform(1, 5, 100)
    less = make([0.0, *hard[1:]], [0.0] + [1.0] * 99, lower=True, unit="bits/byte")
    more = make(hard + 0.05, lower=True, unit="bits/byte")
    assert (compare_figures(less, more), compare_figures(more, less)) == (1, -1)
    assert less.as_record()["items"] == 99
    assert less.interval() == make(hard[1:], lower=True, unit="bits/byte").interval()


def test_the_interval_is_the_same_every_time():
    assert make([0, 1, 1] * 800).interval() == pytest.approx((0.6470833333, 0.6850104167))


def test_a_record_has_shares_by_group():
    figure = make([1, 0, 1])
    figure.groups = ["a", "a", "b"]
    assert figure.as_record()["groups"] == {"a": 0.5, "b": 1.0}
    assert figure.as_record()["items"] == 3
