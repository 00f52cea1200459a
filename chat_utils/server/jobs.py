"""Schedules requests: some replies run at once, each in a thread, the others wait in order of arrival."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from chat_utils.engine import Engine
from chat_utils.reply import Reply
from chat_utils.sampling import Sampling
from chat_utils.server.api_error import ApiError
from chat_utils.server.openai_requests import Request
from data_utils.dialogue.checking import DialogueError
from errors import InputError


class HangUpError(Exception):
    """The caller left before the reply was whole."""


class Event(NamedTuple):
    """What a thread tells of a choice: a piece of text, or what went wrong; no piece: the choice has ended."""

    index: int
    piece: str | None
    error: BaseException | None = None


class Job:
    """The replies to one request while they are made; `texts` holds what was said so far, a text for each choice."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.replies: list[Reply | None] = [None] * len(request.choices())
        self.texts = [""] * len(self.replies)
        self.cancelled = threading.Event()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._first: list[Event] = []
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event) -> None:
        """Hand an event from a thread to whoever reads."""
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody reads
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """End the replies before their next turn, a part of a prompt too; what waits is never begun."""
        self.cancelled.set()
        for reply in self.made():
            reply.cancel()
        self.tell(Event(0, None, HangUpError()))

    def made(self) -> list[Reply]:
        """Return the replies that were begun: all of them once `read` is through."""
        return [reply for reply in self.replies if reply is not None]

    @property
    def has_more(self) -> bool:
        """Whether `read` has something to yield at once."""
        return not self._events.empty()

    async def begin(self) -> None:
        """Wait until the first piece is there; raises what went wrong before it."""
        event = await self._events.get()
        if event.error is not None:
            raise event.error
        self._first = [event]

    async def read(self) -> AsyncIterator[tuple[int, str | None]]:
        """Yield (choice, piece) as they come, and (choice, None) where one has ended; raises what went wrong."""
        left = len(self.replies)
        while left:
            index, piece, error = self._first.pop() if self._first else await self._events.get()
            if error is not None:
                raise error
            left -= piece is None
            self.texts[index] += piece or ""
            yield index, piece


class Jobs:
    """Admits requests: `slots` replies run at once, `max_queue` wait, more are refused with 429.

    The engine shares its time out between the replies that are open.
    """

    def __init__(self, engine: Engine, slots: int, max_queue: int) -> None:
        self.engine, self.slots, self.max_queue = engine, slots, max_queue
        self.open = 0  # replies that run or wait
        self._pool = ThreadPoolExecutor(slots, "reply")

    def start(self, request: Request) -> Job:
        """Queue the replies to a request; raises ApiError where the queue is full."""
        choices = request.choices()
        if self.open + len(choices) > self.slots + self.max_queue:
            raise ApiError(429, "the server is busy; try again in a moment", code="rate_limit_exceeded")
        job = Job(request)
        self.open += len(choices)
        for index, (asked, sampling) in enumerate(choices):
            future = asyncio.wrap_future(self._pool.submit(self._make_reply, job, index, asked, sampling))
            future.add_done_callback(self._count_down)
        return job

    def _count_down(self, _) -> None:
        self.open -= 1

    def _make_reply(self, job: Job, index: int, asked: list | str, sampling: Sampling) -> None:
        """Make one reply, in a thread of the pool."""
        if job.cancelled.is_set():
            return
        try:
            group = job.request.cache_group
            if isinstance(asked, str):
                begun = self.engine.complete(asked, sampling, group)
            else:
                dropped = job.request.dropped_messages
                begun = self.engine.reply_cleaned(asked, sampling, dropped=dropped, cache_group=group)
            with begun as reply:
                job.replies[index] = reply
                if job.cancelled.is_set():  # while it was begun: nobody has told the reply
                    return
                for piece in reply:
                    job.tell(Event(index, piece))
            job.tell(Event(index, None))
        except (DialogueError, InputError) as error:
            place, code = "messages" if job.request.kind == "chat" else "prompt", getattr(error, "code", None)
            job.tell(Event(index, None, ApiError(400, str(error), place, code=code)))
        except BaseException as error:  # a panic of tokenizers is no Exception, and the caller waits for it as well
            job.tell(Event(index, None, error))

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
