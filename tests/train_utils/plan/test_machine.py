"""Measuring the machine, and the figures that the bar and the report show."""

import math
import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import TrainerControl, TrainerState

from errors import InputError
from train_utils import callbacks
from train_utils.callbacks import Progress
from train_utils.clock import Stopwatch
from train_utils.plan import apply as dial
from train_utils.plan import machine
from train_utils.plan.rule import Task, measure_shape, plan_shape
from train_utils.run import Run


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


LAPTOP = machine.Machine("cpu", "bf16", 4e11, ((128, 0.2), (512, 0.4)), 10**10, 10**11)
SHAPE = measure_shape(128, 4096, 256)
TEXT = Task(text_bytes=10**9, row_tokens=256)


def make_run(folder, resume: str | None = None, **changes) -> Run:
    """Return a run of three minutes."""
    values = {
        "given": set(), "output_dir": str(folder), "minutes": 3, "bf16": True, "process_index": 0, "world_size": 1,
        "device": torch.device("cpu"), "optim": "muon", "use_liger_kernel": False, "compile_layers": None,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 800, "train_batch_size": 4,
    }  # fmt: skip
    return Run("train.py", SimpleNamespace(**values | changes), resume=resume)


def plan_for(tmp_path, monkeypatch, gone: float, task: Task = TEXT, **changes) -> Run:
    """Return the run of three minutes with its plan, on a machine that needs no measuring."""
    monkeypatch.setattr(dial, "measure_machine", lambda *_: LAPTOP)
    monkeypatch.setattr(dial, "process_seconds", lambda: gone)
    return dial.make_plan(make_run(tmp_path, **changes), task, shape=SHAPE)


@pytest.mark.parametrize(
    ("given", "rows", "accumulation"),
    [
        (set(), 16, 1),
        ({"per_device_train_batch_size"}, 4, 2),
        ({"gradient_accumulation_steps"}, 4, 2),
    ],
)
def test_plan_reaches_the_arguments_and_a_given_batch_stays(tmp_path, monkeypatch, given, rows, accumulation):
    run = plan_for(tmp_path, monkeypatch, 10, given=given)
    assert (run.args.per_device_train_batch_size, run.args.gradient_accumulation_steps) == (rows, accumulation)
    assert (run.plan.batch_rows, run.plan.accumulation) == (rows, accumulation)
    assert run.plan.shape.width == 128
    assert run.args.compile_layers is run.plan.compiled is True


def test_what_was_parsed_stays_as_it_was_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(dial, "measure_machine", lambda *_: LAPTOP)
    monkeypatch.setattr(dial, "process_seconds", lambda: 10)
    run = make_run(tmp_path)
    before = dict(vars(run.args))
    planned = dial.limit_steps(dial.make_plan(run, TEXT, shape=SHAPE), 400)
    assert vars(run.args) == before
    assert planned.args.max_steps == math.ceil(planned.plan.max_epochs * 400 / 4)
    assert dial.limit_steps(run, 400) is run  # no plan, no limit


def test_plan_that_is_shown_has_the_batch_that_was_given(tmp_path, monkeypatch, capsys):
    given = {"given": {"per_device_train_batch_size"}, "gradient_accumulation_steps": 1}
    plan = plan_for(tmp_path, monkeypatch, 10, **given).plan
    shown = capsys.readouterr().out
    assert (plan.batch_rows, plan.accumulation) == (4, 1)
    assert "step        4 rows of 256 tokens = 1,024 tokens" in shown
    assert f"in about {plan.tokens // 1024:,} steps" in shown


def test_user_word_on_compilation_reaches_the_plan(tmp_path, monkeypatch, capsys):
    for wanted in (True, False):
        plan = plan_for(tmp_path, monkeypatch, 10, compile_layers=wanted).plan
        assert plan.compiled is wanted
        assert ("not compiled" in capsys.readouterr().out) is not wanted


def test_time_that_is_no_more_than_its_preparation_is_refused(tmp_path, monkeypatch):
    slow = replace(TEXT, prepare_seconds=lambda vocab_size: 162.0)
    told = "--minutes 3 is too short: 175 s go by before and after the training; give it 3.1 at least"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"):
        plan_for(tmp_path, monkeypatch, 10, slow)
    assert plan_for(tmp_path, monkeypatch, 5, slow).plan.train_seconds == pytest.approx(10)


@pytest.mark.parametrize("resume", [None, "out/checkpoint-4"])
@pytest.mark.parametrize("word", [None, "false", "true"])
def test_only_a_run_that_goes_on_keeps_the_plan_of_its_record(tmp_path, monkeypatch, resume, word):
    """Whether it goes on is what the folder says (`resume`), not whether the option is there."""
    monkeypatch.setattr(dial, "measure_machine", lambda *_: LAPTOP)
    monkeypatch.setattr(dial, "process_seconds", lambda: 1.0)
    old = plan_shape(TEXT, LAPTOP, shape=measure_shape(192, 4096, 256), seconds=100)
    record = {"status": "training", "settings": {}, "data": {"plan": asdict(old)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(record))
    run = make_run(tmp_path, resume=resume, resume_from_checkpoint=word)
    found = dial.make_plan(run, TEXT, shape=SHAPE).plan
    assert found == old if resume else found.shape.width == 128
