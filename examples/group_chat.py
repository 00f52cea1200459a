"""A bot for a group chat: each user has a conversation of their own with it. 群聊机器人：每位用户一个独立的对话。

python chat.py --serve &
echo '{"user": "小明", "text": "你好"}' | python examples/group_chat.py
python examples/group_chat.py --port 9000        # a webhook:
curl -d '{"user": "Ada", "text": "Hello!"}' http://127.0.0.1:9000/

A line (or a request) is {"user", "text"}, its answer {"user", "text"}, or {"error"} where something is wrong; the text
/reset forgets the user's conversation. The webhook answers several users at once, but no web page; lines are answered
in turn.
"""

import json
import sys
import threading
from functools import lru_cache

from client import NoReply, ask, parse_options, run_example
from webhook import make_webhook
from wording import is_chinese, is_chinese_locale, say

MEMORY_USERS, MEMORY_MESSAGES = 1000, 20  # the users who wrote last; the last messages of each
# Before a text is read, its language is not known.
FORM = 'a message is {"user": "name", "text": "words"} 消息的格式是 {"user": "名字", "text": "内容"}'
FORGOTTEN = "Let's start afresh. 我们重新开始吧。"


class Group:
    """The users' conversations. A user's messages are answered one after the other, different users' at once."""

    def __init__(self, url: str) -> None:
        self.url, self.lock = url, threading.Lock()
        self.find = lru_cache(MEMORY_USERS)(lambda user: (threading.Lock(), []))  # a user's lock and dialogue

    def answer(self, data: bytes | str) -> tuple[int, dict]:
        """Return (HTTP status, answer) to one message in JSON."""
        try:
            message = json.loads(data)
            user, text = message["user"], message["text"]
            if not (isinstance(user, str) and user and isinstance(text, str) and text.strip()):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            return 400, {"error": FORM}
        with self.lock:
            lock, dialogue = self.find(user)
        with lock:
            if text.strip() == "/reset":
                dialogue.clear()
                return 200, {"user": user, "text": FORGOTTEN}
            asked = [*dialogue[-MEMORY_MESSAGES:], {"role": "user", "content": text}]
            try:
                reply = ask(self.url, asked, is_chinese(text), max_tokens=80, user=user)
            except NoReply as error:  # 400: the text is at fault, it is too long; 503: try again later
                return 400 if error.status in (400, 413) else 503, {"user": user, "error": str(error)}
            dialogue[:] = [*asked, {"role": "assistant", "content": reply}]
        return 200, {"user": user, "text": reply}


def main() -> None:
    """Answer each request, or each line of standard input."""
    options = parse_options(__doc__, ("--port", {"type": int, "help": "serve a webhook here (none: read lines)"}))
    group = Group(options.url)
    if options.port is not None:
        try:
            server = make_webhook(group.answer, options.port)
        except (OSError, OverflowError):
            sys.exit(say("port", is_chinese_locale(), options.port))
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    for line in sys.stdin.buffer:
        if line.strip():
            print(json.dumps(group.answer(line)[1], ensure_ascii=False), flush=True)


if __name__ == "__main__":
    run_example(main)
