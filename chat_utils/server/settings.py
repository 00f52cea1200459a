"""The server's options: where it listens, who may call, how much it takes on; checked before a model is loaded."""

import os
import socket
from dataclasses import dataclass
from typing import ClassVar

from chat_utils.sampling import SLOTS
from errors import InputError, needing
from options import Options, option


@dataclass
class ServerOptions(Options):
    """How the server listens, and how much it takes on."""

    NEEDS: ClassVar[str] = "--web or --serve"

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0: every network")
    port: int = option(8000, "Port to listen on; 0: any free one", within=(0, 65535))
    api_key: str | None = option(None, "Key that callers must send; better given as CHAT_API_KEY in the environment")
    slots: int = option(SLOTS, "Replies that are made at once; others wait", within=(1, 1024))
    max_queue: int = option(256, "Replies that may wait; more are refused (429)", within=(0, 1e6))
    max_body_bytes: int = option(4 * 2**20, "Largest request in bytes; above: refused (413)", within=(1024, 2**30))
    max_held_bytes: int = option(
        64 * 2**20, "Requests being read, in bytes; above: large ones refused", within=(1024, 2**40)
    )
    max_connections: int = option(1000, "Open ones; above: the one that waits longest is closed", within=(1, 1e5))
    head_seconds: float = option(10, "A request's head is whole by then, or it is cut off", within=(0.01, 3600))
    body_seconds: float = option(30, "So is its body (408)", within=(0.01, 3600))
    write_seconds: float = option(60, "A caller who reads nothing for so long is cut off", within=(0.01, 3600))
    stop_seconds: float = option(8, "At a stop, replies in flight end by then or are cut off", within=(0, 3600))
    allowed_hosts: list[str] = option([], "Names by which the server is reached, beside addresses and its own")
    log_conversations: bool = option(False, "Write what is said to the log")
    no_browser: bool = option(False, "With --web: don't open the page in a browser", needs="--web")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.api_key = self.api_key or os.environ.get("CHAT_API_KEY") or None
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("--api_key must be printable ASCII, since it travels in a header")


def check_packages() -> None:
    """Raise InputError where the server's packages are missing, before a checkpoint is loaded for nothing."""
    with needing("the server", "web.txt"):
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401


def open_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket; raises InputError that says why there is none."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # who calls before the server runs waits a moment
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--host {host} --port {port}: {reason}; choose another address or port") from error
    return listener
