"""Turns of many threads: fair, whole, and none is lost when one is interrupted."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from chat_utils.runtimes import scheduler
from chat_utils.runtimes.scheduler import OneThread, Turns, _Turn


def make_session(name: str, can_share: bool = True) -> SimpleNamespace:
    return SimpleNamespace(name=name, can_share=can_share, drawn=0)


def run_threads(turns: Turns, sessions: list, steps: int) -> dict[str, list]:
    """Have a thread for each session take its steps; return how many each had after each step."""
    got: dict[str, list] = {session.name: [] for session in sessions}

    def work(session) -> None:
        for _ in range(steps):
            turns.step(session)
            got[session.name].append(session.drawn)

    threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    return got


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def draw(sessions: list) -> None:
    for session in sessions:
        session.drawn += 1


def compute_slowly(batches: list, seconds: float = 0.002):
    def compute(sessions: list) -> None:
        batches.append([session.name for session in sessions])
        time.sleep(seconds)
        draw(sessions)

    return compute


def test_one_at_a_time_in_fair_turns():
    """While all four wait for each step of another, none has two steps more than another."""
    batches: list[list[str]] = []
    left = dict.fromkeys("abcd", 25)

    def compute(batch: list) -> None:
        batches.append([session.name for session in batch])
        for session in batch:
            left[session.name] -= 1
        others = [name for name, steps in left.items() if steps and name not in batches[-1]]
        wait_until(lambda: len(turns._waiting) == len(others))
        draw(batch)

    turns = Turns(compute)
    sessions = [make_session(name) for name in "abcd"]
    assert run_threads(turns, sessions, 25) == {name: list(range(1, 26)) for name in "abcd"}
    assert all(len(batch) == 1 for batch in batches)
    order = [name for (name,) in batches]
    assert all(sorted(order[turn : turn + 4]) == list("abcd") for turn in range(0, 100, 4))


def test_those_who_can_share_compute_together(monkeypatch):
    monkeypatch.setattr(scheduler, "PATIENCE", 50.0)  # so that a busy machine wakes all of them in time
    batches: list[list[str]] = []
    sessions = [make_session(name) for name in "abcd"] + [make_session("x", can_share=False)]
    got = run_threads(Turns(compute_slowly(batches), limit=4), sessions, 25)
    assert got == {name: list(range(1, 26)) for name in "abcdx"}
    assert all(batch == ["x"] for batch in batches if "x" in batch)
    shared = [batch for batch in batches if "x" not in batch]
    assert max(len(batch) for batch in shared) == 4
    assert len(shared) < 50  # 25 where all are always there, 100 where none waits for another


def test_a_lone_session_never_waits(monkeypatch):
    turns = Turns(compute_slowly([], 0.0), limit=8)
    session = make_session("a")
    monkeypatch.setattr(turns._arrived, "wait", None)
    for _ in range(20):
        turns.step(session)
    assert session.drawn == 20


def test_one_thread_computes_for_all_others():
    where = OneThread(threading.get_ident)
    assert where() == threading.get_ident()  # the main thread's own
    with ThreadPoolExecutor(4) as threads:
        callers = set(threads.map(lambda _: threading.get_ident(), range(20)))
        computed = set(threads.map(lambda _: where(), range(20)))
    assert len(computed) == 1
    assert not computed & {threading.get_ident(), *callers}


def test_error_is_for_the_one_that_causes_it_and_others_go_on():
    def compute(sessions: list) -> None:
        time.sleep(0.001)
        if any(session.name == "bad" for session in sessions):
            raise ValueError("bad")
        draw(sessions)

    turns = Turns(compute, limit=4)
    caught = []

    def fail() -> None:
        for _ in range(5):
            with pytest.raises(ValueError, match="bad"):
                turns.step(make_session("bad"))
            caught.append(True)

    thread = threading.Thread(target=fail, daemon=True)
    thread.start()
    good = make_session("good")
    for number in range(20):
        turns.step(good)
        assert good.drawn == number + 1
    thread.join(timeout=10)
    assert len(caught) == 5
    turns.step(good)
    assert good.drawn == 21


def test_interrupted_wait_leaves_no_gap():
    started, go_on = threading.Event(), threading.Event()

    def compute(sessions: list) -> None:
        started.set()
        go_on.wait(10)
        draw(sessions)

    turns = Turns(compute)
    first = threading.Thread(target=turns.step, args=(make_session("a"),), daemon=True)
    first.start()
    started.wait(10)
    waiting = make_session("b")

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            go_on.set()
            first.join(10)  # by now it has passed the lead on to this turn
            raise KeyboardInterrupt

    event, threading.Event = threading.Event, Interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            turns.step(waiting)
    finally:
        threading.Event = event
    turns.step(waiting)
    assert waiting.drawn == 1


def test_who_leaves_a_step_that_then_fails_holds_nobody_up():
    """It was gathered already: given back to the queue, it would be told to lead, and nobody would."""
    started, go_on = threading.Event(), threading.Event()

    def compute(sessions: list) -> None:
        if len(sessions) > 1:
            started.set()
            go_on.wait(10)
            raise ValueError("all of them")
        draw(sessions)

    turns = Turns(compute, limit=2)
    left, leader, late = (make_session(name) for name in ("left", "leader", "late"))
    waiting = _Turn(left)
    turns._waiting.append(waiting)
    thread = threading.Thread(target=turns.step, args=(leader,), daemon=True)
    thread.start()
    started.wait(10)
    turns._leave(waiting)  # what Ctrl-C does to who waits
    go_on.set()
    thread.join(10)
    other = threading.Thread(target=turns.step, args=(late,), daemon=True)
    other.start()
    other.join(10)
    assert (left.drawn, leader.drawn, late.drawn) == (0, 1, 1)
