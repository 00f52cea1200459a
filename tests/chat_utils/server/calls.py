"""Requests to a server under test, over real sockets."""

import http.client
import json
import time
from urllib.parse import urlsplit

HI = [{"role": "user", "content": "Hi"}]


def call(url: str, path: str, body: object = None, method: str | None = None, **headers: str):
    """Return (status, JSON or text, headers) of one request, each header given as name_with_underscores."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if data is None else "POST"), path, data, names)
    response = connection.getresponse()
    text = response.read().decode()
    is_json = response.headers.get_content_type() == "application/json"
    connection.close()
    return response.status, json.loads(text) if is_json and text else text, response.headers


def chat(url: str, **more):
    return call(url, "/v1/chat/completions", {"messages": HI, "max_tokens": 8, **more})


def read_events(text: str) -> list[dict]:
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def wait_until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
