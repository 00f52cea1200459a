"""Drops characters that a reader does not see, and folds those that look like others."""

import re
import unicodedata
from functools import cache
from typing import Any

from data_utils.text.characters import MARK, UNPRINTABLE, find_kinds
from data_utils.text.cleaning import cut_marks
from errors import InputError

# Soft hyphen, zero-width space, word joiner and invisible operators, marks of direction, interlinear notes, tags that
# are no part of a flag, variation selectors after a plain letter or sign. ZWJ and ZWNJ are judged by their neighbours.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\U0001bca0-\U0001bca3]"
    "|(?<![\u20e3\u00a9\u00ae\u2000-\u3300\ufe0f\U0001f000-\U0001faff#*0-9])\ufe0f|[\ufe00-\ufe0d]"
    "|(?<!\U0001f3f4)(?<![\U000e0020-\U000e007f])[\U000e0000-\U000e007f]+"
)
JOINERS = re.compile("[\u200c\u200d]+")
# Scripts that write with joiners: Arabic and Syriac to Malayalam and Sinhala, Myanmar, Khmer, Mongolian.
JOINED_SCRIPTS = re.compile(
    "[\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff\u1800-\u18af\ufb50-\ufdff\ufe70-\ufefc]"
)
PICTURES = re.compile("[\u00a9\u00ae\u2190-\u2bff\u3030\u303d\ufe0f\U0001f000-\U0001faff\U000e007f]")


def drop_invisible(text: str, kinds: int | None = None) -> str:
    """Return text without invisible marks; a joiner stays in an emoji and in a script that needs it.

    `kinds` is what `find_kinds` says of the text, where that was asked.

    >>> drop_invisible("a\\u200bb\\u00adc 👩\\u200d👧 می\\u200cخواهم a\\u200cb")
    'abc 👩\\u200d👧 می\\u200cخواهم ab'
    """
    if text.isascii() or not (find_kinds([text])[0] if kinds is None else kinds) & (UNPRINTABLE | MARK):
        return text
    text = INVISIBLE.sub("", text)
    return JOINERS.sub(keep_joiner, text) if "\u200c" in text or "\u200d" in text else text


def keep_joiner(match: re.Match) -> str:
    """Return one joiner where its neighbours need it."""
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    joiner = match[0][0]
    if joiner == "\u200d" and PICTURES.match(before) and PICTURES.match(after):
        return joiner
    return joiner if JOINED_SCRIPTS.match(before) else ""


def fold_compatible(text: str) -> str:
    """Return text in NFKC: full-width letters become plain, ligatures and circled numbers fall apart.

    It changes Chinese punctuation too (，becomes ,), which is why NFC is what `clean_text` does and this a choice.

    >>> fold_compatible("ＡＢＣ ﬁ ①")
    'ABC fi 1'
    """
    text = cut_marks(text)
    return text if unicodedata.is_normalized("NFKC", text) else unicodedata.normalize("NFKC", text)


def to_simplified(text: str) -> str:
    """Return Chinese text in simplified characters, word by word where one character stands for several.

    >>> to_simplified("頭髮和發展")
    '头发和发展'
    """
    return _converter().convert(text)


def check_variant() -> None:
    """Raise InputError where the package for `to_simplified` is missing."""
    _converter()


@cache
def _converter() -> Any:
    try:
        import opencc
    except ImportError as error:
        raise InputError("--clean simplified needs opencc; run: pip install -r requirements/corpus.txt") from error
    return opencc.OpenCC("t2s")
