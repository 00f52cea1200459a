"""Measuring the machine, and the figures that the bar and the report show."""

import math
import re
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import TrainerControl, TrainerState

from errors import InputError
from train_utils import callbacks
from train_utils.callbacks import Progress
from train_utils.plan import apply as dial
from train_utils.plan import machine
from train_utils.plan.rule import Plan, measure_shape, plan_shape
from train_utils.stopwatch import Stopwatch


def test_peak_is_measured_and_the_random_state_stays():
    torch.manual_seed(3)
    machine.measure_peak.cache_clear()
    found = machine.measure_peak("cpu", "fp32", seconds=0.05)
    assert 1e8 < found < 1e14
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert machine.measure_peak("cpu", "fp32", seconds=0.05) == found  # once for a process


def test_peak_is_measured_in_the_numbers_asked_for(monkeypatch):
    used = []
    monkeypatch.setattr(machine.torch, "mm", lambda a, b: used.append(a.dtype))
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        machine.measure_peak("cpu", name, seconds=0.001)
        assert used.pop() == dtype


def test_training_is_measured_below_the_peak():
    torch.manual_seed(3)
    found = machine.measure_training("cpu", "fp32", 64, seconds=0.01)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert 1e7 < found < 1e14


def test_figures_leave_out_pauses_and_the_first_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()
    progress = Progress(1000, 6e6, 24e9, bytes_per_token=4.0, clock=None, watch=watch)
    args = SimpleNamespace(logging_steps=10, device=torch.device("cpu"))
    for step in range(5):
        state, control = TrainerState(global_step=step), TrainerControl(should_evaluate=step == 2)
        progress.on_step_begin(args, state, control)
        now[0] += 20 if step == 0 else 0.5
        progress.on_step_end(args, state, control)
        if control.should_evaluate:
            now[0] += 100
    figures = progress.figures(loss=4 * math.log(2))
    assert figures["tokens_per_second"] == pytest.approx(2000)
    assert figures["mfu"] == pytest.approx(0.5)
    assert figures["bits_per_byte"] == pytest.approx(1.0)
    assert set(watch.seconds) == {"first step", "steps"}


@pytest.mark.parametrize(
    ("given", "rows", "accumulation", "steps"),
    [
        (set(), 16, 1, 100),
        ({"per_device_train_batch_size"}, 4, 2, 200),
        ({"gradient_accumulation_steps"}, 4, 2, 200),
    ],
)
def test_plan_reaches_the_arguments_and_a_given_batch_stays(given, rows, accumulation, steps):
    laptop = machine.Machine("cpu", "bf16", 4e11, ((128, 0.2), (512, 0.4)), 10**10, 10**11)
    plan = plan_shape(measure_shape(128, 4096, 256), 100, 10**7, laptop, 256, max_epochs=4)
    args = SimpleNamespace(
        given=given, per_device_train_batch_size=4, gradient_accumulation_steps=2, world_size=1, max_steps=800
    )
    plan = dial.keep_batch(args, plan)
    dial.apply_plan(args, plan)
    args.train_batch_size = args.per_device_train_batch_size  # which Trainer's arguments derive
    kept = dial.limit_steps(args, plan, rows=400)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (rows, accumulation)
    assert args.max_steps == steps
    assert (kept["batch_rows"], kept["accumulation"]) == (rows, accumulation)
    assert kept["shape"]["width"] == 128
    assert args.compile_layers is plan.compiled is True


def plan_for(tmp_path, monkeypatch, gone: float, choose, **changes) -> tuple[list[str], Plan]:
    """Return what `make_plan` shows and makes, for three minutes on a machine that needs no measuring."""
    laptop = machine.Machine("cpu", "bf16", 4e11, ((128, 0.2), (512, 0.4)), 10**10, 10**11)
    monkeypatch.setattr(dial, "measure_machine", lambda *_: laptop)
    monkeypatch.setattr(dial, "process_seconds", lambda: gone)
    values = {
        "given": set(), "output_dir": str(tmp_path), "minutes": 3, "bf16": True, "process_index": 0, "world_size": 1,
        "device": torch.device("cpu"), "optim": "muon", "use_liger_kernel": False, "compile_layers": None,
    }  # fmt: skip
    shown = []
    return shown, dial.make_plan(SimpleNamespace(**values | changes), shown.append, None, choose)


SHAPE = partial(plan_shape, measure_shape(128, 4096, 256), text_bytes=10**9, row_tokens=256)


def test_plan_that_is_shown_has_the_batch_that_was_given(tmp_path, monkeypatch):
    given = {
        "given": {"per_device_train_batch_size"},
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
    }
    shown, plan = plan_for(tmp_path, monkeypatch, 10, SHAPE, **given)
    assert (plan.batch_rows, plan.accumulation) == (4, 1)
    assert "step        4 rows of 256 tokens = 1,024 tokens" in shown[0]
    assert f"in about {plan.tokens // 1024:,} steps" in shown[0]


def test_user_word_on_compilation_reaches_the_plan(tmp_path, monkeypatch):
    for wanted in (True, False):
        shown, plan = plan_for(tmp_path, monkeypatch, 10, SHAPE, compile_layers=wanted)
        assert plan.compiled is wanted
        assert ("not compiled" in shown[0]) is not wanted


def test_time_that_is_no_more_than_its_preparation_is_refused(tmp_path, monkeypatch):
    slow = partial(SHAPE, prepare_seconds=lambda vocab_size: 162.0)
    told = "--minutes 3 is too short: 175 s go by before and after the training; give it 3.1 at least"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        plan_for(tmp_path, monkeypatch, 10, slow)
    assert plan_for(tmp_path, monkeypatch, 5, slow)[1].train_seconds == pytest.approx(10)


@pytest.mark.parametrize("resume", [None, "out/checkpoint-4"])
@pytest.mark.parametrize("word", [None, "false", "true"])
def test_only_a_run_that_goes_on_keeps_the_plan_of_its_record(tmp_path, monkeypatch, resume, word):
    """Whether it goes on is what the folder says (`resume`), not whether the option is there."""
    laptop = machine.Machine("cpu", "bf16", 4e11, ((128, 0.2), (512, 0.4)), 10**10, 10**11)
    monkeypatch.setattr(dial, "measure_machine", lambda *_: laptop)
    monkeypatch.setattr(dial, "process_seconds", lambda: 1.0)
    old, new = (plan_shape(measure_shape(w, 4096, 256), 100, 10**7, laptop, 256, max_epochs=4) for w in (128, 192))
    record = {"status": "training", "settings": {}, "data": {"plan": asdict(old)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record))
    args = SimpleNamespace(
        output_dir=str(tmp_path), resume_from_checkpoint=word, minutes=3, bf16=True, process_index=0, world_size=1,
        device=torch.device("cpu"), given=set(), optim="muon", use_liger_kernel=False, compile_layers=None,
    )  # fmt: skip
    found = dial.make_plan(args, lambda *_: None, resume, lambda **_: new)
    assert found == (old if resume else new)
