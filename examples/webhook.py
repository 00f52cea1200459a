"""A webhook on this machine, for the programs on it: JSON in by POST, JSON out."""

import json
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONGEST_BYTES = 64 * 1024
MAX_CALLERS = 32  # at once, a thread each; more are turned away
READ_SECONDS = 10  # for a whole request
OWN_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
TOO_LONG = "64 KiB at most 最多 64 KiB"
NOT_YOURS = "web pages may not call this 网页不能调用"


class BoundedServer(ThreadingHTTPServer):
    """A server that turns callers away while MAX_CALLERS are answered."""

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.free = threading.BoundedSemaphore(MAX_CALLERS)

    def process_request(self, request, client_address) -> None:
        """Answer a caller in a thread, if one is free."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address) -> None:
        """Answer a caller, and free the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()


def make_webhook(answer: Callable[[bytes], tuple[int, dict]], port: int) -> BoundedServer:
    """Return a server on this machine that gives a POST's body to `answer`, which returns HTTP status and answer."""

    class Webhook(BaseHTTPRequestHandler):
        def setup(self) -> None:
            super().setup()
            self.deadline = threading.Timer(READ_SECONDS, self.connection.shutdown, [socket.SHUT_RD])
            self.deadline.start()

        def finish(self) -> None:
            self.deadline.cancel()
            super().finish()

        def do_POST(self) -> None:
            size = self.headers.get("content-length", "")
            is_right = size.isascii() and size.isdigit() and len(size) < 9 and int(size) <= LONGEST_BYTES
            data = self.rfile.read(int(size)) if is_right else b""
            self.deadline.cancel()  # the answer may take longer
            # A page of any origin can make its visitor's browser post here; a browser says so.
            is_page = "origin" in self.headers or "sec-fetch-site" in self.headers
            if is_page or not OWN_HOST.fullmatch(self.headers.get("host", "")):
                status, said = 403, {"error": NOT_YOURS}
            else:
                status, said = answer(data) if is_right else (400, {"error": TOO_LONG})
            data = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_) -> None:
            """Log nothing: an address may hold words of a user."""

    return BoundedServer(("127.0.0.1", port), Webhook)
