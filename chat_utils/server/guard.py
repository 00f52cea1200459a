"""Refuses what pages of other origins send, and bounds the bodies of requests in size, time and sum."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from chat_utils.server.api_error import ApiError
from chat_utils.server.settings import ServerOptions

SMALL_BODY_BYTES = 64 * 2**10  # read even where others fill the room for bodies
DRAINED_BYTES = 64 * 2**20  # of a body too large, so that its sender hears why

# Nothing of another host is loaded, nothing written into the page is run, and no other page frames it.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def read_netloc(text: str) -> tuple[str, int | None]:
    """Return (name, port) of a Host header; ("", None) where it is none.

    >>> read_netloc("[::1]:8000"), read_netloc("Chat.local"), read_netloc("a b:x"), read_netloc("127.0.0.1?x")
    (('::1', 8000), ('chat.local', None), ('', None), ('', None))
    """
    try:
        parts = urlsplit(f"//{text}")
        return ("", None) if set(text) & set("/?#@\\ \t") else (parts.hostname or "", parts.port)
    except ValueError:
        return "", None


def is_own_name(name: str, allowed_hosts: list[str]) -> bool:
    """Tell whether a host name can only mean this machine.

    A page that lets its own name point here (DNS rebinding) needs a name: an address is safe, and so is a name that is
    this machine's or was allowed.

    >>> [is_own_name(name, ["chat.example.org"]) for name in ("127.0.0.1", "localhost", "chat.example.org", "evil.com")]
    [True, True, True, False]
    """
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name in {"localhost", socket.gethostname().lower(), *(host.lower() for host in allowed_hosts)}


def check_origin(request: Request, allowed_hosts: list[str]) -> None:
    """Raise ApiError (403) for what a page of another origin sends, whatever a browser lets it send."""
    host = request.headers.get("host", "")
    is_nameless = "host" not in request.headers  # HTTP/1.0, as load balancers ask; browsers always name one
    if not is_nameless and not is_own_name(read_netloc(host)[0], allowed_hosts):
        raise ApiError(403, f"the host {host[:100]!r} is not this server's; name it with --allowed_hosts", code="host")
    origin = request.headers.get("origin")
    is_other = origin is not None and read_netloc(urlsplit(origin).netloc) != read_netloc(host)
    is_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    if is_other or (not is_link and request.headers.get("sec-fetch-site") in ("cross-site", "same-site")):
        raise ApiError(403, "pages of other origins may not use this server", code="origin")


class BodyReader:
    """Reads the bodies of requests, of which all together no more than `max_held_bytes` are held at once."""

    def __init__(self, options: ServerOptions) -> None:
        self._options, self._held = options, 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncGenerator[bytes]:
        """Hold the body of a request.

        Raises ApiError where it is too large (413), comes too slowly (408), or has no room beside the others (429).
        """
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._options.body_seconds):
                await self._collect(request, parts)
            yield b"".join(parts)
        except TimeoutError as error:
            raise ApiError(408, f"the body did not arrive within {self._options.body_seconds:g} seconds") from error
        except ClientDisconnect as error:
            raise ApiError(400, "the client left before its body was whole") from error
        finally:
            self._held -= sum(map(len, parts))

    async def _collect(self, request: Request, parts: list[bytes]) -> None:
        size, most = 0, self._options.max_body_bytes
        told = request.headers.get("content-length", "")
        if told.isdecimal() and int(told) > max(most, DRAINED_BYTES):
            raise ApiError(413, f"the body has more than {most:,} bytes", code="request_too_large")
        async for part in request.stream():
            size += len(part)
            if size <= most:
                parts.append(part)
                self._held += len(part)
                if size > SMALL_BODY_BYTES and self._held > self._options.max_held_bytes:
                    raise ApiError(429, "too many large requests at once; try again in a moment",
                                   code="rate_limit_exceeded")  # fmt: skip
            elif size > DRAINED_BYTES:
                break
        if size > most:
            raise ApiError(413, f"the body has more than {most:,} bytes", code="request_too_large")
