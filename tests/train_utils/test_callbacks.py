"""What happens beside the steps: samples that must not cost too much, signals, progress in a log."""

import contextlib
import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

from errors import RunError
from train_utils import callbacks, clock
from train_utils.callbacks import SIGNAL_STEPS, Progress, Samples, StopOnDivergence, StopOnSignal, leave_lost_terminal
from train_utils.clock import Stopwatch
from train_utils.run import Run
from train_utils.samples import continue_prompts


def test_samples_use_one_thread_and_give_the_others_back(tiny_checkpoint, tokenizer, monkeypatch):
    model, used = AutoModelForCausalLM.from_pretrained(tiny_checkpoint), []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: used.append(torch.get_num_threads()) or generate(**given))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = continue_prompts(model, tokenizer, [("Hello", [5, 6]), ("你好", [7])], max_new_tokens=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [1, 1]
    assert [shown for shown, _ in found] == ["Hello", "你好"]


@pytest.mark.parametrize(
    ("cost", "shown"),
    [(0.5, [0, 25, 50, 75, 100]), (3, [0, 100])],
    ids=["cheap", "a slow machine"],
)
def test_samples_that_cost_too_much_are_shown_first_and_last_alone(monkeypatch, cost, shown):
    now, found = [60.0], []
    monkeypatch.setattr(clock, "process_seconds", lambda: now[0])
    state, model = TrainerState(is_world_process_zero=True, max_steps=100), torch.nn.Linear(1, 1)

    def generate(_):
        now[0] += cost
        found.append(state.global_step)
        return [("Hello", str(state.global_step))]

    watch = Stopwatch()
    samples = Samples(generate, "eval_zh", watch)
    for step in range(0, 101, 25):
        state.global_step = step
        now[0] += 30
        watch.lap("steps")
        for name in ("en", "zh"):  # after the last part alone
            metrics = {f"eval_{name}_loss": 1.0}
            samples.on_evaluate(SimpleNamespace(seed=0), state, TrainerControl(), metrics=metrics, model=model)
    assert found == shown
    assert samples.last == [("Hello", "100")]
    assert watch.seconds["samples"] == pytest.approx(cost * len(shown))


def test_no_words_of_a_corpus_or_a_base_are_commands_to_the_terminal(capsys):
    evil = "a\x1b]0;b\x07\u202ec\nd"
    samples = Samples(lambda model: [(evil, evil)], "eval", Stopwatch())
    args = SimpleNamespace(seed=0)
    state, control = SimpleNamespace(global_step=1, max_steps=1, is_world_process_zero=True), SimpleNamespace()
    control.should_training_stop = True
    samples.on_evaluate(args, state, control, metrics={"eval_loss": 1.0}, model=torch.nn.Linear(1, 1))
    callbacks.show_line(None, evil)
    Run("train.py", SimpleNamespace(process_index=0)).say(evil)
    said = capsys.readouterr().out
    safe = r"a\x1b]0;b\x07\u202ec"
    assert said.splitlines() == [f"    {safe}⏎d → {safe}⏎d", safe, "d", safe, "d"]


# Progress and divergence


def test_the_first_step_which_compiles_counts_in_no_speed():
    shown = Progress(1000, 6e6, 24e9, bytes_per_token=4.0, clock=None, watch=Stopwatch())
    shown.step_seconds = [50.0]
    assert shown.figures(1.0)["tokens_per_second"] == 20  # there is no other
    shown.step_seconds += [1.0] * 3 + [2.0] * 3
    rates = [shown.figures(1.0, last)["tokens_per_second"] for last in (0, 3, 6, 10)]
    assert rates == [pytest.approx(1000 * 6 / 9), 500, pytest.approx(1000 * 6 / 9), pytest.approx(1000 * 6 / 9)]


@pytest.mark.parametrize(("progress", "left"), [(None, "01:10"), (0.0, "01:10"), (0.5, "00:30")])
def test_a_log_says_the_time_left(monkeypatch, capsys, progress, left):
    """30 steps of 100 are done, one a second, the last ones slower; the clock, if any, says half is over."""
    monkeypatch.setattr(callbacks.sys.stderr, "isatty", lambda: False)
    clock = None if progress is None else SimpleNamespace(progress=progress)
    shown = Progress(1000, 6e6, 24e9, bytes_per_token=4.0, clock=clock, watch=Stopwatch())
    args, state = SimpleNamespace(logging_steps=10, disable_tqdm=False), TrainerState(max_steps=100)
    shown.on_train_begin(args, state, None)
    shown.step_seconds, shown.last_line = [50.0] + [0.5] * 20 + [2.0] * 10, float("-inf")
    state.global_step, state.log_history = 30, [{}]
    shown.on_log(args, state, None, logs={"loss": 4 * math.log(2)})
    expected = f"step 30, 1.000 bits a byte, 12% of peak, 500 tokens a second, {left} left\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(("loss", "fp16", "ends"), [(math.nan, False, True), (math.inf, False, True),
                                                    (math.nan, True, False), (9.0, False, False)])  # fmt: skip
def test_a_loss_that_is_no_number_ends_the_run(loss, fp16, ends):
    told = pytest.raises(RunError, match=r"step 7: the loss is (nan|inf) \(.* until step 5\): the training has")
    stop = StopOnDivergence()
    stop.on_log(SimpleNamespace(fp16=fp16), TrainerState(global_step=5), None, logs={"loss": 1.0})
    for name in ("loss", "train_loss"):
        with told if ends else contextlib.nullcontext():
            stop.on_log(SimpleNamespace(fp16=fp16), TrainerState(global_step=7), None, logs={name: loss})


@pytest.mark.parametrize("fp16", [True, False])
def test_an_evaluation_that_is_no_number_ends_the_run(fp16):
    with pytest.raises(RunError, match=r"step 7: the held-out loss is nan \(.*\): the training has diverged"):
        StopOnDivergence().on_log(
            SimpleNamespace(fp16=fp16), TrainerState(global_step=7), None, logs={"eval_zh_loss": math.nan}
        )


@pytest.mark.parametrize("when", ["on_save", "on_train_end"])
@pytest.mark.parametrize(("value", "ends"), [(math.nan, True), (math.inf, True), (3e38, False)])
def test_weights_that_are_no_numbers_are_never_kept(when, value, ends):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].bias.data[0] = value
    with pytest.raises(RunError, match=r"step 7: 1 weights, 1.bias first, are") if ends else contextlib.nullcontext():
        getattr(StopOnDivergence(), when)(None, TrainerState(global_step=7), None, model=model)


# Signals


@pytest.fixture
def stop():
    """A StopOnSignal; the handlers that were there are given back."""
    hang_up = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # not on Windows
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, *hang_up)}
    for number in hang_up:
        signal.signal(number, signal.SIG_DFL)
    yield StopOnSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


def end_step(stop: StopOnSignal, step: int, processes: int = 1, is_last: bool = False) -> TrainerControl:
    """Tell that a step has ended; return what is asked of Trainer."""
    control = TrainerControl(should_training_stop=is_last)
    stop.on_step_end(SimpleNamespace(world_size=processes, device="cpu"), TrainerState(global_step=step), control)
    return control


def test_a_signal_saves_and_stops_and_only_then_it_is_called_saved(stop):
    assert not end_step(stop, 1).should_training_stop
    signal.raise_signal(signal.SIGTERM)
    stop.on_save(None, None, None)  # of the mark that was just reached: training goes on after it
    assert not stop.saved
    control = end_step(stop, 2)
    assert (control.should_training_stop, control.should_save, stop.saved) == (True, True, False)
    stop.on_save(None, None, None)
    assert (stop.saved, stop.received) == (True, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):  # asked twice
        signal.raise_signal(signal.SIGINT)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_closed_terminal_saves_unless_it_is_ignored(stop):
    for _ in range(2):  # by the shell and by the terminal
        signal.raise_signal(signal.SIGHUP)
    assert end_step(stop, 2).should_save
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    later = StopOnSignal()
    signal.raise_signal(signal.SIGHUP)
    assert later.received is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
def test_output_to_a_terminal_that_is_gone_raises_nothing():
    """A write to it would fail, and end the run that is to be saved."""
    here, there = os.openpty()
    kept = os.dup(1)
    try:
        os.dup2(there, 1)
        os.close(there)
        os.close(here)
        with pytest.raises(OSError, match="Input/output"):
            os.write(1, b"x")
        leave_lost_terminal()
        assert os.write(1, b"x") == 1
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_a_signal_in_the_last_step_saves_nothing_more(stop):
    signal.raise_signal(signal.SIGTERM)
    assert not end_step(stop, 7, is_last=True).should_save
    stop.on_save(None, None, None)
    assert not stop.saved


def test_one_process_makes_no_tensor_of_a_signal(stop, monkeypatch):
    """Reading it back from a GPU would wait, at every step, for all that the GPU was given."""
    monkeypatch.setattr(callbacks.torch, "tensor", None)
    assert not end_step(stop, SIGNAL_STEPS).should_save


def test_several_processes_ask_one_another_every_few_steps(stop, monkeypatch):
    asked = []
    monkeypatch.setattr(callbacks.dist, "all_reduce", lambda value, op: asked.append(op) or value.fill_(15))
    controls = [end_step(stop, step, processes=2) for step in range(1, SIGNAL_STEPS + 1)]
    assert [control.should_save for control in controls] == [False] * (SIGNAL_STEPS - 1) + [True]
    assert len(asked) == 1
    assert stop.received == 15  # though another process was asked


def test_a_checkpoint_is_due_by_the_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    stop = StopOnSignal(save_seconds=60)
    for seconds, due in ((30, False), (29, False), (2, True)):
        now[0] += seconds
        assert end_step(stop, 1).should_save is due
    stop.on_save(None, None, None)
    now[0] += 59
    assert not end_step(stop, 2).should_save
    now[0] += 1
    assert not end_step(stop, 4, processes=2).should_save  # until they ask one another


@pytest.mark.parametrize(("saving", "warns"), [(2, False), (40, True)])
def test_who_is_told_to_end_in_30_seconds_says_whether_it_can(stop, monkeypatch, capsys, saving, warns):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    stop.last_step, control, state = 100.0, TrainerControl(should_save=True), TrainerState(global_step=7)
    stop.on_step_end(SimpleNamespace(world_size=1), state, control)
    stop.on_save(None, state, control)
    now[0] += saving
    stop.on_step_begin(None, state, control)
    signal.raise_signal(signal.SIGTERM)
    said = capsys.readouterr().out
    assert ("takes about 40 s" in said and "goes on from step 7" in said) is warns
