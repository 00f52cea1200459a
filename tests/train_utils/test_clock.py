"""A run by the clock, with a clock of the test's own: the rate follows it, and the end comes in time."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState
from transformers.optimization import get_constant_schedule

from train_utils import clock as clock_module
from train_utils.clock import Clock, rate_share, start_time

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("/venv/bin/python3 /venv/bin/accelerate launch --cpu train.py", True),
        ("python -m accelerate.commands.launch train.py", True),
        ("/usr/bin/python3.11 -m torch.distributed.run --standalone train.py", True),
        ("python /venv/bin/torchrun train.py", True),
        ("/bin/bash -c accelerate launch train.py", False),
        ("python train.py --output_dir accelerate", False),
        ("make chat", False),
        ("", False),
    ],
)
def test_launchers_are_known_by_their_command(command, found):
    assert clock_module.is_launcher(command.split()) is found


def test_the_time_of_a_launcher_counts(tmp_path):
    """The launcher here is a script of that name, which waits before it starts the run."""
    launcher = tmp_path / "accelerate"
    inner = "from train_utils.clock import process_seconds; import psutil, time; "
    inner += "print(process_seconds() - (time.time() - psutil.Process().create_time()))"
    launcher.write_text(
        f"import subprocess, sys, time\ntime.sleep(1)\nsubprocess.run([sys.executable, '-c', {inner!r}])\n"
    )
    done = subprocess.run([sys.executable, str(launcher)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 30


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_is_set_changes_nothing(monkeypatch, hours):
    monkeypatch.setattr(clock_module, "start_time", start_time)
    before = clock_module.process_seconds()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + hours * 3600)
    assert before <= clock_module.process_seconds() < before + 1800


class FakeTime:
    """Seconds that pass only when the test says so."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


def run(
    clock: Clock, time: FakeTime, step_seconds, first_seconds=0.0, mark_seconds=2.0, folder=None, stop_at=None,
    processes=1,
):  # fmt: skip
    """Play Trainer: call the hooks in its order; return the rates of all steps and when each mark was."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_constant_schedule(optimizer)
    args = SimpleNamespace(world_size=processes, device="cpu", output_dir=str(folder))
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    clock.on_train_begin(args, state, control, lr_scheduler=scheduler, optimizer=optimizer)
    rates, marks = [], []
    while not control.should_training_stop and len(rates) < 10_000:
        clock.on_step_begin(args, state, control)
        time.now += step_seconds(time.now) + (first_seconds if not rates else 0)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        clock.on_optimizer_step(args, state, control)
        scheduler.step()
        state.global_step += 1
        clock.on_step_end(args, state, control)
        if control.should_save:
            (folder / f"checkpoint-{state.global_step}").mkdir()
            clock.on_save(args, state, control)
            marks.append(clock.progress)
        if control.should_evaluate:
            time.now += mark_seconds
        control.should_evaluate = control.should_save = False
        if stop_at and time.now > stop_at:
            break
    return rates, marks


@pytest.mark.parametrize("slow_down", [1.0, 3.0], ids=["steady", "slower on the way"])
@pytest.mark.parametrize("step", [0.05, 0.5, 4.0])
def test_ends_in_time_with_the_rate_decayed(step, slow_down, tmp_path):
    time = FakeTime(20.0)
    clock = Clock(3, 0.6, 10**9, finish_seconds=6, seconds=time)
    rates, marks = run(clock, time, lambda now: step * (slow_down if now > 80 else 1), 15.0, folder=tmp_path)
    assert 180 * 0.95 < time.now + 6 < 180 * 1.05
    assert max(rates) == pytest.approx(1.0, abs=0.1)
    assert rates[-1] < 0.15  # steps of 12 s
    assert all(b <= a for a, b in zip(rates[len(rates) // 2 :], rates[len(rates) // 2 + 1 :], strict=False))
    assert marks == pytest.approx([0.25, 0.5, 0.75], abs=0.1)


@pytest.mark.parametrize(
    ("eval_share", "save_share", "evaluations", "saves"),
    [(0.5, 0.1, 1, 9), (0.1, 0.5, 9, 1), (100, 0.5, 0, 1), (0.25, 100, 3, 0), (0.9, 1, 1, 0)],
)
def test_evaluates_and_saves_by_their_own_shares(eval_share, save_share, evaluations, saves):
    clock, found = (
        Clock(3, 0.6, 10**9, 6, eval_share, save_share, seconds=FakeTime(0.0)),
        {"evaluate": 0, "save": 0},
    )
    for progress in range(101):
        clock.progress = progress / 100
        for what in found:
            found[what] += clock.pass_marks(what)
    assert found == {"evaluate": evaluations, "save": saves}


def test_a_pause_that_only_saves_says_nothing_of_the_end(tmp_path):
    time = FakeTime(5.0)
    clock = Clock(3, 0.6, 10**9, 7, 1, 0.5, seconds=time)
    run(clock, time, lambda now: 0.5, mark_seconds=6.0, folder=tmp_path)
    assert clock.pause_seconds is None
    assert 180 * 0.95 < time.now < 180 * 1.02


def test_a_pause_that_was_slow_by_chance_ends_no_run_early(tmp_path):
    time = FakeTime(5.0)
    clock = Clock(3, 0.6, 10**9, 6, 0.5, 1, seconds=time)
    run(clock, time, lambda now: 0.5, mark_seconds=40.0, folder=tmp_path)
    assert clock.pause_seconds == pytest.approx(9)  # a twentieth of the time
    assert time.now - 40 == pytest.approx(180 - 9 - 6, abs=1)  # the last step's end


@pytest.mark.parametrize("eval_share", [0.25, 0.5, 1])
def test_a_long_evaluation_at_the_end_is_counted_once(tmp_path, eval_share):
    time = FakeTime(5.0)
    clock = Clock(5, 0.6, 10**9, 3, eval_share, 1, finish_steps=8, seconds=time)
    run(clock, time, lambda now: 3.0, mark_seconds=24.0, folder=tmp_path)
    assert time.now + 3 == pytest.approx(300, abs=2)


def test_text_that_is_used_up_ends_the_run_early_and_decayed(tmp_path):
    time = FakeTime(5.0)
    rates, _ = run(Clock(10, 0.5, 100, 6, seconds=time), time, lambda now: 0.1, folder=tmp_path)
    assert len(rates) == 100
    assert rates[-1] < 0.05
    assert time.now < 60


def test_resumed_run_goes_on_with_the_time_that_was_left(tmp_path):
    time = FakeTime(10.0)
    run(Clock(2, 0.6, 10**9, 6, seconds=time), time, lambda now: 0.5, folder=tmp_path, stop_at=70)
    checkpoint = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    later = FakeTime(8.0)  # a new process, 8 seconds old
    clock = Clock(2, 0.6, 10**9, 6, seconds=later)
    clock.resume(str(checkpoint))
    assert clock.marks == {"evaluate": [0.75], "save": [0.75]}
    assert clock.progress == pytest.approx(0.5, abs=0.05)
    (tmp_path / "second").mkdir()
    rates, _ = run(clock, later, lambda now: 0.5, folder=tmp_path / "second")
    assert rates[0] == pytest.approx(0.83, abs=0.15)
    assert 120 * 0.93 < clock.elapsed() < 120 * 1.02


def test_all_processes_take_the_same_steps_whatever_their_own_clocks_say(tmp_path, monkeypatch):
    """The second is younger, and sees another length of the pause at the mark; what the first says counts for both."""
    said = []
    monkeypatch.setattr(clock_module.dist, "broadcast", lambda value, source: said.append(value.item()))
    time = FakeTime(20.0)
    (tmp_path / "first").mkdir()
    first = run(Clock(3, 0.6, 10**9, 6, seconds=time), time, lambda now: 0.5, folder=tmp_path / "first", processes=2)

    heard = iter(said)
    monkeypatch.setattr(clock_module.dist, "broadcast", lambda value, source: value.fill_(next(heard)))
    time = FakeTime(5.0)
    (tmp_path / "second").mkdir()
    clock = Clock(3, 0.6, 10**9, 6, seconds=time)
    second = run(clock, time, lambda now: 0.7, mark_seconds=20.0, folder=tmp_path / "second", processes=2)
    assert len(first[0]) > 100
    assert second == first
    assert next(heard, None) is None


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_share_stays_between_zero_and_one(progress, warmup, decay):
    assert 0 <= rate_share(progress, warmup, decay) <= 1
    if decay > 0:
        assert rate_share(1.0, warmup, decay) == 0
