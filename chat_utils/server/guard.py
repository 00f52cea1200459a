"""Who may use the server: pages of other origins may not, nor who lacks the key; and the size of what is sent."""

import asyncio
import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from chat_utils.server.openai_requests import ApiError

BODY_SECONDS = 30  # who sends more slowly is cut off
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

    >>> read_netloc("[::1]:8000"), read_netloc("Chat.local"), read_netloc("a b:x")
    (('::1', 8000), ('chat.local', None), ('', None))
    """
    try:
        parts = urlsplit(f"//{text}")
        return ("", None) if parts.path or parts.username or " " in text else (parts.hostname or "", parts.port)
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
    if not is_own_name(read_netloc(host)[0], allowed_hosts):
        raise ApiError(403, f"the host {host[:100]!r} is not this server's; name it with --allowed_hosts", code="host")
    origin = request.headers.get("origin")
    if origin is not None and read_netloc(urlsplit(origin).netloc) != read_netloc(host):
        raise ApiError(403, "pages of other origins may not use this server", code="origin")
    is_link = request.method == "GET" and request.headers.get("sec-fetch-mode") == "navigate"
    if not is_link and request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise ApiError(403, "pages of other origins may not use this server", code="origin")


def check_key(request: Request, api_key: str | None) -> None:
    """Raise ApiError (401) where a key is asked for and another is given; the time it takes tells nothing about it."""
    if api_key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), api_key.encode()):
        raise ApiError(401, "the API key is missing or wrong; send 'Authorization: Bearer KEY'", code="invalid_api_key")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body; raises ApiError where it has more than `max_bytes` (413) or comes too slowly (408)."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size <= max_bytes:
                    parts.append(part)
                elif size > DRAINED_BYTES:
                    break
    except TimeoutError as error:
        raise ApiError(408, f"the body did not arrive within {BODY_SECONDS} seconds") from error
    except ClientDisconnect as error:
        raise ApiError(400, "the client left before its body was whole") from error
    if size > max_bytes:
        raise ApiError(413, f"the body has more than {max_bytes:,} bytes", code="request_too_large")
    return b"".join(parts)
