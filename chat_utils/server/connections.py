"""Bounds what a connection may take: deadlines for a head and for reading the answer, and a number of connections.

uvicorn has a deadline only between two requests (its issue 157), so that connections which send nothing stay for ever.
"""

import asyncio
from functools import partial

from uvicorn.protocols.http.h11_impl import H11Protocol

from chat_utils.server.settings import ServerOptions

RESERVED_FILES = 64  # that the process opens beside its connections


def count_connections(wanted: int) -> int:
    """Return how many connections the system lets this process have open, `wanted` at most; raises its limit to that.

    Without it a server that is out of file numbers accepts nobody until one of them leaves.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in (resource.RLIM_INFINITY, hard) and soft < wanted + RESERVED_FILES:
        soft = wanted + RESERVED_FILES if hard == resource.RLIM_INFINITY else min(hard, wanted + RESERVED_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED_FILES))


class BoundedProtocol(H11Protocol):
    """One connection of an HTTP/1.1 server; `idle`, shared by all, holds those without a request, oldest first."""

    def __init__(self, *args, options: ServerOptions, limit: int, idle: dict, **more) -> None:
        super().__init__(*args, **more)
        self._options, self._limit, self._idle = options, limit, idle
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for a request; where there are too many connections, the one that waits longest for its own goes."""
        super().connection_made(transport)
        self._follow()
        if len(self.connections) > self._limit:
            oldest = next(iter(self._idle), self)
            oldest._forget()
            self.connections.discard(oldest)  # counted no more, although it is gone only in the loop's next turn
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request."""
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._follow()

    def _follow(self) -> None:
        """Have the deadline run while no request is being answered; what arrives in between doesn't move it."""
        if self.transport.is_closing():
            self._forget()
            self._abort_later()  # what was written waits for a caller who may read nothing
        elif self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._options.head_seconds, self.timeout_keep_alive_handler)
            self._idle[self] = None

    def _forget(self) -> None:
        self._idle.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _abort_later(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._options.write_seconds, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, for which no whole head came in time."""
        super().timeout_keep_alive_handler()
        self._follow()

    def pause_writing(self) -> None:
        """Cut a caller off who reads nothing of what waits for it."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """Go on: the caller has read."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._end_write_timer()

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        super().connection_lost(exc)
        self._forget()
        self._end_write_timer()


def bound_connections(options: ServerOptions) -> tuple[partial, int]:
    """Return the protocol for uvicorn's configuration, and how many connections there may be."""
    limit = count_connections(options.max_connections)
    return partial(BoundedProtocol, options=options, limit=limit, idle={}), limit
