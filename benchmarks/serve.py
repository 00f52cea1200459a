"""Load on the server: many clients at once, each sending request after request. Nothing may be lost.

python -m benchmarks.serve ckpt_chat --clients 32 --seconds 60
python -m benchmarks.serve ckpt_chat --engine batched          # other options are chat.py's

It starts `chat.py --serve` in a process of its own, warms it up, and reports what was answered and how fast, and the
server's memory before and after. Exit code 1 where a reply was lost or broken, or where memory grew.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMPTS = ("Hello! How are you today?", "你好！今天过得怎么样？", "What do you like to eat?", "你喜欢什么季节？")
GROWTH_FRACTION = 0.05  # of the server's memory, from half time on; more is a leak
JUDGED_SECONDS = 30  # in less, the server's cache of dialogues has not filled yet


@dataclass
class Tally:
    """What the clients saw, in seconds and counts."""

    replies: int = 0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def start_server(model: str, options: list[str]) -> tuple[subprocess.Popen, str]:
    """Start the server on a free port; return it and its host:port."""
    command = [sys.executable, str(ROOT / "chat.py"), "--model", model, "--serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    words = process.stdout.readline().split()
    if len(words) < 2:
        sys.exit("the server did not start")
    return process, words[1].removeprefix("http://").removesuffix("/v1")


def read_rss(process: subprocess.Popen) -> float:
    """Return a process's memory in MB (Linux; 0 elsewhere)."""
    status = Path(f"/proc/{process.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def ask_once(address: str, number: int, tally: Tally, lock: threading.Lock) -> None:
    """Ask for one streamed reply and note how it went."""
    body = {
        "messages": [{"role": "user", "content": f"{PROMPTS[number % len(PROMPTS)]} ({number})"}], "max_tokens": 48,
        "stream": True, "stream_options": {"include_usage": True}, "seed": number,
    }  # fmt: skip
    started, first = time.perf_counter(), None
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        data = b""
        while part := response.read1():
            data += part
            if first is None and b'"content": "' in data.partition(b'"content": ""')[2]:
                first = time.perf_counter() - started
        events = [json.loads(event[6:]) for event in data.decode().split("\n\n")[:-2]]
        is_whole = data.endswith(b"data: [DONE]\n\n") and events[-2]["choices"][0]["finish_reason"]
        if response.status != 200 or not is_whole:
            raise ValueError(f"{response.status}, {data[-200:]!r}")
        with lock:
            tally.replies += 1
            tally.tokens += events[-1]["usage"]["completion_tokens"]
            tally.first.append(first or time.perf_counter() - started)
            tally.whole.append(time.perf_counter() - started)
    except Exception as error:
        with lock:
            tally.faults.append(repr(error))
    finally:
        connection.close()


def run_load(address: str, clients: int, seconds: float) -> Tally:
    """Let clients ask for a time; each ends its last reply."""
    tally, lock, end = Tally(), threading.Lock(), time.perf_counter() + seconds

    def run_client(client: int) -> None:
        number = client
        while time.perf_counter() < end:
            ask_once(address, number, tally, lock)
            number += clients

    threads = [threading.Thread(target=run_client, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def describe_times(name: str, times: list[float]) -> str:
    """Return the 50th, 95th and 99th percentile of times in ms."""
    ordered = sorted(times) or [0.0]
    parts = [
        f"p{share} {1000 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)]:.0f}" for share in (50, 95, 99)
    ]
    return f"{name}: {', '.join(parts)} ms"


def main(argv: list[str] | None = None) -> int:
    """Run the load; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--clients", type=int, default=32, help="clients at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long they ask (%(default)s)")
    options, for_server = parser.parse_known_args(argv)
    process, address = start_server(options.model, for_server)
    try:
        warm_up = run_load(address, options.clients, max(1.0, options.seconds / 6))
        memory = [read_rss(process)]
        half_time = threading.Timer(options.seconds / 2, lambda: memory.append(read_rss(process)))
        half_time.start()
        started = time.perf_counter()
        tally = run_load(address, options.clients, options.seconds)
        seconds = time.perf_counter() - started
        half_time.join()
        memory.append(read_rss(process))
    finally:
        process.terminate()
        code = process.wait(timeout=150)
    faults = warm_up.faults + tally.faults
    print(f"{options.clients} clients, {seconds:.0f} s: {tally.replies} replies whole, {len(faults)} lost or broken")
    print(f"{tally.replies / seconds:.1f} replies and {tally.tokens / seconds:.0f} tokens a second")
    print(describe_times("first piece", tally.first))
    print(describe_times("whole reply", tally.whole))
    before, half, after = memory
    print(f"server's memory: {before:.0f} MB before, {half:.0f} at half time, {after:.0f} after")
    print(f"stopped with code {code}")
    for fault in faults[:5]:
        print(f"fault: {fault}")
    has_leak = options.seconds >= JUDGED_SECONDS and after > half * (1 + GROWTH_FRACTION)
    return int(bool(faults) or code != 0 or has_leak)


if __name__ == "__main__":
    sys.exit(main())
