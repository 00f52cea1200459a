"""The server among strangers: what callers learn of one another, connections that send nothing, wrong keys, panics."""

import contextlib
import json
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from chat_utils.reply import Reply
from chat_utils.runtimes import decoder
from chat_utils.server import keys, routes
from chat_utils.server.openai_replies import write_event
from tests.chat_utils.server.calls import HI, call, chat, wait_until
from tests.conftest import run_server

SYSTEM = "You answer the questions of a bank's customers, briefly and in a friendly way, and never say a number."


def connect(url: str, text: bytes = b"") -> socket.socket:
    """Open a connection and send what stands there."""
    connection = socket.create_connection(urlsplit(url).netloc.split(":"), timeout=20)
    connection.sendall(text)
    return connection


def head(size: int, path: bytes = b"/v1/chat/completions") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, size)


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server sends something or closes; tell whether it closed."""
    with contextlib.suppress(ConnectionResetError):
        return not connection.recv(1000)
    return True


# The prefix cache


@pytest.fixture
def found(slow_engine, monkeypatch):
    """How many tokens of each prompt the prefix cache held, in truth."""
    cache, found = slow_engine.decoder.prefix_cache, []
    take = cache.take
    monkeypatch.setattr(cache, "_entries", [])
    monkeypatch.setattr(cache, "take", lambda *a: found.append(take(*a)) or found[-1])
    return found


def guess(url: str, pin: str, **more) -> int:
    asked = [{"role": "user", "content": f"My PIN is {pin}, please help me to change it"}]
    usage = chat(url, messages=asked, max_tokens=1, **more)[1]["usage"]
    return usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("victim", [{}, {"user": "ada"}, {"cache_salt": "7Gq"}])
@pytest.mark.parametrize("stranger", [{}, {"user": "eve"}, {"cache_salt": "ada"}])
def test_no_guess_at_what_another_caller_asked_is_told_from_another(slow_engine, found, victim, stranger):
    with run_server(slow_engine, system=SYSTEM, api_key="shared", slots=1) as url:
        with_key = {"Authorization": "Bearer shared"}
        ask = lambda pin, more: call(  # noqa: E731
            url, "/v1/chat/completions", {"messages": [{"role": "user", "content": pin}], "max_tokens": 1, **more},
            **with_key,
        )[1]["usage"]["prompt_tokens_details"]["cached_tokens"]  # fmt: skip
        ask("My PIN is 4711, please help me", victim)
        pins = ["My PIN is 0", "My PIN is 4", "My PIN is 47", "My PIN is 4711, please help me"]
        told = [ask(pin, {**stranger, "seed": number}) for number, pin in enumerate(pins)]
    held = [tokens for _, tokens in found[1:]]
    public = len(slow_engine.decoder.prefix_cache.public_ids)
    assert public > 16
    if stranger:  # its own guesses are its own to know
        assert held[0] == told[0] == public
        assert held[1:3] == told[1:3]
        assert max(held) < found[0][1] + public + 16
    else:
        assert held == [public] * 4
        assert told == [0] * 4


def test_a_stranger_takes_no_state_away(slow_engine, found):
    with run_server(slow_engine, system=SYSTEM) as url:
        guess(url, "4711", cache_salt="ada")
        for _ in range(2):
            guess(url, "4711")
        assert guess(url, "4711", cache_salt="ada") > len(slow_engine.decoder.prefix_cache.public_ids)


def test_a_dialogue_goes_on_from_its_own_state(slow_engine, found):
    with run_server(slow_engine) as url:
        for who in ("ada", "eve"):
            text = chat(url, user=who)[1]["choices"][0]["message"]["content"]
            asked = [*HI, {"role": "assistant", "content": text}, *HI]
            usage = chat(url, messages=asked, user=who)[1]["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == found[-1][1] >= 8


# Connections


def test_a_connection_without_a_whole_head_is_closed(slow_engine):
    with run_server(slow_engine, head_seconds=0.3) as url:
        silent, half = connect(url), connect(url, b"GET /health HTTP/1.1\r\n")
        dripping = connect(url, b"GET /health HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for number in range(40):
                dripping.sendall(b"X-%d: y\r\n" % number)
                time.sleep(0.05)
            pytest.fail("a head that never ends was read for two seconds")
        assert is_closed(silent)
        assert is_closed(half)
        refused = connect(url, head(1000, b"/nowhere"))  # answered before its body is whole
        assert refused.recv(1000).startswith(b"HTTP/1.1 404")
        with contextlib.suppress(OSError):
            for _ in range(40):
                refused.sendall(b"x")
                time.sleep(0.05)
            pytest.fail("a body that nobody wants was read for two seconds")
        assert call(url, "/health")[0] == 200


def test_a_slow_body_is_refused(slow_engine):
    with run_server(slow_engine, body_seconds=0.3) as url:
        assert connect(url, head(100) + b"{").recv(1000).startswith(b"HTTP/1.1 408")


def test_idle_connections_make_room_for_callers(slow_engine):
    with run_server(slow_engine, max_connections=4) as url:
        idle = [connect(url) for _ in range(12)]
        assert chat(url, max_tokens=1)[0] == 200
        assert all(is_closed(connection) for connection in idle[:8])
        assert [chat(url, max_tokens=1)[0] for _ in range(3)] == [200] * 3


def test_connections_stay_below_the_systems_limit(monkeypatch):
    resource = pytest.importorskip("resource")
    from chat_utils.server.connections import count_connections

    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    for pair, expected, raised in (
        ((256, 256), 192, []), ((256, 4096), 1000, [(1064, 4096)]), ((256, 512), 448, [(512, 512)]),
        ((2000, 4096), 1000, []), ((256, resource.RLIM_INFINITY), 1000, [(1064, resource.RLIM_INFINITY)]),
        ((resource.RLIM_INFINITY,) * 2, 1000, []), ((50, 50), 1, []),
    ):  # fmt: skip
        monkeypatch.setattr(resource, "getrlimit", lambda _, pair=pair: pair)
        limits.clear()
        assert (count_connections(1000), limits) == (expected, raised)


def test_a_caller_who_reads_nothing_is_cut_off(slow_engine):
    with run_server(slow_engine, write_seconds=0.3, with_page=True) as url:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((urlsplit(url).hostname, urlsplit(url).port))
        asked = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(OSError):
            for _ in range(4000):  # pipelined, and not one answer read
                connection.sendall(asked * 50)
                time.sleep(0.001)
            pytest.fail("answers that nobody reads were written without end")
        assert call(url, "/health")[0] == 200


def test_large_bodies_have_room_together(slow_engine):
    large = json.dumps({"messages": HI, "max_tokens": 1, "metadata": "x" * 100_000}).encode()
    with run_server(slow_engine, max_held_bytes=150_000) as url:
        first = connect(url, head(len(large)) + large[:-1])
        wait_until(lambda: call(url, "/v1/chat/completions", large)[0] == 429)
        status, answer, headers = call(url, "/v1/chat/completions", large)
        assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
        assert chat(url, max_tokens=1)[0] == 200
        first.sendall(large[-1:])
        assert first.recv(1000).startswith(b"HTTP/1.1 200")
        assert call(url, "/v1/chat/completions", large)[0] == 200


# Keys


def test_wrong_keys_are_counted_slowed_and_logged(slow_engine, monkeypatch, caplog):
    monkeypatch.setattr(keys, "WAIT_SECONDS", 0.5)
    monkeypatch.setattr(keys, "MAX_WAITING", 2)
    with run_server(slow_engine, api_key="secret") as url:
        ask = lambda key: call(url, "/v1/models", Authorization=f"Bearer {key}")  # noqa: E731
        assert [ask(f"wrong{number}")[0] for number in range(keys.FREE_FAILURES)] == [401] * keys.FREE_FAILURES
        assert "wrong or no key from 127.0.0.1, 10 in a minute" in caplog.text
        assert "wrong0" not in caplog.text
        started = time.monotonic()
        assert ask("secret")[0] == 200  # slowed, not locked out
        assert time.monotonic() - started >= 0.5
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(ask, [f"wrong{number}" for number in range(10)]))
        assert {status for status, _, _ in answers} == {401, 429}
        assert "too many wrong keys" in next(body["error"]["message"] for status, body, _ in answers if status == 429)
        monkeypatch.setattr(keys, "FAILURE_SECONDS", 0)
        assert ask("secret")[0] == 200


# Panics, and callers who leave


class Panic(BaseException):
    """What pyo3's PanicException is: no Exception."""


@pytest.mark.parametrize("stream", [False, True])
def test_a_panic_is_answered(slow_engine, server_url, monkeypatch, caplog, stream):
    def fail(*_, **__):
        raise Panic("secret words")

    with monkeypatch.context() as patch:
        patch.setattr(slow_engine, "reply_cleaned", fail)
        assert chat(server_url, stream=stream)[0] == 500
    with monkeypatch.context() as patch:
        patch.setattr(routes, "parse_request", fail)
        assert chat(server_url, stream=stream)[0] == 500
    read, pieces = Reply.__next__, []
    monkeypatch.setattr(Reply, "__next__", lambda reply: pieces.append(1) or (fail if pieces[1:] else read)(reply))
    status, answer, _ = chat(server_url, stream=stream)
    assert (status, "server_error" in str(answer)) == (200 if stream else 500, True)
    monkeypatch.undo()
    assert chat(server_url)[0] == 200
    assert "fault: Panic in test_strangers.py" in caplog.text
    assert "secret" not in caplog.text


def test_the_prompt_of_a_caller_who_left_is_not_computed_on(slow_engine, monkeypatch):
    monkeypatch.setattr(decoder, "PREFILL_TOKENS", 4)
    feed, parts = slow_engine.decoder.feed, []
    monkeypatch.setattr(slow_engine.decoder, "feed", lambda *a: parts.append(a) or feed(*a))
    body = json.dumps({"messages": [{"role": "user", "content": "tea or coffee? " * 12}], "max_tokens": 8}).encode()
    with run_server(slow_engine) as url:
        slow_engine.pause_seconds = 0.1
        try:
            caller = connect(url, head(len(body)) + body)
            wait_until(lambda: parts)
            caller.close()
            wait_until(lambda: call(url, "/health")[1]["replies_open"] == 0)
        finally:
            slow_engine.pause_seconds = 0.0
    ids = parts[0][0][0].ids
    assert len(parts) < len(ids) / 4 / 2  # less than half of the prompt


# Addresses and events


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/v1//chat/completions", "//v1/chat/completions", "/chat/completions"]
)
def test_addresses_as_clients_spell_them(server_url, slow_engine, path):
    assert call(server_url, path, {"messages": HI, "max_tokens": 1})[0] == 200
    for models in ("/v1/models/", "/models", "/v1/models//", f"/v1//models/{slow_engine.name}"):
        assert slow_engine.name in str(call(server_url, models)[1])
        assert call(server_url, models, method="HEAD")[0] == 200
    for nowhere in ("/api/tags", "/v1/responses", "/v1/v1/models"):
        status, answer, _ = call(server_url, nowhere)
        assert status == 404
        assert "/v1/chat/completions" in answer["error"]["message"]


def test_a_server_without_a_page_says_where_its_api_is(slow_engine):
    with run_server(slow_engine, api_key="secret") as url:
        assert "/v1/chat/completions" in call(url, "/")[1]["addresses"]
        for path in ("/models", "//v1//models/", "/load_model/", "/chat/completions"):
            assert call(url, path, method="GET" if "models" in path else "POST")[0] == 401
        status, _, headers = call(url, "/health/", Host="evil.example")
        assert (status, headers["location"]) == (403, None)


@pytest.mark.parametrize(
    "host", ["127.0.0.1?x", "127.0.0.1#x", "127.0.0.1/x", "a@127.0.0.1", "127.0.0.1 x", "\\127.0.0.1"]
)
def test_a_host_is_a_name_and_nothing_else(server_url, host):
    assert call(server_url, "/v1/models", Host=host)[0] in (400, 403)


@pytest.mark.parametrize(
    ("request_line", "headers", "body", "expected"),
    [
        ("GET /health HTTP/1.0", "", b"", ["200 OK", "replies_open"]),  # as a load balancer asks
        ("GET /health HTTP/1.0", "Origin: http://evil.example\r\n", b"", ["403 Forbidden"]),
        ("GET http://127.0.0.1/health HTTP/1.1", "Host: 127.0.0.1\r\n", b"", ["200 OK", "replies_open"]),
        ("GET /v1/chat/completions HTTP/1.1", "Host: localhost\r\n", b"", ["405 Method", "it takes POST"]),
        ("POST /v1/chat/completions HTTP/1.1", "Host: localhost\r\nContent-Length: 99999999999\r\n", b"{",
         ["413 ", "the body has more than"]),
        ("POST /v1/chat/completions HTTP/1.1", "Host: localhost\r\nContent-Length: 4\r\n", b"\x1f\x8b\x08\0",
         ["400 Bad", "compressed by gzip; send it as it is"]),
        ("POST /v1/chat/completions HTTP/1.1", "Host: localhost\r\nContent-Length: 5000\r\n", b"9" * 5000,
         ["400 Bad", "a number has too many digits"]),
    ],
)  # fmt: skip
def test_requests_as_machines_write_them(server_url, request_line, headers, body, expected):
    place = urlsplit(server_url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as caller:
        caller.sendall(f"{request_line}\r\n{headers}\r\n".encode() + body)
        answer = b""
        while not all(words.encode() in answer for words in expected):
            more = caller.recv(65536)
            assert more, answer
            answer += more


def test_events_hold_no_line_end_that_a_client_may_cut_at(server_url):
    said = "a\u2028b\u2029c\x85d\r\n\x0b\x0c\x1c\x1d\x1ee你好"
    event = write_event({"said": said}).decode()
    assert len(event.splitlines()) == 2
    assert "你好" in event
    assert json.loads(event.removeprefix("data: ")) == {"said": said}
    assert chat(server_url, stream=True)[2]["x-accel-buffering"] == "no"


def test_log_of_a_wrong_key_needs_no_address(caplog):
    caplog.set_level(logging.INFO)
    assert keys.name_network(None) == "unknown"
    assert keys.name_network("::ffff:192.0.2.1") == "192.0.2.1"
