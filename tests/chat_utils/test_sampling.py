"""What is drawn: transformers' probabilities, and random numbers of one's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chat_utils.sampling import Sampler, Sampling
from errors import RunError

LOGITS = np.array([0.0, 1.0, 3.0, 2.0, -1.0], dtype=np.float32)


def draw_many(times: int, history: tuple[int, ...] = (), **sampling) -> list[int]:
    settings = Sampling(**{"top_p": 1.0, "temperature": 1.0, "repetition_penalty": 1.0, "seed": 0, **sampling})
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(times):
        sampler = Sampler(settings, list(history))
        sampler._random = random
        drawn.append(sampler.draw(LOGITS))
    return drawn


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        ({"temperature": 0}, {2}),
        ({"temperature": 1e-46}, {2}),
        ({"top_k": 1}, {2}),
        ({"top_k": 2}, {2, 3}),
        ({"top_p": 0.5}, {2}),
        ({"top_p": 0.8}, {2, 3}),
        ({"temperature": 0, "repetition_penalty": 2.0, "history": (2,)}, {3}),
        ({}, {0, 1, 2, 3, 4}),
    ],
)
def test_settings_limit_what_is_drawn(sampling, possible):
    assert set(draw_many(400, **sampling)) == possible


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_sharpens_or_flattens(temperature):
    drawn = draw_many(4000, temperature=temperature)
    share = drawn.count(2) / len(drawn)
    assert share == pytest.approx((np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum())[2], abs=0.03)


def test_drawing_leaves_the_logits_alone():
    before = LOGITS.copy()
    draw_many(1, history=(1, 2), repetition_penalty=1.5, temperature=0.5, top_k=2)
    assert (before == LOGITS).all()


def expected_chances(logits: np.ndarray, history: list[int], sampling: Sampling) -> np.ndarray:
    """Return each token's chance (V) by transformers' own processors, in the order of `generate`."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    scores = processors(torch.tensor([history]), torch.from_numpy(logits.copy())[None])
    return torch.softmax(scores.double(), -1)[0].numpy()


class EvenNumbers:
    """Random numbers that go evenly from 0 to 1, so that shares of what is drawn are chances."""

    def __init__(self, count: int) -> None:
        self.numbers = iter((np.arange(count) + 0.5) / count)

    def random(self) -> float:
        return next(self.numbers)


@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 60, 500]),
    penalty=st.sampled_from([1.0, 1.1, 1.5]),
)
def test_chances_are_those_of_transformers(seed, temperature, top_p, top_k, penalty):
    random = np.random.default_rng(seed)
    logits = (random.standard_normal(80) * 3).astype(np.float32)
    history = random.integers(0, 80, 6).tolist()
    sampling = Sampling(temperature, top_p, top_k, penalty)
    expected = expected_chances(logits, history, sampling)
    sampler = Sampler(sampling, history)
    sampler._random = EvenNumbers(1000)
    scores = sampler._penalize(logits)
    found = np.bincount([sampler._choose(scores) for _ in range(1000)], minlength=80) / 1000
    assert np.abs(found - expected).max() < 1.5 / 1000 + 1e-6
    assert (found > 0).sum() <= (expected > 0).sum()


def test_what_was_drawn_counts_as_said():
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=2.0), [])
    logits = np.array([1.0, 1.9, 0.9], dtype=np.float32)
    assert [sampler.draw(logits) for _ in range(3)] == [1, 0, 1]  # 1.9 beats all but the 1.0 that is not said yet


def test_random_numbers_are_each_samplers_own():
    logits = np.zeros(1000, dtype=np.float32)
    seven, eight = (Sampling(temperature=1.0, top_p=1.0, seed=seed) for seed in (7, 8))
    sampler = Sampler(seven, [])
    alone = [sampler.draw(logits) for _ in range(5)]
    first, other = Sampler(seven, []), Sampler(eight, [])
    together = [(first.draw(logits), other.draw(logits)) for _ in range(5)]
    assert [one for one, _ in together] == alone
    assert [two for _, two in together] != alone


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_told(value, temperature):
    """As of a run that diverged, or a config.json whose epsilon is NaN."""
    logits = LOGITS.copy()
    logits[1] = value
    with pytest.raises(RunError, match="computes no numbers"):
        Sampler(Sampling(temperature=temperature), [0]).draw(logits)
    logits[1] = -np.inf
    assert Sampler(Sampling(temperature=temperature, seed=0), [0]).draw(logits) != 1
