"""The server among callers who mean no good: what the honest ones see of it.

python -m benchmarks.faults_server ckpt_chat --seconds 300      # other options are chat.py's

Honest callers ask alone and, in turns, beside connections that send nothing, readers that take a byte a second,
callers that hang up in the midst of a reply and one that sends the worst bodies known. Exit code 1 where an honest
reply was lost, first pieces came more than twice as late, memory grew, or SIGTERM took more than ten seconds.
"""

import argparse
import http.client
import json
import multiprocessing
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import cache

from benchmarks.serve import GROWTH_FRACTION, Tally, describe_times, read_rss, run_load, start_server

LATER_TIMES, STOP_SECONDS = 2.0, 10.0
WINDOW_BYTES = 64 * 2048  # the longest message that a window of 2,048 tokens lets in


def fill(unit: str) -> str:
    """Return a unit over and over, as long as a message may be."""
    return unit * (WINDOW_BYTES // len(unit.encode()) - 1)


def send(address: str, text: bytes) -> socket.socket:
    """Open a connection and send a text."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(text)
    return connection


def write_request(max_tokens: int) -> bytes:
    """Return a request for a stream."""
    asked = {"messages": [{"role": "user", "content": "Hello!"}], "stream": True, "max_tokens": max_tokens}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def stay_idle(address: str, stop: threading.Event) -> None:
    """Send nothing, until the server closes the connection."""
    with send(address, b"") as connection:
        while not stop.is_set() and connection.recv(1):
            pass


def read_slowly(address: str, stop: threading.Event) -> None:
    """Read a byte of a reply each second."""
    with send(address, write_request(64)) as connection:
        while not stop.wait(1) and connection.recv(1):
            pass


def hang_up(address: str, stop: threading.Event) -> None:
    """Leave a while after asking; a person does that every few seconds."""
    with send(address, write_request(256)):
        stop.wait(random.random())
    stop.wait(5)


@cache
def list_bodies() -> list[bytes]:
    """Return bodies that cost a server most for what they are."""
    marks = ("a\u0301\u0316", "\u0301\u0316", "é à ", "Ã©â€™", "\u1100\u1161\u11a8", "👩\u200d", " \t\n", "a", "你好")
    said = [[{"role": "user", "content": fill(unit)}] for unit in marks]
    said.append([{"role": ("user", "assistant")[number % 2], "content": "a"} for number in range(4095)])
    bodies = [json.dumps({"messages": messages, "max_tokens": 1}).encode() for messages in said]
    bodies.append(json.dumps({"messages": said[0], "logit_bias": [0] * 1_000_000}).encode())
    return [*bodies, b"[" * 4_000_000, b"\xff" * 4_000_000, b'{"messages": "' + b"\\ud83d" * 600_000 + b'"}']


def send_worst(address: str, stop: threading.Event) -> None:
    """Send the worst bodies, one after the other."""
    for body in list_bodies():
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/v1/chat/completions", body)
        connection.getresponse().read()
        connection.close()
        if stop.is_set():
            return


def keep_on(act: Callable[[str, threading.Event], None], address: str, stop: threading.Event) -> None:
    """Act again and again; what the server refuses is what is wanted."""
    while not stop.is_set():
        try:
            act(address, stop)
        except (OSError, http.client.HTTPException):
            stop.wait(0.5)


def act_badly(address: str, counts: dict[Callable, int]) -> None:
    """Let the others act until the process is ended: it is their own, and takes no time of the honest callers'."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=keep_on, args=(act, address, stop)) for act, n in counts.items() for _ in range(n)
    ]
    for thread in threads:
        thread.start()


def run_beside(address: str, options: argparse.Namespace) -> Tally:
    """Let the honest callers ask beside the others."""
    counts = {stay_idle: options.idle, read_slowly: options.slow, hang_up: options.leaving, send_worst: options.worst}
    others = multiprocessing.get_context("spawn").Process(target=act_badly, args=(address, counts))
    others.start()
    time.sleep(5)
    try:
        return run_load(address, options.clients, options.seconds / options.rounds)
    finally:
        others.kill()


def add_to(tally: Tally, more: Tally) -> None:
    """Count a round."""
    tally.replies += more.replies
    tally.first += more.first
    tally.faults += more.faults


def describe(name: str, tally: Tally) -> str:
    """Return in words what the honest callers saw."""
    words = f"{name}: {tally.replies} replies whole, {len(tally.faults)} lost; {describe_times('first', tally.first)}"
    return "\n".join([words, *tally.faults[:3]])


def main(argv: list[str] | None = None) -> int:
    """Run both loads and compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--seconds", type=float, default=60, help="how long they ask, alone and beside (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns, for what else runs here (%(default)s)")
    parser.add_argument("--clients", type=int, default=32, help="honest callers (%(default)s)")
    parser.add_argument("--idle", type=int, default=500, help="connections that send nothing (%(default)s)")
    parser.add_argument("--slow", type=int, default=50, help="readers of a byte a second (%(default)s)")
    parser.add_argument("--leaving", type=int, default=50, help="callers that hang up (%(default)s)")
    parser.add_argument("--worst", type=int, default=1, help="callers that send the worst bodies (%(default)s)")
    options, for_server = parser.parse_known_args(argv)
    process, address = start_server(options.model, for_server)
    alone, beside, memory = Tally(), Tally(), []
    try:
        for _ in range(options.rounds):
            add_to(alone, run_load(address, options.clients, options.seconds / options.rounds))
            add_to(beside, run_beside(address, options))
            memory.append(read_rss(process))
    finally:
        stopped = time.perf_counter()
        process.terminate()
        code = process.wait(timeout=150)
        stopped = time.perf_counter() - stopped
    print(describe("alone", alone), describe("beside the others", beside), sep="\n")
    later = sorted(beside.first)[len(beside.first) // 2] / sorted(alone.first)[len(alone.first) // 2]
    print(f"first piece: {later:.2f} times as late; memory {', '.join(f'{size:.0f}' for size in memory)} MB")
    print(f"stopped with code {code} after {stopped:.1f} s")
    is_flat = memory[-1] <= memory[len(memory) // 2] * (1 + GROWTH_FRACTION)
    return int(bool(alone.faults + beside.faults) or later > LATER_TIMES or not is_flat or stopped > STOP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
