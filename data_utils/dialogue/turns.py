"""Reads the messages and keys of a row of dialogues, and notes which of them were read.

What a row holds beside its form is never dropped in silence: what was not read is named to the user, and what would
change the dialogue (calls of tools, pictures, dislikes) is refused by its key.
"""

import contextlib
import json
import math
import re
from typing import Any

from data_utils.dialogue.checking import ROLES, DialogueError
from errors import first_line

# Names that roles have elsewhere, in small letters.
ROLE_NAMES = dict.fromkeys(("human", "prompter", "用户"), "user") | {"developer": "system", "系统": "system"}
ROLE_NAMES |= dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "ai", "bot", "chatbot", "助手"), "assistant")
# Where a message has its role and its words; OpenAI's and ShareGPT's first.
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker", "author", "sender"), ("content", "value", "text", "parts")
TOOL_ROLES = ("tool", "function", "observation", "function_call", "ipython")
TOOLS = "calls of tools aren't learned here"
MEDIA = "only text is learned here"
# Keys that say that a row, or a message, is more than its text.
UNREADABLE = {"tools": TOOLS, "functions": TOOLS, "tool_calls": TOOLS, "function_call": TOOLS, "tool_call_id": TOOLS}
UNREADABLE |= dict.fromkeys(("image", "images", "audio", "audios", "video", "videos", "files"), MEDIA)
SYSTEM_KEYS = ("system", "system_prompt")
WEIGHTS = ("weight", "train", "loss", "liked")
TEXT_PARTS = ("text", "input_text", "output_text")
KINDS: dict[type, str] = {bool: "true or false", str: "text", bytes: "bytes", list: "a list", dict: "an object"}
KINDS |= {int: "a number", float: "a number", type(None): "nothing"}


def name_kind(value: object) -> str:
    """Return in words of what kind a value is, never the value.

    >>> name_kind(b"x"), name_kind(float("nan")), name_kind(None)
    ('bytes', 'NaN', 'nothing')
    """
    if isinstance(value, Exception):  # of its reader
        return f"a value that is not readable ({first_line(value)})"
    is_nan = isinstance(value, float) and math.isnan(value)
    return "NaN" if is_nan else KINDS.get(type(value), f"a value of type {type(value).__name__}")


def is_absent(value: object) -> bool:
    """Tell whether a value says nothing: null, NaN, or an empty text, list or object."""
    return value is None or value in ("", [], {}) or (isinstance(value, float) and math.isnan(value))


class Row:
    """A row of a file, or an object in it; it notes which of its keys were read, and names the rest as `unread`.

    `place` stands before its keys where one is at fault: "mapping.4." in a row's `mapping`.
    """

    def __init__(self, values: dict, place: str = "") -> None:
        self.values, self.place, self.read, self.in_messages = values, place, set(), set()

    def get(self, key: str) -> object:
        """Return the value of a key, None where it says nothing; a cell of a sheet may hold it as JSON."""
        self.read.add(key)
        value = self.values.get(key)
        if isinstance(value, Exception):  # of its reader
            raise DialogueError(f"'{self.place}{key}' is not readable: {first_line(value)}")
        if isinstance(value, bytes):  # as older Spark and Hive write text
            with contextlib.suppress(UnicodeDecodeError):
                value = value.decode()
        return None if is_absent(value) else value

    def get_list(self, key: str) -> list:
        """Return the list of a key, of which JSON may stand in a cell of a sheet; raise DialogueError where it is none.

        A row that holds nothing there has an empty list. An object of lists, as `datasets` writes a list of objects to
        Parquet, is that list.
        """
        value = self.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                hint = "; it is Python's form, let json.dumps write it" if re.match(r"\[\s*\{'", value) else ""
                raise DialogueError(f"'{self.place}{key}' is not valid JSON: {error}{hint}") from error
        if isinstance(value, dict) and all(isinstance(column, list) for column in value.values()):
            with contextlib.suppress(ValueError):  # of other lengths
                value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
        if value is not None and not isinstance(value, list):
            raise DialogueError(f"'{self.place}{key}' must be a list, not {name_kind(value)}")
        return value or []

    def get_texts(self, key: str) -> list[str]:
        """Return the list of a key, of texts alone; raise DialogueError for anything else."""
        texts = self.get_list(key)
        for number, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise DialogueError(f"'{self.place}{key}' must hold texts; number {number} is {name_kind(text)}")
        return texts

    def get_object(self, key: str) -> "Row":
        """Return the object of a key, empty where nothing stands there; raise DialogueError for anything else."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise DialogueError(f"'{self.place}{key}' must be an object, not {name_kind(value)}")
        return Row(value or {}, f"{self.place}{key}.")

    def get_text(self, key: str) -> str:
        """Return the text of a key, empty where nothing stands there; raise DialogueError for anything else."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise DialogueError(f"'{self.place}{key}' must be text, not {name_kind(value)}")
        return value or ""

    def unread(self) -> list[str]:
        """Return the keys that hold something and were not read; raise DialogueError where one is UNREADABLE."""
        rest = [key for key, value in self.values.items() if key not in self.read and not is_absent(value)]
        check_readable({key: self.values[key] for key in rest}, "the row")
        if isinstance(self.values.get("label"), bool) and "label" in rest:
            raise DialogueError("'label' tells what was liked and what was not; give these rows to tune_preferences.py")
        return sorted(rest) + sorted(self.in_messages)


def check_readable(values: dict, place: str) -> None:
    """Raise DialogueError for a key of a row or message that holds what no text can say."""
    for key in values.keys() & UNREADABLE:
        value = values[key]
        if not is_absent(value) and value not in ("[]", "{}", "null"):
            raise DialogueError(f"{place} has '{key}', but {UNREADABLE[key]}; leave the row or the key out")


def read_turns(row: Row, turns: list, key: str) -> list[dict]:
    """Return a list of `{role, content}` or `{from, value}` as messages; `key` is where it stands in the row.

    The keys of LangChain's messages and of a few exports are known too.
    """
    messages = []
    for number, given in enumerate(turns, 1):
        place, turn = f"message {number}", open_turn(given)
        if not isinstance(turn, dict):
            expected = "each must be an object with 'role' and 'content', or 'from' and 'value'"
            raise DialogueError(f"'{key}': {place} is {name_kind(turn)}; {expected}")
        role_key, content_key = (
            next((name for name in names if not is_absent(turn.get(name))), names[0])
            for names in (ROLE_KEYS, CONTENT_KEYS)
        )
        if is_absent(turn.get(role_key)):
            found = ", ".join(sorted(map(str, turn))[:8]) or "none"
            raise DialogueError(f"{place} has no role: 'role' and 'content' are expected, or 'from' and 'value'; its "
                                f"keys: {found}")  # fmt: skip
        role = turn[role_key]
        if isinstance(role, str):
            small = role.strip().lower()
            role = ROLE_NAMES.get(small, small if small in (*ROLES, *TOOL_ROLES) else role)
        if role in TOOL_ROLES:
            raise DialogueError(f"{place} has the role '{role}', but {TOOLS}; leave the row out")
        check_readable(turn, place)
        if role == "system" and is_absent(turn.get(content_key)):  # as many write where there is none
            continue
        message = {"role": role, "content": read_content(turn.get(content_key), f"{place} ({role})")}
        if not reads_weight(turn, role, place):
            message["weight"] = 0
        if isinstance(turn.get("liked"), bool):
            message["liked"] = turn["liked"]
        messages.append(message)
        known = {role_key, content_key, *WEIGHTS}
        row.in_messages |= {
            f"{key}.{name}" for name, value in turn.items() if name not in known and not is_absent(value)
        }
    return messages


def open_turn(turn: Any) -> object:
    """Return a message as an object: one of Parquet's maps, or LangChain's `{type, data: {content}}`."""
    if (
        isinstance(turn, list)
        and turn
        and all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in turn)
    ):
        turn = dict(turn)
    if isinstance(turn, dict) and turn.get("type") in ("human", "ai", "system") and not turn.keys() & {*ROLE_KEYS}:
        data = turn.get("data")
        return {"role": turn["type"], **(data if isinstance(data, dict) else {}), **{
            name: value for name, value in turn.items() if name not in ("type", "data")
        }}  # fmt: skip
    return turn


def take_turns(texts: list[str]) -> list[dict]:
    """Return texts as messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def split_transcript(text: str) -> list[dict] | None:
    """Return the messages of a transcript, None for another text; an answer that is to come is left out.

    Anthropic's have a blank line before each turn, BELLE's none.

    >>> split_transcript("\\n\\nHuman: Tea?\\n\\nAssistant:")
    [{'role': 'user', 'content': 'Tea?'}]
    """
    gap = r"\n\n" if "\n\nAssistant:" in text else r"\n"
    before, *pieces = re.split(rf"(?:\A|{gap})\s*(Human|Assistant):", text)
    if before.strip() or pieces[:1] != ["Human"] or "Assistant" not in pieces:
        return None
    messages = [
        {"role": "user" if name == "Human" else "assistant", "content": words.strip()}
        for name, words in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return messages if messages[-1]["content"] else messages[:-1]


def read_content(content: object, place: str) -> object:
    """Return the text of a message's content, of which a list of text parts is joined; raise DialogueError for others.

    >>> read_content([{"type": "text", "text": "Hello, "}, {"type": "text", "text": "you"}], "message 1 (user)")
    'Hello, you'
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content or not all(isinstance(part, dict) for part in content):
        raise DialogueError(f"{place} has no text in 'content': {name_kind(content)} stands there")
    texts = []
    for part in content:
        kind, text = part.get("type", "text" if part.keys() == {"text"} else None), part.get("text")
        if kind not in TEXT_PARTS or not isinstance(text, str):
            raise DialogueError(f"{place} has a part of type {str(kind)[:40]!r} in 'content'; {MEDIA}: "
                                '[{"type": "text", "text": "..."}]')  # fmt: skip
        texts.append(text)
    return "".join(texts)


def reads_weight(turn: dict, role: object, place: str) -> bool:
    """Tell whether a message is to be learned from: not with `weight: 0` (OpenAI), `train: false` (axolotl),
    `loss: false` (ms-swift) or `liked: false`, a thumb down in our chat.

    Raises DialogueError for a weight that can't be heeded.
    """
    for key in WEIGHTS:
        weight = turn.get(key)
        if is_absent(weight):
            continue
        if weight not in (0, 1) or (weight and role != "assistant"):
            raise DialogueError(f"{place} has '{key}'; 0 (not learned from) is expected, or 1 for the assistant's")
        if not weight:
            return False
    return True


def as_question(text: str) -> list[dict]:
    """Return a question as messages: its own where it is a transcript."""
    return split_transcript(text) or [{"role": "user", "content": text}]


def add_system(row: Row, messages: list[dict]) -> list[dict]:
    """Return the messages after the system's of the row's own key, where there is one."""
    key = next((key for key in SYSTEM_KEYS if row.get(key) is not None), "system")
    parts = row.get(key)
    system = read_content(parts, f"'{key}'") if isinstance(parts, list) else row.get_text(key)
    if not system or messages[:1] == [{"role": "system", "content": system}]:
        return messages
    if messages and messages[0]["role"] == "system":
        raise DialogueError(f"'{key}' and a system message stand in one row; leave one out")
    return [{"role": "system", "content": system}, *messages]
