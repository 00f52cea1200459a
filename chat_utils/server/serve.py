"""Serves a checkpoint on the network: listens, starts and stops. Its addresses: routes.py.

python chat.py --serve                          # OpenAI's protocol at http://127.0.0.1:8000/v1
python chat.py --web                            # the same, and a page to chat in
"""

import logging
import os
import signal
import sys
import threading
import webbrowser
from typing import Any

from chat_utils.engine import Engine
from chat_utils.sampling import Sampling
from chat_utils.server.settings import ServerOptions, open_socket

# Whoever computes in Python, as in reading a request, keeps the interpreter from replies for so long, again and again:
# at Python's own 5 ms a first piece came after 23 ms beside such work, at this after 7, and alone after 3.
SWITCH_SECONDS = 0.0005


def has_display() -> bool:
    """Tell whether a browser could show itself here."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def make_server(
    engine: Engine, sampling: Sampling, options: ServerOptions, with_page: bool = False, system: str | None = None
):
    """Return (server, socket, address): `server.run(sockets=[socket])` answers there until `server.should_exit`.

    `system`: the system prompt of dialogues that bring none.
    """
    import uvicorn

    from chat_utils.server.connections import bound_connections
    from chat_utils.server.routes import ChatServer

    listener = open_socket(options.host, options.port)
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    app = ChatServer(engine, sampling, options, with_page, system)
    protocol, connections = bound_connections(options)
    wider: dict[str, Any] = {"http": protocol, "timeout_graceful_shutdown": options.stop_seconds}  # than they are typed
    config = uvicorn.Config(
        app, ws="none", access_log=False, log_config=None, server_header=False, limit_concurrency=connections + 1,
        **wider,
    )  # fmt: skip
    logging.getLogger("uvicorn.access").disabled = True  # it would hold what is asked in an address; the log is ours
    return uvicorn.Server(config), listener, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    engine: Engine, sampling: Sampling, options: ServerOptions, with_page: bool = False, system: str | None = None
) -> int:
    """Answer until SIGTERM or Ctrl-C; replies in flight are ended whole. Returns the exit code."""
    server, listener, url = make_server(engine, sampling, options, with_page, system)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("chat").setLevel(logging.INFO)
    if not options.api_key and not listener.getsockname()[0].startswith(("127.", "::1")):
        print("note: whoever reaches this machine can talk to the model; --api_key asks for a key", file=sys.stderr)
    # uvicorn raises the signal once more after its graceful stop: that is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    print(f"{engine.name}: {url}/v1 speaks OpenAI's protocol; Ctrl-C stops it", flush=True)
    if with_page:
        print(f"{engine.name}: {url}/ is the page to chat in", flush=True)
        if not options.no_browser and has_display():
            threading.Timer(1.0, webbrowser.open, [url]).start()
    sys.setswitchinterval(SWITCH_SECONDS)
    server.run(sockets=[listener])
    return 0
