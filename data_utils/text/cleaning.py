"""Cleans a text: mojibake, Unicode, control characters, what a reader does not see; tidies lines."""

import re
import unicodedata
from functools import cache
from typing import Any, Literal
from unicodedata import combining

import ftfy
from ftfy.badness import is_bad

from data_utils.text.characters import MARK, MAX_CODE, SUSPECT, SUSPICIOUS, UNNORMAL, UNPRINTABLE, find_kinds
from errors import needing

CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
C1 = re.compile(r"[\x80-\x9f]")
# Of the spaces that are printed; the pattern begins with what is quickly found.
SPACED_END = re.compile(r"\n(?<=[ \t\u3000\xa0]\n)")
# A pattern holds the interpreter's lock for as long as it reads, and other threads, such as a server's, wait.
PIECE_CHARACTERS, PIECE_SUSPECTS = 32_768, 1_000
KEPT = ftfy.TextFixerConfig(  # what is no mojibake
    normalization=None, uncurl_quotes=False, fix_latin_ligatures=False, fix_character_width=False, unescape_html=False
)
MAX_MARKS = 30  # on one letter, as in stream-safe text (UAX 15): no language has as many
Form = Literal["NFD", "NFKD"]


def clean_text(text: str, kinds: int | None = None) -> str:
    """Repair and normalise text without changing what a reader sees.

    Mojibake is repaired (ftfy), Unicode composed (NFC), control characters dropped, line ends made `\\n`, spaces at
    line ends and more than one blank line removed. `kinds`: what `find_kinds` says, where that was asked. Of
    more than MAX_MARKS marks on one letter the further ones are dropped: to compose them takes quadratic time.

    >>> clean_text("cafe\\u0301\\r\\n\\x00schÃ¶n  \\n\\n\\n\\nend")
    'café\\nschön\\n\\nend'
    """
    if "\r" in text:
        text, kinds = text.replace("\r\n", "\n").replace("\r", "\n"), None
    kinds = find_kinds([text])[0] if kinds is None else kinds
    text = cut_marks(text) if kinds & UNNORMAL else text
    before = None
    while text != before:  # what is repaired, or loses a space beside it, may be mojibake again; most text is not
        before = text
        if not is_sound(text, kinds):  # most text is: 20 times faster than to look for what could be repaired
            text = repair_characters(text)
            kinds = find_kinds([text])[0]
        text = tidy_lines(text, kinds)
        if not kinds & SUSPICIOUS:
            break
    return text


def repair_characters(text: str) -> str:
    """Return text without mojibake and control characters, its Unicode composed."""
    text = CONTROL.sub("", text)
    if text.isascii():
        return text
    text = cut_marks(text)  # what parted them is gone
    text = "".join([ftfy.fix_text(piece, KEPT) for piece in cut_pieces(text)])
    # C1 is dropped after ftfy, since it may be part of mojibake; NFC is last, since what parted a letter is gone.
    text = cut_marks(C1.sub("", CONTROL.sub("", text)))
    return "".join([unicodedata.normalize("NFC", piece) for piece in cut_pieces(text)])


def cut_marks(text: str, form: Form = "NFD") -> str:
    """Return text with at most MAX_MARKS in a row of what a form of Unicode decomposes to combining marks.

    >>> len(cut_marks("a" + "\u0301\u0316" * 1000 + "b")), len(cut_marks("ཀ" + "\u0f73" * 1000))
    (32, 31)
    """
    return _marks(form).sub(r"\1", text)


@cache
def _marks(form: Form) -> re.Pattern:
    # Some are marks in their decomposition alone, such as U+0F73 in NFD and U+FF9E in NFKD.
    marks = "".join(c for c in map(chr, range(MAX_CODE)) if combining(unicodedata.normalize(form, c)[0]))
    return re.compile(f"([{marks}]{{{MAX_MARKS}}})[{marks}]++")


def cut_pieces(text: str, size: int = PIECE_CHARACTERS) -> list[str]:
    """Cut a text into pieces of `size` to twice as many characters: after a line or a space, where there is one.

    >>> cut_pieces("one two three four", 5)
    ['one two ', 'three ', 'four']
    """
    pieces, start = [], 0
    while len(text) - start > size:
        near = start + size, start + 2 * size
        cut = max(text.find("\n", *near), 0) or max(text.find(" ", *near), 0) or min(near[1], len(text)) - 1
        first = max(start, cut - 2 * MAX_MARKS)  # a longer run composes with nothing before it
        while first < cut < len(text) - 1 and (combining(text[cut + 1]) or "\u1160" <= text[cut + 1] <= "\u11ff"):
            cut -= 1  # what composes with the character before it stays with that
        pieces.append(text[start : cut + 1])
        start = cut + 1
    return [*pieces, text[start:]] if start < len(text) else pieces


def is_sound(text: str, kinds: int) -> bool:
    """Tell quickly whether there is nothing in a text that `clean_text` repairs or drops, line ends aside.

    All that it drops is not printable; ftfy changes, of printable text, what its `is_bad` names and U+FFFC.
    """
    if kinds & UNPRINTABLE or "\ufffc" in text:
        return False
    if kinds & SUSPICIOUS:
        # What ftfy looks for is at most seven characters wide: its slow pattern sees the neighbours of suspects only.
        windows = [text[max(0, match.start() - 7) : match.start() + 8] for match in SUSPECT.finditer(text)]
        parts = (windows[start : start + PIECE_SUSPECTS] for start in range(0, len(windows), PIECE_SUSPECTS))
        if any(is_bad("\n".join(part)) for part in parts) or "\nÃ " in text or "\nÂ " in text:
            return False
    return not kinds & UNNORMAL or all(unicodedata.is_normalized("NFC", piece) for piece in cut_pieces(text))


def tidy_lines(text: str, kinds: int) -> str:
    """Return text without spaces at line ends and more than one blank line; `kinds` of characters are in it."""
    if kinds & UNPRINTABLE or SPACED_END.search(text):
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    text = re.sub(r"\n{3,}", "\n\n", text) if "\n\n\n" in text else text
    return text.strip()


# jieba joins letters of these to words, in time that grows with the square of a run.
PIECES = re.compile(r"[\u4e00-\u9fd5a-zA-Z0-9+#&._%-]{1,1000}|[^\u4e00-\u9fd5a-zA-Z0-9+#&._%-]+")


def drop_stop_words(text: str) -> str:
    """Return text without English and Chinese stop words, cut into words by jieba: for study, not to generate by."""
    with needing("--clean stop_words", "corpus.txt"):
        import jieba
        import stopwordsiso
    jieba.setLogLevel("WARNING")
    stop_words = stopwordsiso.stopwords(["en", "zh"])
    words = [word for piece in PIECES.findall(text) for word in jieba.cut(piece) if word.lower() not in stop_words]
    return re.sub(r"[ \t]+", " ", "".join(words)).strip()


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
    text = cut_marks(text, "NFKD")
    return text if unicodedata.is_normalized("NFKC", text) else unicodedata.normalize("NFKC", text)


def to_simplified(text: str) -> str:
    """Return Chinese text in simplified characters, word by word where one character stands for several.

    >>> to_simplified("頭髮和發展")
    '头发和发展'
    """
    return _converter().convert(text)


@cache
def _converter() -> Any:
    with needing("--clean simplified", "corpus.txt"):
        import opencc
    return opencc.OpenCC("t2s")
