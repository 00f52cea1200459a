"""Finds which characters many texts hold, at once in numpy: what a step then looks at closer is rare.

A numpy call costs about two microseconds whatever it works on, which is more than the work on a short document. So the
steps are told of a batch of texts at once what their patterns would look for in vain.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np
from ftfy.badness import MOJIBAKE_CATEGORIES

MAX_CODE = 0x40000  # no letters above
# Kinds of characters, bits of the table.
UNPRINTABLE = 1  # all that is not printed, line ends, tabs and the usual spaces aside
SUSPICIOUS = 2  # part of mojibake of Latin letters, or U+FFFC
UNNORMAL = 4  # may change in NFC, by itself or after another
MARK = 8  # printable, yet not seen
REPLACED = 16  # what stands in place of lost bytes: U+FFFD and the beginnings of what GB18030 made of it
SPACE = 32
LETTER = 64  # no digit
SUSPECT = re.compile(f"[{''.join(MOJIBAKE_CATEGORIES.values())}]")  # without one of these there is no mojibake for ftfy
# Nor where all are of these: each of ftfy's patterns wants a letter or sign of another category too.
HARMLESS = re.compile("[{common}{start_punctuation}{end_punctuation}]".format(**MOJIBAKE_CATEGORIES))
PRINTABLE_MARKS = (0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10))
PRINTED_SPACES = "\n\t\u3000\xa0"  # not printable by Unicode, but seen
PLAIN_ASCII = bytes(range(32, 127)) + b"\n\t"


def join_codes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of D texts, a line end after each, and (D + 1,) where each begins.

    Those without letters, above MAX_CODE, are one.
    """
    data = "\n".join([*texts, ""]).encode("utf-32-le", "surrogatepass")
    codes = np.minimum(np.frombuffer(data, np.uint32), MAX_CODE)
    return codes, np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)])


def count_marked(marked: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return (D,) how many entries of a bool array are true in each text of a batch."""
    return np.add.reduceat(marked.view(np.uint8), bounds[:-1], dtype=np.int32)


def find_kinds(texts: list[str]) -> list[int]:
    """Return for each text which kinds of characters it holds, as far as they matter for its repair.

    >>> [kinds & (UNPRINTABLE | SUSPICIOUS) for kinds in find_kinds(["tea, 茶\\n", "te\\x07a", "tea\\u200b", "cafÃ©"])]
    [0, 1, 1, 2]
    """
    kinds = [0 if text.isascii() else -1 for text in texts]
    others = [text for text, kind in zip(texts, kinds, strict=True) if kind]
    found: list[int] = []
    if others:
        codes, bounds = join_codes(others)
        found = np.bitwise_or.reduceat(kind_table().take(codes), bounds[:-1]).tolist()
    wide = iter(found)
    return [
        next(wide) if kind else UNPRINTABLE * bool(text.encode().translate(None, PLAIN_ASCII))
        for text, kind in zip(texts, kinds, strict=True)
    ]


@cache
def kind_table() -> np.ndarray:
    """Return (MAX_CODE + 1,) uint8, the kinds of each character."""
    table = np.zeros(MAX_CODE + 1, np.uint8)
    characters = [chr(code) for code in range(MAX_CODE)]

    def has(test: Callable[[str], bool], kind: int) -> np.ndarray:
        return np.fromiter(map(test, characters), bool, MAX_CODE) * np.uint8(kind)

    table[:-1] = UNPRINTABLE - has(str.isprintable, UNPRINTABLE) + has(str.isspace, SPACE)
    table[:-1] |= has(str.isalnum, LETTER) & ~has(str.isdecimal, LETTER)
    table[[ord(character) for character in PRINTED_SPACES]] &= 255 - UNPRINTABLE
    table[MAX_CODE] |= UNPRINTABLE | UNNORMAL  # whatever it stands for
    suspects = SUSPECT.findall("".join(characters[:0x10000]))
    table[[ord(character) for character in suspects if not HARMLESS.match(character)]] |= SUSPICIOUS
    table[0xFFFC] |= SUSPICIOUS
    table[:-1] |= has(lambda c: bool(unicodedata.combining(c)) or not unicodedata.is_normalized("NFC", c), UNNORMAL)
    table[0x1161:0x11C3] |= UNNORMAL  # parts of Korean syllables
    for character in characters:
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and parts[0][0] != "<":
            table[int(parts[1], 16)] |= UNNORMAL  # composes with what stands before it
    table[list(PRINTABLE_MARKS)] |= MARK
    table[[ord(character) for character in "\ufffd锟烫屯"]] |= REPLACED
    return table
