"""The plan of a run: a pure function of time, text and machine."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.train import BATCH_ROWS, ROW_TOKENS, SIZES
from model_utils.shapes import count_parameters, flops_per_token, model_config
from train_utils.plan.apply import on_meta, shape_of
from train_utils.plan.machine import Machine
from train_utils.plan.rule import (
    MAX_EPOCHS,
    MEMORY_SHARE,
    MIN_STEPS,
    OPTIMIZER_SHARE,
    WIDTHS,
    Plan,
    Task,
    choose_batch,
    choose_plan,
    choose_vocabulary,
    describe_plan,
    effective_tokens,
    measure_shape,
    plan_shape,
    predict_loss,
)
from train_utils.steps.fast_model import COMPILED_GAIN

LAPTOP = Machine("cpu", "bf16", 400e9, ((128, 0.2), (512, 0.45)), 16 * 10**9, 10**11)
CARD = Machine("cuda", "bf16", 600e12, ((512, 0.15), (2048, 0.45)), 70 * 10**9, 10**12)


def plan_width(seconds, text_bytes, machine=LAPTOP, row_tokens=256, *, vocab_size=None, **options) -> Plan:
    """Return the plan of the width that suits so much time and text."""
    task = Task(text_bytes=text_bytes, row_tokens=row_tokens, **options)
    return choose_plan(task, machine, seconds=seconds, vocab_size=vocab_size)


def plan_of(shape, seconds, text_bytes, machine=LAPTOP, row_tokens=256, **options) -> Plan:
    """Return the plan of a shape."""
    return plan_shape(
        Task(text_bytes=text_bytes, row_tokens=row_tokens, **options), machine, shape=shape, seconds=seconds
    )


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
        widths = [plan_width(60 * m, text_bytes, machine, 256).shape.width for m in (1, 3, 10, 30, 300)]
        assert widths == sorted(widths)
    assert (
        plan_width(600, 10**12, CARD, 256).shape.parameters > 10 * plan_width(600, 10**12, LAPTOP, 256).shape.parameters
    )


def test_little_text_is_not_repeated_for_ever():
    plan = plan_width(3600 * 10, 10**6, LAPTOP, 256)
    assert plan.tokens <= MAX_EPOCHS * (plan.unique_tokens + 1)
    end = describe_plan(plan, LAPTOP, minutes=600, gone_seconds=10, finish_seconds=3).splitlines()[-1]
    minutes = (10 + plan.before_seconds + plan.train_seconds + 3) / 60
    assert f"after about {minutes:.1f} min, of which 10 s are gone: reading the text more than 3 times" in end
    # Nor is a small text given a model that it cannot feed, or a vocabulary.
    assert plan.shape.parameters < 10**8
    assert plan.shape.vocab_size == 4096


def test_repeats_lose_their_worth():
    assert effective_tokens(1e6, 1e6) == 1e6
    assert effective_tokens(4e6, 1e6) > 3.6e6
    assert effective_tokens(100e6, 1e6) < 16.5e6


@given(st.floats(10, 1e6), st.integers(10**4, 10**13), st.sampled_from([64, 256, 1024]), st.sampled_from([1, 2, 8]))
def test_every_plan_can_be_run(seconds, text_bytes, row_tokens, processes):
    for machine in (LAPTOP, CARD):
        plan = plan_width(seconds, text_bytes, machine, row_tokens, processes=processes)
        assert plan.batch_rows >= 1
        assert plan.step_tokens == plan.batch_rows * plan.accumulation * row_tokens * processes
        assert plan.memory_bytes < machine.memory_bytes
        assert plan.train_seconds <= seconds * 1.001


def test_given_vocabulary_and_shape_stay():
    assert plan_width(600, 10**9, LAPTOP, 256, vocab_size=5000).shape.vocab_size == 5000
    shape = measure_shape(512, 8192, 256)
    plan = plan_of(shape, 600, 10**9, LAPTOP, 256, max_epochs=0.001)
    assert plan.shape is shape
    assert plan.tokens == pytest.approx(0.001 * plan.unique_tokens, abs=1)


@pytest.mark.parametrize(("minutes", "width"), [(3, 128), (5, 128), (10, 192), (30, 256)])
def test_widths_are_those_that_were_best_when_measured(minutes, width):
    """benchmarks/LOG.md, "Which width by the clock": 20.5 MB of text, 280 GFLOP/s in compiled steps."""
    flops = 280e9 / COMPILED_GAIN["bf16"]
    machine = Machine("cpu", "bf16", flops, ((128, 1.0), (512, 1.0)), 16 * 10**9, 10**11)
    assert plan_width(60 * minutes, 20_500_000, machine, 256).shape.width == width


def test_larger_vocabulary_is_worth_the_text_that_it_reads_and_no_more():
    """With the weights and FLOPs of the smaller one it reads more text, at which the law's loss is lower by so much."""
    small = measure_shape(1024, 4096, 256)
    large = replace(small, vocab_size=4 * 4096)  # 4.2 bytes a token instead of 3.7
    few, many = (plan_of(shape, 600, 10**13, CARD, 256) for shape in (small, large))
    assert many.tokens == few.tokens
    assert few.predicted_loss == pytest.approx(predict_loss(small.weights, few.tokens), rel=1e-8)
    assert many.predicted_loss == pytest.approx(predict_loss(small.weights, few.tokens * 4.2 / 3.7), rel=1e-8)


def test_tokens_to_prepare_take_their_time_and_only_those():
    """A vocabulary whose tokens are there leaves the time to train."""
    new, there = (
        plan_of(measure_shape(128, 4096, 256), 600, 10**9, LAPTOP, 256, prepare_seconds={4096: seconds}.get)
        for seconds in (200.0, 0.0)
    )
    assert new.before_seconds - there.before_seconds == 200
    assert there.train_seconds - new.train_seconds == pytest.approx(200)
    asked = []

    def prepare_seconds(vocab_size: int) -> float:
        asked.append(vocab_size)
        return 0.0

    plan_width(600, 10**9, LAPTOP, 256, prepare_seconds=prepare_seconds)
    assert asked == [choose_vocabulary(width, 10**9) for width in WIDTHS]


# Width, vocabulary, rows of a micro-batch; MB that processes took at most, beyond what they held before, in plain
# steps in fp32 with Muon, in rows of 256 tokens.
PEAKS = [
    (128, 4096, 2, 89), (128, 4096, 16, 506), (256, 6144, 2, 239), (256, 6144, 8, 578),
    (512, 12288, 1, 1045), (512, 12288, 4, 1364), (512, 4096, 4, 1173),
]  # fmt: skip


@pytest.mark.parametrize(("width", "vocab_size", "rows", "peak"), PEAKS)
def test_memory_is_about_what_was_measured(width, vocab_size, rows, peak):
    shape = measure_shape(width, vocab_size, 256)
    plan = replace(plan_of(shape, 600, 10**9), batch_rows=rows, held_bytes=10**9)
    assert plan.memory_bytes - 10**9 == pytest.approx(peak * 10**6, rel=0.15)


def test_one_margin_of_memory_holds_for_width_and_batch():
    tight = replace(LAPTOP, memory_bytes=10**9, held_bytes=5 * 10**8)
    plan = plan_of(measure_shape(128, 4096, 256), 600, 10**9, tight, 256)
    assert (
        plan.memory_bytes
        <= MEMORY_SHARE * tight.memory_bytes
        < replace(plan, batch_rows=2 * plan.batch_rows).memory_bytes
    )
    assert plan.batch_rows * plan.accumulation * 256 == plan_of(plan.shape, 600, 10**9, LAPTOP, 256).step_tokens
    assert plan_width(36000, 10**12, LAPTOP, 256).shape.width > plan_width(36000, 10**12, tight, 256).shape.width


@pytest.mark.parametrize(("width", "vocab_size", "accumulation"), SIZES)
def test_optimizer_takes_a_small_share_of_a_step(width, vocab_size, accumulation):
    """What `benchmarks.train speed` measures is the step of a run of such a size that has MIN_STEPS of them."""
    shape = measure_shape(width, vocab_size, ROW_TOKENS)
    worth = shape.muon_flops / shape.token_flops
    step_tokens = BATCH_ROWS * accumulation * ROW_TOKENS
    assert choose_batch(MIN_STEPS * step_tokens, ROW_TOKENS, 1, worth) == BATCH_ROWS * accumulation
    assert worth / (worth + step_tokens) < 1.3 * OPTIMIZER_SHARE
    # A run of few steps isn't left with fewer, nor one with another optimizer; each of two processes has Muon's work.
    assert choose_batch(40 * step_tokens, ROW_TOKENS, 1, worth) * ROW_TOKENS == 4096
    assert choose_batch(MIN_STEPS * step_tokens, ROW_TOKENS, 1) * ROW_TOKENS == 4096
    assert choose_batch(2 * MIN_STEPS * step_tokens, ROW_TOKENS, 2, worth) == 2 * BATCH_ROWS * accumulation


def test_batch_of_a_plan_heeds_muon():
    shape = measure_shape(768, 20480, 512)
    long, short = (plan_of(shape, 60 * minutes, 10**9, LAPTOP, 512) for minutes in (150, 30))
    assert (long.step_tokens, short.step_tokens) == (16384, 4096)
    assert plan_of(shape, 60 * 150, 10**9, LAPTOP, 512, muon=False).step_tokens == 4096


def test_batch_grows_with_the_horizon():
    assert [choose_batch(tokens, 256, 1) * 256 for tokens in (1e5, 2e6, 64e6, 10e9)] == [4096, 4096, 16384, 131072]
    assert choose_batch(1e6, 256, 8) % 8 == 0


def test_table_says_what_will_be():
    text = describe_plan(plan_width(150, 10**8), LAPTOP, minutes=3, gone_seconds=20)
    assert "400 GFLOP/s in bf16" in text
    for name in ("model", "vocabulary", "tokens", "epochs", "compute", "memory", "disk", "at 3 min"):
        assert name in text
    told = describe_plan(plan_width(150, 10**8), LAPTOP, minutes=3, gone_seconds=20, memory=False)
    assert [line for line in text.splitlines() if "  memory" not in line] == told.splitlines()
