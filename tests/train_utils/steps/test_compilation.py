"""Whether layers are compiled: one decision in seconds, the same in the plan and in the run."""

from types import SimpleNamespace

import pytest
import torch
import yaml

from train_utils.plan import apply as dial
from train_utils.plan.machine import Machine
from train_utils.plan.rule import Task, measure_shape, plan_shape
from train_utils.run import Run
from train_utils.steps.fast_model import COMPILE_SECONDS, COMPILED_GAIN, may_compile, repays_compilation

FP32 = Machine("cpu", "fp32", 1.43e11, ((128, 0.5), (512, 0.7)), 16 * 10**9, 10**11)


@pytest.mark.parametrize(
    ("wanted", "liger", "compilers", "expected"),
    [
        (None, False, {"g++"}, None),
        (None, False, {"clang++"}, None),
        (None, False, set(), False),
        (True, False, set(), True),
        (False, False, {"g++"}, False),
        (None, True, {"g++"}, False),
    ],
)
def test_what_is_settled_before_the_length_is_known(monkeypatch, wanted, liger, compilers, expected):
    monkeypatch.setattr("train_utils.steps.fast_model.shutil.which", lambda name: name if name in compilers else None)
    assert may_compile(SimpleNamespace(use_liger_kernel=liger, compile_layers=wanted)) is expected


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_compilation_must_repay_itself(dtype):
    even = COMPILE_SECONDS / (1 - 1 / COMPILED_GAIN[dtype])
    assert not repays_compilation(None, 0.99 * even, dtype)
    assert repays_compilation(None, 1.01 * even, dtype)
    assert repays_compilation(True, 1, dtype)
    assert not repays_compilation(False, 1e9, dtype)


def plan(seconds: float, text_bytes: int = 10**9, **options):
    task = Task(text_bytes=text_bytes, row_tokens=256, **options)
    return plan_shape(task, FP32, shape=measure_shape(128, 4096, 256), seconds=seconds)


def test_plan_heeds_the_decision():
    """Five minutes repay it in fp32 too, whatever the FLOPs; what isn't compiled is neither faster nor later."""
    long, short = plan(290), plan(100)
    assert (long.compiled, long.before_seconds) == (True, COMPILE_SECONDS)
    assert (short.compiled, short.before_seconds) == (False, 0)
    assert long.train_seconds == pytest.approx(290 - COMPILE_SECONDS)
    assert short.train_seconds == pytest.approx(100)
    rate = FP32.training_flops(128) / short.shape.token_flops
    assert short.tokens == pytest.approx(100 * rate, abs=1)
    assert long.tokens == pytest.approx((290 - COMPILE_SECONDS) * rate * COMPILED_GAIN["fp32"], abs=1)
    assert long.tokens > 290 * rate
    assert not plan(290, compile_layers=False).compiled
    assert plan(100, compile_layers=True).train_seconds == pytest.approx(100 - COMPILE_SECONDS)


def test_short_text_repays_nothing():
    assert not plan(3600, text_bytes=10**6).compiled


def settle(folder, resume=None, total_flops=1e13, wanted=None, fp16=False) -> bool:
    args = SimpleNamespace(
        output_dir=str(folder), use_liger_kernel=False, compile_layers=wanted, process_index=0, world_size=1,
        bf16=False, fp16=fp16, device=torch.device("cpu"),
    )  # fmt: skip
    return dial.settle_compilation(Run("train.py", args, resume=resume), 1024, total_flops)


def test_run_by_steps_measures_the_machine(tmp_path, monkeypatch):
    widths = []
    monkeypatch.setattr(dial, "measure_training", lambda device, dtype, width, seconds: widths.append(width) or 1e11)
    monkeypatch.setattr("train_utils.steps.fast_model.shutil.which", lambda name: name)
    assert not settle(tmp_path, total_flops=1e11 * 200)
    assert settle(tmp_path, total_flops=1e11 * 300)
    assert widths == [512, 512]
    assert settle(tmp_path, total_flops=1, wanted=True)
    assert len(widths) == 2  # which a run with a plan, or the user's word, doesn't


def test_the_gain_is_that_of_the_dtype_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(dial, "measure_training", lambda device, dtype, *_: {"fp16": 1e11, "fp32": 1e11}[dtype])
    monkeypatch.setattr("train_utils.steps.fast_model.shutil.which", lambda name: name)
    assert [settle(tmp_path, total_flops=1e11 * 200, fp16=fp16) for fp16 in (False, True)] == [False, True]


def test_run_that_goes_on_computes_as_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(dial, "measure_training", lambda *_: 1e11)
    monkeypatch.setattr("train_utils.steps.fast_model.shutil.which", lambda name: name)
    record = {"status": "training", "settings": {}, "data": {"compiled": True}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record))
    assert settle(tmp_path, "checkpoint-4", total_flops=1)
    assert not settle(tmp_path, None, total_flops=1)
