"""A bot for a group chat: each user has a conversation of their own with it. 群聊机器人：每位用户一个独立的对话。

python chat.py --serve &
echo '{"user": "小明", "text": "你好"}' | python examples/group_chat.py
python examples/group_chat.py --port 9000        # a webhook:
curl -d '{"user": "Ada", "text": "Hello!"}' http://127.0.0.1:9000/

A line (or a request) is {"user", "text"}, its answer {"user", "text"}, or {"error"} where something is wrong; the text
/reset forgets the user's conversation. Several users are answered at once.
"""

import json
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client import ask, is_chinese, is_chinese_locale, parse_options, say

MEMORY_MESSAGES = 20  # of each user
LONGEST_BYTES = 64 * 1024
# Before a text is read, its language is not known.
FORM = 'a message is {"user": "name", "text": "words"} 消息的格式是 {"user": "名字", "text": "内容"}'
TOO_LONG = "64 KiB at most 最多 64 KiB"
FORGOTTEN = "Let's start afresh. 我们重新开始吧。"


class Group:
    """The users' conversations. A user's messages are answered one after the other, different users' at once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.dialogues: dict[str, list[dict]] = defaultdict(list)
        self.locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def answer(self, data: bytes | str) -> dict:
        """Return the answer to one message in JSON."""
        try:
            message = json.loads(data)
            user, text = message["user"], message["text"]
            if not (isinstance(user, str) and user and isinstance(text, str) and text.strip()):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": FORM}
        with self.locks[user]:
            if text.strip() == "/reset":
                self.dialogues.pop(user, None)
                return {"user": user, "text": FORGOTTEN}
            dialogue = [*self.dialogues[user][-MEMORY_MESSAGES:], {"role": "user", "content": text}]
            try:
                reply = ask(self.url, dialogue, is_chinese(text), max_tokens=80)
            except ConnectionError as error:
                return {"user": user, "error": str(error)}
            self.dialogues[user] = [*dialogue, {"role": "assistant", "content": reply}]
        return {"user": user, "text": reply}


def make_webhook(group: Group, port: int) -> ThreadingHTTPServer:
    """Return a server on this machine that answers a POST of one message."""

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = self.headers.get("content-length", "")
            is_right = size.isascii() and size.isdigit() and int(size) <= LONGEST_BYTES
            answer = group.answer(self.rfile.read(int(size))) if is_right else {"error": TOO_LONG}
            data = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
            self.send_response(400 if "error" in answer else 200)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_) -> None:
            """Log nothing: an address may hold words of a user."""

    return ThreadingHTTPServer(("127.0.0.1", port), Webhook)


if __name__ == "__main__":
    options = parse_options(__doc__, ("--port", {"type": int, "help": "serve a webhook here instead of reading stdin"}))
    chat = Group(options.url)
    if options.port is not None:
        try:
            server = make_webhook(chat, options.port)
        except (OSError, OverflowError):
            sys.exit(say("port", is_chinese_locale(), options.port))
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
    for line in sys.stdin.buffer:
        if line.strip():
            sys.stdout.buffer.write(
                json.dumps(chat.answer(line), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
            )
            sys.stdout.flush()
