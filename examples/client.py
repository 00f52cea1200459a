"""The few lines that the examples share: ask a server in OpenAI's protocol, with Python's own library alone."""

import argparse
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

REPLY_SECONDS = 120
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def parse_options(description: str, *options: tuple[str, dict]) -> argparse.Namespace:
    """Parse the command line of an example: its own options and the server's address."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server's address (%(default)s)")
    for name, settings in options:
        parser.add_argument(name, **settings)
    return parser.parse_args()


def stream_reply(url: str, messages: list[dict], **settings: float) -> Iterator[str]:
    """Yield the reply's pieces, without control characters, which a terminal would obey.

    Raises ConnectionError with a line for the user where none comes.
    """
    key = os.environ.get("CHAT_API_KEY", "")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    body = json.dumps({"messages": messages, "stream": True, **settings}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as lines:
            for line in lines:
                data = line.decode().removeprefix("data: ").strip()
                if data and data != "[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        raise ConnectionError(event["error"]["message"])
                    yield CONTROL.sub("", event["choices"][0]["delta"].get("content", ""))
    except urllib.error.HTTPError as error:
        raise ConnectionError(json.load(error)["error"]["message"]) from error
    except OSError as error:
        raise ConnectionError(f"{url}: {error}; is `python chat.py --serve` running?") from error


def ask(url: str, messages: list[dict], **settings: float) -> str:
    """Return the whole reply."""
    return "".join(stream_reply(url, messages, **settings)).strip()


def is_chinese(text: str) -> bool:
    """Tell whether a text has Chinese characters.

    >>> is_chinese("ok 好"), is_chinese("ok")
    (True, False)
    """
    return any("\u4e00" <= char <= "\u9fff" for char in text)
