"""A conversation with an engine: its turns, the reply as it comes, and the file it is kept in."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

from chat_utils.engine import Engine
from chat_utils.messages import NO_ANSWER, clean_message, keep_end
from chat_utils.reply import Reply
from chat_utils.sampling import Sampling
from data_utils.dialogue.checking import check_dialogue
from data_utils.text.cleaning import clean_text
from errors import InputError, coded
from files import write_whole

KEPT = {"role", "content", "weight", "liked"}  # of a message
FRAME_SECONDS = 0.03  # pieces that come faster are shown together


class Conversation:
    """The messages so far, and the last reply with its `stats`.

    `ended` tells how the last reply did: "stop", "length", "loop" or "cancelled".
    """

    def __init__(self, engine: Engine, sampling: Sampling, system: str | None = None) -> None:
        self.engine, self.sampling = engine, sampling
        self.messages: list[dict] = []
        self.reply: Reply | None = None
        self.ended: str | None = None
        self.file: Path | None = None  # where it was kept last, or read from
        self.set_system(system)

    def set_system(self, text: str | None) -> bool:
        """Set or clear the system turn and tell if there is one; DialogueError where no message has room beside it."""
        content = self.engine.check_system(text or "", self.sampling)
        self.messages = [message for message in self.messages if message["role"] != "system"]
        if content:
            self.messages.insert(0, {"role": "system", "content": content})
        return bool(content)

    def forget(self) -> None:
        """Drop all turns but the system's."""
        self.messages = [message for message in self.messages if message["role"] == "system"]
        self.file = None

    def last_question(self) -> str | None:
        """Return the user's last message."""
        return next((message["content"] for message in reversed(self.messages) if message["role"] == "user"), None)

    def ask(self, text: str, show: Callable[[str], None], again: bool = False) -> str:
        """Add the user's message and the reply to it, and return the reply; `show` gets its pieces as they come.

        `again` puts the message in the place of the last one. The text is cleaned as the dialogues are that the model
        learned from. Ctrl-C ends the reply and keeps what was said. Raises DialogueError where the message is longer
        than the model's window or has no words, and leaves the conversation as it was then.
        """
        self.reply, self.ended = None, None
        text = clean_message(text, "user", self.engine.window)
        before = self.messages
        if again:
            turns = [i for i, message in enumerate(before) if message["role"] == "user"]
            self.messages = before[: turns[-1]]
        else:
            self.messages = answered(before)
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            kept, dropped = keep_end(self.messages, self.engine.window)
            self.reply = self.engine.reply_cleaned(kept, self.sampling, dropped=dropped)
            for piece in read_ahead(self.reply):
                pieces.append(piece)
                show(piece)
            self.ended = self.reply.finish_reason
        except KeyboardInterrupt:
            self.ended = "cancelled"
        except BaseException:
            self.messages = before
            raise
        reply = "".join(pieces).strip()
        kept = reply + NO_ANSWER if self.ended == "cancelled" else reply
        self.messages.append({"role": "assistant", "content": clean_text(kept) or NO_ANSWER})
        return reply

    def rate(self, liked: bool) -> bool:
        """Note beside the last reply whether it is liked, which tune_preferences.py learns from; tell if there is one.

        The note is kept with the conversation.
        """
        if not self.messages or self.messages[-1]["role"] != "assistant" or self.messages[-1]["content"] == NO_ANSWER:
            return False
        self.messages[-1]["liked"] = liked
        return True

    def save(self, name: str) -> Path:
        """Write the conversation as OpenAI-style JSON, which finetune_dialogue.py reads; return the file's path.

        The file is whole or not there. Another one of that name is left, and a number is put to the name. Raises
        OSError.
        """
        path = Path(name).expanduser().resolve()
        if path.name and path.suffix not in (".json", ".jsonl"):
            path = path.with_name(path.name + ".json")
        path.parent.stat()  # a folder that is misspelled isn't made
        if path.is_dir():
            raise coded(IsADirectoryError(f"{path} is a folder"), "is_folder", path)
        number, free = 1, path
        while free != self.file and free.exists():
            number += 1
            free = path.with_stem(f"{path.stem}-{number}")
        write_whole(free, json.dumps({"messages": answered(self.messages)}, ensure_ascii=False) + "\n", mode=0o600)
        self.file = free
        return free

    def load(self, name: str) -> None:
        """Go on with a conversation that was kept; raises InputError that says why it can't be."""
        try:
            path = Path(name).expanduser().resolve()
            if not path.is_file():
                raise coded(InputError("no such file"), "no_file")
            row = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
                raise coded(InputError('{"messages": [...]} is expected'), "no_conversation")
            if not all(isinstance(message, dict) for message in row["messages"]):
                raise coded(InputError("each message must be an object with 'role' and 'content'"), "no_object")
            given = answered(row["messages"])
            messages = check_dialogue(given)
            for message, kept in zip(messages, given, strict=True):
                if isinstance(kept.get("liked"), bool):
                    message["liked"] = kept["liked"]
        except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8, no dialogue
            raise InputError(getattr(error, "strerror", None) or str(error)) from error
        awaits = row["messages"][-1].get("role") == "user"
        self.messages = messages[:-1] if awaits else messages
        is_own = row.keys() == {"messages"} and all(message.keys() <= KEPT for message in given)
        self.file = path if is_own else None  # what else stands in another program's file would be lost


def answered(messages: list[dict]) -> list[dict]:
    """Return the messages with an answer to the last one, so that turns alternate.

    >>> answered([{"role": "user", "content": "Hi"}])[-1]
    {'role': 'assistant', 'content': '…'}
    """
    awaits = bool(messages) and messages[-1].get("role") == "user"
    return messages + [{"role": "assistant", "content": NO_ANSWER}] * awaits


def read_ahead(reply: Reply) -> Iterator[str]:
    """Yield a reply's text as it comes, what came meanwhile in one piece; close the reply at the end.

    The reply is computed in a thread, so that Ctrl-C never meets the model halfway and is heeded at once. The first
    piece is not held back; later ones wait FRAME_SECONDS, longer where it takes the reader long to show one.
    """
    queue: SimpleQueue = SimpleQueue()

    def compute() -> None:
        try:
            for piece in reply:
                queue.put(piece)
            queue.put(None)
        except BaseException as error:  # told where it is read
            queue.put(error)

    threading.Thread(target=compute, daemon=True).start()
    try:
        while True:
            item, text, started = queue.get(), "", time.monotonic()
            while isinstance(item, str):
                text += item
                if queue.empty():
                    break
                item = queue.get()
            if text:
                yield text
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            time.sleep(max(FRAME_SECONDS, 2 * (time.monotonic() - started)))
    finally:
        reply.close()
