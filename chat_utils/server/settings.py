"""The server's options: where it listens, who may call, and how much it takes on."""

import os
from dataclasses import dataclass, field

from chat_utils.choices import SLOTS
from errors import InputError


@dataclass
class ServerOptions:
    """How the server listens, and how much it takes on."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0: every network"})
    port: int = field(default=8000, metadata={"help": "Port to listen on; 0: any free one"})
    api_key: str | None = field(
        default=None, metadata={"help": "Key that callers must send; better given as CHAT_API_KEY in the environment"}
    )
    slots: int = field(default=SLOTS, metadata={"help": "Replies that are made at once; others wait"})
    max_queue: int = field(default=256, metadata={"help": "Replies that may wait; more are refused (429)"})
    max_body_bytes: int = field(default=4 * 2**20, metadata={"help": "Largest request in bytes; above: refused (413)"})
    max_held_bytes: int = field(
        default=64 * 2**20, metadata={"help": "Requests being read, in bytes all together; above: large ones refused"}
    )
    max_connections: int = field(
        default=1000, metadata={"help": "Open connections; above: the one that waits longest for a request is closed"}
    )
    head_seconds: float = field(default=10, metadata={"help": "A request's head is whole by then, or it is cut off"})
    body_seconds: float = field(default=30, metadata={"help": "So is its body (408)"})
    write_seconds: float = field(default=60, metadata={"help": "A caller who reads nothing for so long is cut off"})
    stop_seconds: float = field(default=8, metadata={"help": "At a stop, replies in flight end by then or are cut off"})
    allowed_hosts: list[str] = field(
        default_factory=list, metadata={"help": "Names by which the server is reached, beside addresses and its own"}
    )
    log_conversations: bool = field(default=False, metadata={"help": "Write what is said to the log"})
    no_browser: bool = field(default=False, metadata={"help": "With --web: don't open the page in a browser"})

    def __post_init__(self) -> None:
        self.api_key = self.api_key or os.environ.get("CHAT_API_KEY") or None
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise InputError("command line: --api_key must be printable ASCII, since it travels in a header")
        for name, low, high in (
            ("port", 0, 65535), ("slots", 1, 1024), ("max_queue", 0, 10**6), ("max_body_bytes", 1024, 2**30),
            ("max_held_bytes", 1024, 2**40), ("max_connections", 1, 10**5), ("head_seconds", 0.01, 3600),
            ("body_seconds", 0.01, 3600), ("write_seconds", 0.01, 3600), ("stop_seconds", 0, 3600),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise InputError(f"command line: --{name} {getattr(self, name)} is outside {low} to {high}")
