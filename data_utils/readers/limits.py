"""Limits what one document may cost in processor time: one that never ends is a fault, and not the end of a run.

A chat template of a stranger's is limited by the same, and in memory.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from data_utils.readers.arguments import current_limits, more_than

REPEAT_SECONDS = 0.1  # the timer rings again: a limit around this one may have passed meanwhile
# Of each limit in force, or of one around it that passes sooner: (processor time at which, its seconds, its words).
_limits: list[tuple[float, float, Callable[[], str] | None]] = []


class OutOfTime(BaseException):
    """A document took too long. It is no Exception, which a library on the way might take for its own."""


class TooManyFaults(OutOfTime):
    """A file holds so many broken rows that it is given up, as one that takes too long is."""


def limit_document(times: float = 1) -> AbstractContextManager[None]:
    """Raise OutOfTime where the work in this context takes more than a document may, or than some times that."""
    return limit_seconds(current_limits().seconds * times, partial(more_than, "seconds"))


@contextmanager
def limit_seconds(seconds: float, words: Callable[[], str] | None = None) -> Generator[None]:
    """Raise OutOfTime where the work in this context takes more than some seconds of processor time; 0: no limit.

    Processor time, so that no document is lost to a busy machine, a slow network or a laptop that slept. Python code
    and its patterns heed the limit. Compiled libraries don't, so what they are given is bounded by size. The timer's
    signal reaches the main thread alone, and Windows has none: there the work has no limit. A context takes 10 us.

    Args:
        words: says what is passed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not (seconds and is_main and hasattr(signal, "setitimer")):
        yield
        return

    def ring(*_: object) -> None:
        if _limits and time.process_time() >= _limits[-1][0]:
            seconds, tell = _limits[-1][1:]
            raise OutOfTime(f"it took {tell() if tell else f'longer than {seconds:g} s'}; left out")

    before = signal.signal(signal.SIGVTALRM, ring)
    _limits.append(min([(time.process_time() + seconds, seconds, words), *_limits[-1:]], key=lambda limit: limit[0]))
    signal.setitimer(signal.ITIMER_VIRTUAL, max(_limits[-1][0] - time.process_time(), 0.001), REPEAT_SECONDS)
    try:
        yield
    finally:
        _limits.pop()
        left = max(_limits[-1][0] - time.process_time(), 0.001) if _limits else 0
        signal.setitimer(signal.ITIMER_VIRTUAL, left, REPEAT_SECONDS)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def limit_memory(more_bytes: int) -> Generator[None]:
    """Raise MemoryError where the work in this context takes so many bytes more than there are; Linux alone can."""
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        more_bytes = min(more_bytes, soft - taken)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
