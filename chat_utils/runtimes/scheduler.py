"""Scheduler: decodes several replies in fair turns, a token each, one after the other or several in one step."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 0.25  # of the last step's time: how long a step waits for those who shared the last ones


class OneThread:
    """A function that is always called on one thread: the main one, or else one of its own.

    OpenMP (PyTorch, llama.cpp) keeps a team for each thread that calls it, and all go to sleep at each barrier where
    the teams outnumber the processors: four times as slow, measured with llama.cpp on two.
    """

    def __init__(self, function: Callable) -> None:
        self._function = function
        self._executor = ThreadPoolExecutor(1, "decoder")
        self._main = threading.main_thread().ident

    def __call__(self, *args):
        """Call the function there, and wait for what it returns."""
        if threading.get_ident() == self._main:
            return self._function(*args)
        return self._executor.submit(self._function, *args).result()


class _Turn:
    """One wish for a step, and whether it was computed."""

    def __init__(self, session) -> None:
        self.session = session
        self.ready = threading.Event()  # it was computed, or it is its turn to compute
        self.is_done = False


class Turns:
    """Runs `compute(sessions)` for the threads that call `step`.

    No thread of its own: who waits longest computes, for itself and for up to `limit` others whose sessions `can_share`
    a step. A lone reply pays nothing.
    """

    def __init__(self, compute: Callable[[list], None], limit: int = 1) -> None:
        self._compute, self._limit = compute, limit
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._waiting: deque[_Turn] = deque()
        self._is_busy = False
        self._shared_last: list[list] = [[], []]  # the sessions of the last two steps
        self._step_seconds = 0.0

    @property
    def has_waiting(self) -> bool:
        """Whether anybody waits for a step."""
        return bool(self._waiting)

    def step(self, session) -> None:
        """Compute the next step of `session`, after those that asked before."""
        with self._lock:
            is_alone = not self._is_busy and (self._limit == 1 or not session.can_share)
            self._is_busy = self._is_busy or is_alone
        if is_alone:  # the common case, without what the others need
            try:
                self._compute([session])
            finally:
                with self._lock:
                    self._pass_on()
            return
        turn = _Turn(session)
        with self._lock:
            self._waiting.append(turn)
            self._arrived.notify()
            if not self._is_busy:
                self._is_busy = True
                turn.ready.set()
        try:
            turn.ready.wait()
        except BaseException:  # Ctrl-C while others compute
            self._leave(turn)
            raise
        if not turn.is_done:
            self._lead(turn)

    def _lead(self, own: _Turn) -> None:
        """Compute for those who wait, `own` among them, and pass the lead on."""
        batch = [own]
        try:
            with self._lock:
                self._waiting.remove(own)
                if self._limit > 1 and own.session.can_share:
                    batch += self._gather(own)
            started = time.perf_counter()
            try:
                self._compute([turn.session for turn in batch])
                computed = batch
            except Exception:
                if len(batch) == 1:
                    raise
                for turn in batch:  # each by itself from now on, so that the error is for the one that caused it
                    turn.session.can_share = False
                self._compute([own.session])
                computed = [own]
            for turn in computed:
                turn.is_done = True
            self._step_seconds = time.perf_counter() - started
        finally:
            with self._lock:
                if own in self._waiting:
                    self._waiting.remove(own)
                # Those who were not served, since computing failed, try by themselves.
                self._waiting.extendleft(turn for turn in reversed(batch) if not turn.is_done and turn is not own)
                self._pass_on()
            for turn in batch:
                if turn.is_done:
                    turn.ready.set()

    def _gather(self, own: _Turn) -> list[_Turn]:
        """Take the turns that share the step of `own`; wait a moment for those who shared the last ones."""
        expected = {id(session) for sessions in self._shared_last for session in sessions} - {id(own.session)}

        def is_complete() -> bool:
            arrived = {id(turn.session) for turn in self._waiting}
            return expected <= arrived or len(arrived) >= self._limit - 1

        self._arrived.wait_for(is_complete, PATIENCE * self._step_seconds)
        taken = [turn for turn in self._waiting if turn.session.can_share][: self._limit - 1]
        for turn in taken:
            self._waiting.remove(turn)
        self._shared_last = [self._shared_last[1], [own.session, *(turn.session for turn in taken)]]
        return taken

    def _leave(self, turn: _Turn) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                if turn.ready.is_set():  # it was to lead
                    self._pass_on()
            else:  # it is computed now, or was; not again where that fails
                turn.is_done = True

    def _pass_on(self) -> None:
        self._is_busy = bool(self._waiting)
        if self._waiting:
            self._waiting[0].ready.set()
