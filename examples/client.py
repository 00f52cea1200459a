"""The few lines that the examples share: ask a server in OpenAI's protocol, with Python's own library alone."""

import argparse
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException

REPLY_SECONDS = 120
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What goes wrong, in English and Chinese; first the server's codes.
ERRORS = {
    "invalid_api_key": ("the API key is missing or wrong; set CHAT_API_KEY", "API 密钥缺失或错误，请设置 CHAT_API_KEY"),
    "context_length_exceeded": ("this is longer than the model's window; shorten it", "内容超出了模型的窗口，请缩短"),
    "request_too_large": ("this is larger than what the server takes", "内容超过了服务器的上限，请缩短"),
    "rate_limit_exceeded": ("the server is busy; try again in a moment", "服务器正忙，请稍后再试"),
    "empty_message": ("this has no words that can be read", "这条消息里没有可读的文字"),
    "refused": ("the server refused this: {}", "服务器拒绝了这个请求：{}"),
    "server": (
        "{}: no answer; is `python chat.py --serve` running?",
        "{}：没有响应；`python chat.py --serve` 在运行吗？",
    ),
    "file": ("{}: there is no such file, or it is no UTF-8 text", "{}：没有这个文件，或者它不是 UTF-8 文本"),
    "port": ("--port {} can't be used; choose another", "--port {} 无法使用，请换一个端口"),
}


def parse_options(description: str, *options: tuple[str, dict]) -> argparse.Namespace:
    """Parse the command line of an example: its own options and the server's address."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server's address (%(default)s)")
    for name, settings in options:
        parser.add_argument(name, **settings)
    return parser.parse_args()


def say(error: str, in_chinese: bool, detail: object = "") -> str:
    """Return the line that tells the user of an error."""
    return ERRORS[error][in_chinese].format(detail)


def stream_reply(url: str, messages: list[dict], in_chinese: bool, **settings: float) -> Iterator[str]:
    """Yield the reply's pieces, safe for a terminal; raise ConnectionError with a line for the user if none comes."""
    key = os.environ.get("CHAT_API_KEY", "")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    body = json.dumps({"messages": messages, "stream": True, **settings}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", body, headers)
    try:
        yield from read_pieces(request, in_chinese)
    except ConnectionRefusedError:
        raise
    except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:  # or not our server
        raise ConnectionError(say("server", in_chinese, url)) from error


def read_pieces(request: urllib.request.Request, in_chinese: bool) -> Iterator[str]:
    """Yield what the server's events hold; raise ConnectionRefusedError where it refuses."""
    try:
        with urllib.request.urlopen(request, timeout=REPLY_SECONDS) as lines:
            for line in lines:
                data = line.decode().removeprefix("data: ").strip()
                if data and data != "[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        raise ConnectionRefusedError(say_refusal(event, in_chinese))
                    yield CONTROL.sub("", event["choices"][0]["delta"].get("content", ""))
    except urllib.error.HTTPError as error:
        raise ConnectionRefusedError(say_refusal(json.load(error), in_chinese)) from error


def say_refusal(body: dict, in_chinese: bool) -> str:
    """Return the line that tells of an error in OpenAI's form; one that has no line here keeps the server's words."""
    code = body["error"].get("code")
    return say(code if code in ERRORS else "refused", in_chinese, body["error"]["message"])


def ask(url: str, messages: list[dict], in_chinese: bool, **settings: float) -> str:
    """Return the whole reply."""
    return "".join(stream_reply(url, messages, in_chinese, **settings)).strip()


def is_chinese(text: str) -> bool:
    """Tell whether a text has Chinese characters.

    >>> is_chinese("ok 好"), is_chinese("ok")
    (True, False)
    """
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def is_chinese_locale() -> bool:
    """Tell whether the environment's language is Chinese: what is known of a user who has said nothing yet."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return next((name for name in names if name), "").lower().startswith("zh")
