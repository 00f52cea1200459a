"""The plan of a run: a pure function of time, text and machine."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from train_utils.dial import on_meta, shape_of
from train_utils.machine import Machine
from train_utils.model import count_parameters, flops_per_token, model_config
from train_utils.plan import (
    MAX_EPOCHS,
    WIDTHS,
    choose_batch,
    choose_plan,
    describe_plan,
    effective_tokens,
    measure_shape,
    plan_shape,
)

LAPTOP = Machine("cpu", "bf16", 400e9, ((128, 0.2), (512, 0.45)), 16 * 10**9, 10**11)
CARD = Machine("cuda", "bf16", 600e12, ((512, 0.15), (2048, 0.45)), 70 * 10**9, 10**12)


@pytest.mark.parametrize("width", [128, 320, 1024, 3072])
def test_sizes_are_those_of_the_real_model(width):
    def build():
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**model_config(width), vocab_size=5000))

    model, shape = on_meta(build), measure_shape(width, 5000, 256)
    assert shape.parameters == count_parameters(model)
    assert shape.token_flops == flops_per_token(model, 256)
    assert shape_of(model, 256) == shape
    assert shape_of(model, 256, 6000) == measure_shape(width, 6000, 256)


def test_ladder_reaches_from_a_million_to_a_billion():
    sizes = [measure_shape(width, 4096, 256).parameters for width in WIDTHS]
    assert sizes[0] < 1.6e6
    assert sizes[-1] > 1e9
    assert all(b / a < 3.1 for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize("machine", [LAPTOP, CARD])
def test_more_time_or_more_text_never_makes_a_smaller_model(machine):
    for text_bytes in (10**7, 10**9, 10**12):
        widths = [choose_plan(60 * m, text_bytes, machine, 256).shape.width for m in (1, 3, 10, 30, 300)]
        assert widths == sorted(widths)
    assert (
        choose_plan(600, 10**12, CARD, 256).shape.parameters
        > 10 * choose_plan(600, 10**12, LAPTOP, 256).shape.parameters
    )


def test_little_text_is_not_repeated_for_ever():
    plan = choose_plan(3600 * 10, 10**6, LAPTOP, 256)
    assert plan.tokens <= MAX_EPOCHS * (plan.unique_tokens + 1)
    assert "early" in describe_plan(plan, LAPTOP, 600, 10)
    # Nor is a small text given a model that it cannot feed, or a vocabulary.
    assert plan.shape.parameters < 10**8
    assert plan.shape.vocab_size == 4096


def test_repeats_lose_their_worth():
    assert effective_tokens(1e6, 1e6) == 1e6
    assert effective_tokens(4e6, 1e6) > 3.6e6
    assert effective_tokens(100e6, 1e6) < 16.5e6


@given(st.floats(10, 1e6), st.integers(10**4, 10**13), st.sampled_from([64, 256, 1024]), st.sampled_from([1, 2, 8]))
@settings(max_examples=60, deadline=None)
def test_every_plan_can_be_run(seconds, text_bytes, row_tokens, processes):
    for machine in (LAPTOP, CARD):
        plan = choose_plan(seconds, text_bytes, machine, row_tokens, processes)
        assert plan.batch_rows >= 1
        assert plan.step_tokens == plan.batch_rows * plan.accumulation * row_tokens * processes
        assert plan.memory_bytes < machine.memory_bytes
        assert plan.train_seconds <= seconds * 1.001


def test_given_vocabulary_and_shape_stay():
    assert choose_plan(600, 10**9, LAPTOP, 256, vocab_size=5000).shape.vocab_size == 5000
    shape = measure_shape(512, 8192, 256)
    plan = plan_shape(shape, 600, 10**9, LAPTOP, 256, max_epochs=0.001)
    assert plan.shape is shape
    assert plan.tokens == pytest.approx(0.001 * plan.unique_tokens, abs=1)


def test_batch_grows_with_the_horizon():
    assert [choose_batch(tokens, 256, 1) * 256 for tokens in (1e5, 2e6, 64e6, 10e9)] == [4096, 4096, 16384, 131072]
    assert choose_batch(1e6, 256, 8) % 8 == 0


def test_table_says_what_will_be():
    text = describe_plan(choose_plan(150, 10**8, LAPTOP, 256), LAPTOP, 3, 20)
    assert "400 GFLOP/s in bf16" in text
    for name in ("model", "vocabulary", "tokens", "epochs", "compute", "memory", "disk", "at 3 min"):
        assert name in text
