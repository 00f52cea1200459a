"""Checks and cleans a dialogue the way the training data was cleaned, and drops turns that cannot fit."""

import re
import unicodedata
from typing import Any

from data_utils.dialogue.checking import DialogueError, check_message, check_order, too_long
from data_utils.text.cleaning import clean_text
from errors import coded

# That many a token, and a text is longer than the window. Cleaning and tokenizing it would take seconds a megabyte.
MAX_TOKEN_BYTES = 64


def count_bytes(text: str) -> int:
    """Return the size of a text in UTF-8, without the space around it."""
    return len(text.strip().encode("utf-8", "replace"))


def longest_bytes(window: int) -> int:
    """Return the size of the longest text that may fit in a window of N tokens."""
    return MAX_TOKEN_BYTES * window


def keep_end(dialogue: list[dict], window: int) -> tuple[list[dict], int]:
    """Return the dialogue without the oldest turns that can't fit, and how many messages these are.

    The system turn stays, and so does the last message: whether these fit is for who encodes them.

    >>> keep_end([{"role": "user", "content": "a" * 90}, {"role": "user", "content": "b"}], 1)
    ([{'role': 'user', 'content': 'b'}], 1)
    """
    first = 1 if dialogue and dialogue[0]["role"] == "system" else 0
    start, left = len(dialogue), longest_bytes(window)
    while start > first and (left >= 0 or start == len(dialogue)):
        start -= 1
        left -= max(MAX_TOKEN_BYTES, count_bytes(dialogue[start]["content"]))  # a message has a token at least
    start += left < 0 and start < len(dialogue) - 1
    while start < len(dialogue) - 1 and dialogue[start]["role"] != "user":  # a dialogue begins with the user
        start += 1
    return dialogue[:first] + dialogue[start:], start - first


NO_ANSWER = "…"  # stands where nothing was answered, and after what was cut short


def replace_surrogates(value: Any) -> Any:
    """Return a text, or what JSON holds, with halves of characters replaced: JSON can spell them, UTF-8 cannot.

    >>> replace_surrogates({"a\\ud800": ["b", "\\udfff", 1]})
    {'a\ufffd': ['b', '\ufffd', 1]}
    """
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [replace_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {replace_surrogates(key): replace_surrogates(item) for key, item in value.items()}
    return value


def has_words(text: str) -> bool:
    """Tell whether a text has a character that is seen: neither a space, nor a control or format character.

    >>> has_words("\u200b \u200e"), has_words("\u200b?")
    (False, True)
    """
    return any(not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf") for char in text)


def clean_message(text: str, role: str, window: int, number: int | None = None) -> str:
    """Return a message's words, cleaned as those are that the model learned from; a user's message must have some.

    Raises DialogueError, which bears the `number` that it was given, also where no window of so many tokens holds it:
    that shows before the text is read.
    """
    if count_bytes(text) > longest_bytes(window):
        raise too_long(role, window, number=number)
    text = clean_text(replace_surrogates(text))
    text = text if has_words(text) else ""
    if not text and role == "user":
        raise coded(DialogueError("the message has no words that can be read", "empty_message", number), "no_words")
    return text


def clean_dialogue(dialogue: list[dict], window: int) -> tuple[list[dict], int]:
    """Return a dialogue that awaits its reply, cleaned, and how many of its oldest messages were left out unread.

    Those left out can't be in the window. A system turn without words goes too; an answer without words becomes
    NO_ANSWER. Raises DialogueError for what is no such dialogue.
    """
    if not isinstance(dialogue, list) or not all(isinstance(message, dict) for message in dialogue):
        raise DialogueError('a dialogue is a list of messages: [{"role": "user", "content": "Hello!"}]')
    for number, message in enumerate(dialogue, 1):
        check_message(message, number)
    if not dialogue or dialogue[-1]["role"] != "user":
        raise DialogueError("the last message must be the user's, since that is what is answered")
    check_order(dialogue)
    kept, dropped = keep_end(dialogue, window)
    cleaned = []
    for number, message in enumerate(kept, 1):
        role, place = message["role"], number if message["role"] == "system" else number + dropped
        text = clean_message(message["content"], role, window, place)
        if text or role == "assistant":
            cleaned.append({"role": role, "content": text or NO_ANSWER})
    return cleaned, dropped
