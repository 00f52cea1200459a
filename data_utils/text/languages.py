"""Tells which language a text is in: Chinese, Japanese, Korean by script, English by words, others by py3langid."""

import re
from functools import cache
from typing import Any

import numpy as np

from data_utils.text.characters import MAX_CODE, join_codes
from errors import needing

SCRIPTS = {  # of letters, the first and last of each range; the first script that fits
    "han": ((0x3400, 0x9FFF), (0x20000, 0x3FFFF)),
    "kana": ((0x3041, 0x3096), (0x30A1, 0x30FA), (0xFF66, 0xFF9D)),
    "hangul": ((0xAC00, 0xD7A3),),
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0x24F), (0x1E00, 0x1EFF)),
    "other": ((0, MAX_CODE - 1),),
}
WORD = re.compile(rb"[a-z']+")
ASCII_LETTER = re.compile("[a-zA-Z]")
CODE = re.compile(r"```.*?(?:```|\Z)|https?://\S+|^(?: {4}|\t)[^\n]*$", re.DOTALL | re.MULTILINE)
# Frequent in English and in no other language written with the same letters ("in", "an", "is" are elsewhere too).
ENGLISH_WORDS = frozenset(
    WORD.findall(
        b"the of and that this with for are was were have has had not but you your they their from which would there "
        b"been what will when who could should about into than them these those because through where after while does "
        b"did it's don't i'm can its his her she he my we our how why if or at be by to"
    )
)
PARTS_WORDS = bytes(code if WORD.match(bytes([code])) else ord(" ") for code in range(256))
UNSPACED = ("zh", "ja", "th", "lo", "km", "my")  # languages without spaces between words: judged by their characters
CHINESE = ("zh", "wuu", "yue", "lzh", "cmn")
SAMPLE_CHARACTERS = 2000
SCRIPT_CHARACTERS = 20_000  # counting scripts is cheap


def detect_language(text: str) -> str:
    """Return the language that a text's letters tell: 'zh', 'ja', 'ko', 'en' for Latin ones or none, or 'other'.

    >>> [detect_language(text) for text in ("我喜欢 Python", "I like tea", "お茶が好きです", "Я люблю чай")]
    ['zh', 'en', 'ja', 'other']
    """
    if text.isascii():
        return "en"
    scripts = count_scripts(text[:SAMPLE_CHARACTERS])
    return name_script(scripts) or ("other" if scripts["other"] > 0.5 * sum(scripts.values()) else "en")


def name_script(scripts: dict[str, int]) -> str:
    """Return 'zh', 'ja' or 'ko' by the letters of each script, '' where a fifth of them is of none of these."""
    wide, least = scripts["han"] + scripts["kana"], max(1, 0.2 * sum(scripts.values()))
    if scripts["hangul"] > wide and scripts["hangul"] >= least:
        return "ko"
    # Chinese shops like の; Japanese with hardly any kana is a list of names.
    return "" if wide < least else "ja" if scripts["kana"] > 0.08 * wide else "zh"


def count_scripts(text: str) -> dict[str, int]:
    """Return how many letters of a text are of each of SCRIPTS.

    >>> count_scripts("我喜欢 Python!")
    {'han': 3, 'kana': 0, 'hangul': 0, 'latin': 6, 'other': 0}
    """
    return count_all_scripts([text])[0]


def count_all_scripts(texts: list[str]) -> list[dict[str, int]]:
    """Return for each of many texts what `count_scripts` does."""
    if not texts:
        return []
    codes, bounds = join_codes(texts)
    kinds = len(SCRIPTS) + 1
    numbers = np.repeat(np.arange(0, kinds * len(texts), kinds), np.diff(bounds)) + _script_table().take(codes)
    counts = np.bincount(numbers, minlength=kinds * len(texts)).reshape(-1, kinds)[:, 1:].tolist()
    return [dict(zip(SCRIPTS, row, strict=True)) for row in counts]


@cache
def _script_table() -> np.ndarray:
    table = np.zeros(MAX_CODE + 1, np.uint8)
    table[:-1] = np.fromiter(map(str.isalpha, map(chr, range(MAX_CODE))), bool)
    for number, ranges in reversed(list(enumerate(SCRIPTS.values(), 1))):
        for first, last in ranges:
            part = table[first : last + 1]
            part[part > 0] = number
    return table


def identify_language(text: str, scripts: dict[str, int] | None = None) -> str:
    """Return the language (ISO 639-1) that most of a text is in, '' where it has no letters.

    Scripts decide for Chinese, Japanese and Korean, common words for English; py3langid for the rest. Code and
    addresses count for nothing unless there is nothing else. `scripts` is what `count_scripts` says of the text's first
    SCRIPT_CHARACTERS, where that is known.

    >>> [identify_language(text) for text in ("今天下雨。", "今日は雨です。", "The rain has come.", "42")]
    ['zh', 'ja', 'en', '']
    """
    sample = text[:SCRIPT_CHARACTERS]
    if "`" in sample or "://" in sample or "\n    " in sample or "\n\t" in sample:
        prose = CODE.sub(" ", sample)
        in_prose = count_scripts(prose)
        if sum(in_prose.values()) >= 20:
            sample, scripts = prose, in_prose
    if not sample.isascii():
        scripts = scripts or count_scripts(sample)
        letters = sum(scripts.values())
        if not letters:
            return ""
        if language := name_script(scripts):  # a sign of these says as much as about three Latin letters
            return language
        is_latin = scripts["latin"] >= 0.8 * letters
    elif not (is_latin := bool(ASCII_LETTER.search(sample))):
        return ""
    sample = take_sample(sample)
    words = sample.lower().replace("’", "'").encode("ascii", "replace").translate(PARTS_WORDS).split()
    if is_latin and words and sum(map(ENGLISH_WORDS.__contains__, words)) >= 0.2 * len(words):
        return "en"
    language = _identifier().classify(sample)[0]
    return "zh" if language in CHINESE else language


def scan_scripts(texts: list[str]) -> list[dict[str, int] | None]:
    """Return for each text what `identify_language` has to know of its scripts: nothing where it is ASCII."""
    wide = [text[:SCRIPT_CHARACTERS] for text in texts if not text.isascii()]
    scripts = iter(count_all_scripts(wide))
    return [None if text.isascii() else next(scripts) for text in texts]


def take_sample(text: str) -> str:
    """Return the beginning, middle and end of a text, which together decide."""
    third, middle = SAMPLE_CHARACTERS // 5, len(text) // 2
    if len(text) <= 3 * third:
        return text
    return "\n".join((text[:third], text[middle : middle + third], text[-third:]))


@cache
def _identifier() -> Any:
    with needing("--clean language", "corpus.txt"):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    return LanguageIdentifier.from_model_file(MODEL_FILE)
