"""The few lines that the examples share: ask a server in OpenAI's protocol, with Python's own library alone."""

import argparse
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException

from wording import ERRORS, say

REPLY_SECONDS = 120
# What changes a terminal's state or the order of a line: control characters, marks of direction, invisible ones.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


class NoReply(ConnectionError):
    """No reply came, or not the whole of it: the text is a line for the user, `status` is HTTP's (503: no answer)."""

    def __init__(self, in_chinese: bool, code: str, detail: str, status: int = 503) -> None:
        super().__init__(say(code if code in ERRORS else "refused", in_chinese, detail))
        self.status = status


def run_example(main: Callable[[], None]) -> None:
    """Run an example; Ctrl-C, a reader of its output that leaves and a missing reply end it without a traceback.

    What is no text of the terminal's encoding is read and shown as a mark.
    """
    sys.stdin.reconfigure(errors="replace")
    sys.stdout.reconfigure(errors="replace")
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes what is left at its end
        sys.exit(141)
    except NoReply as error:
        sys.exit(str(error))


def parse_options(description: str, *options: tuple[str, dict]) -> argparse.Namespace:
    """Parse the command line of an example: its own options and the server's address."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server's address (%(default)s)")
    for name, settings in options:
        parser.add_argument(name, **settings)
    return parser.parse_args()


def stream_reply(url: str, messages: list[dict], in_chinese: bool, **settings: object) -> Iterator[str]:
    """Yield the reply's pieces, safe for a terminal; raise NoReply if none comes."""
    key = os.environ.get("CHAT_API_KEY", "")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    body = json.dumps({"messages": messages, "stream": True, **settings}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", body, headers)
    try:
        yield from read_pieces(request, in_chinese)
    except NoReply:
        raise
    except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:  # or not our server
        raise NoReply(in_chinese, "server", url) from error


def read_pieces(request: urllib.request.Request, in_chinese: bool) -> Iterator[str]:
    """Yield what the server's events hold; raise NoReply where it refuses."""
    try:
        with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as lines:
            for line in lines:
                data = line.decode().removeprefix("data: ").strip()
                if data and data != "[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        raise NoReply(in_chinese, event["error"].get("code"), event["error"]["message"])
                    yield UNPRINTABLE.sub("", event["choices"][0]["delta"].get("content", ""))
    except urllib.error.HTTPError as error:
        said = json.load(error)["error"]
        raise NoReply(in_chinese, said.get("code"), said["message"], error.code) from error


def ask(url: str, messages: list[dict], in_chinese: bool, **settings: object) -> str:
    """Return the whole reply."""
    return "".join(stream_reply(url, messages, in_chinese, **settings)).strip()
