"""Checks the API key; an address that sends wrong ones is slowed down and named in the log."""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections import Counter, deque

from starlette.requests import Request

from chat_utils.server.api_error import ApiError

FREE_FAILURES = 10  # within FAILURE_SECONDS; after more, keys from that address wait to be compared
FAILURE_SECONDS = 60
WAIT_SECONDS = 1.0
MAX_WAITING = 8  # of an address: so many keys a WAIT_SECONDS are tried at most, be they right or wrong
log = logging.getLogger("chat")


def name_network(host: str | None) -> str:
    """Return the address whose failures count together: of IPv6 the network that one caller is given.

    >>> name_network("192.0.2.7"), name_network("2001:db8::7"), name_network("x\\n")
    ('192.0.2.7', '2001:db8::/64', 'unknown')
    """
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return "unknown"
    address = getattr(address, "ipv4_mapped", None) or address
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


class KeyCheck:
    """Compares the keys of requests with the server's; None: there is none, and all may call."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key
        self._failed: deque[tuple[float, str]] = deque(maxlen=1000)  # when and from where
        self._waiting: Counter[str] = Counter()

    async def check(self, request: Request) -> None:
        """Raise ApiError: 401 for a wrong key, 429 where too many came; comparing takes as long for any key."""
        if self._api_key is None:
            return
        address = name_network(request.client.host if request.client else None)
        if self._count_failures(address) >= FREE_FAILURES:
            await self._slow_down(address)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._api_key.encode()):
            return
        self._failed.append((time.monotonic(), address))
        log.warning("wrong or no key from %s, %d in a minute", address, self._count_failures(address))
        message = "the API key is missing or wrong; send 'Authorization: Bearer KEY'"
        raise ApiError(401, message, code="invalid_api_key")

    def _count_failures(self, address: str) -> int:
        since = time.monotonic() - FAILURE_SECONDS
        return sum(when > since and where == address for when, where in self._failed)

    async def _slow_down(self, address: str) -> None:
        """Wait; raises ApiError where others of the same address wait already."""
        if self._waiting[address] >= MAX_WAITING:
            raise ApiError(429, "too many wrong keys came from this address; wait a minute", code="rate_limit_exceeded")
        self._waiting[address] += 1
        try:
            await asyncio.sleep(WAIT_SECONDS)
        finally:
            self._waiting[address] -= 1
            self._waiting = +self._waiting  # without the zeros
