"""Tells by bytes what cannot fit in the context window, before any of it is cleaned or tokenized.

Cleaning and tokenizing take seconds a megabyte.
"""

MAX_TOKEN_BYTES = 64  # that many a token, and a text is longer than the window


def count_bytes(text: str) -> int:
    """Return the size of a text in UTF-8, without the space around it."""
    return len(text.strip().encode("utf-8", "replace"))


def longest_bytes(window: int) -> int:
    """Return the size of the longest text that may fit in a window of N tokens."""
    return MAX_TOKEN_BYTES * window


def is_too_long(text: str, window: int) -> bool:
    """Tell whether a text cannot fit in a window of N tokens."""
    return count_bytes(text) > longest_bytes(window)


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
