"""Judges prose by the rules of Gopher, C4 and FineWeb, in languages without spaces by characters instead of words.

Gopher: Rae et al. 2021, arXiv 2112.11446, tables A1 and A2. C4: Raffel et al. 2020, arXiv 1910.10683. FineWeb: Penedo
et al. 2024, arXiv 2406.17557. The limits are theirs, as in datatrove, whose own filters cut words by nltk or
spaCy, and know no Chinese. Each judge returns the reason to drop a document, or None.
"""

import re
from typing import NamedTuple

from data_utils.text.characters import LETTER, SPACE, count_marked, join_codes, kind_table
from data_utils.text.languages import UNSPACED, count_all_scripts

ENGLISH_STOP_WORDS = (" the ", " be ", " to ", " of ", " and ", " that ", " have ", " with ")
STOP_CHARACTERS = {"zh": tuple("的是了在有不这這和我他為为與与之也而其"), "ja": tuple("のはがをにでとたてもし")}
BULLETS = frozenset("•-*·●▪■※")
ELLIPSES = ("...", "…")
STOPS = frozenset(".?!\"'。？！；”’」』…：:;)）")
CHINESE_MARKS = (*"，。！？；：、", ", ", ". ")
LETTER_IN_WORD = re.compile(r"[^\W\d_]")
LINK = re.compile(r"https?://|www\.|[|｜»›>]")
LINK_SIGNS = ("://", "www.", "|", "｜", "»", "›", ">")  # a link holds one of them
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
POLICY_PHRASES += ("javascript", "lorem ipsum", "all rights reserved", "版权所有", "版權所有", "隐私政策", "隱私政策")
POLICY_PHRASES += ("服务条款", "使用条款", "备案号", "icp备", "icp证", "使用cookie", "公网安备")
POLICY = re.compile("|".join(POLICY_PHRASES), re.IGNORECASE)
MAX_POLICY_LINE = 200  # a longer line is a paragraph about such things


def drop_policy_lines(text: str) -> str:
    """Return text without short lines about scripts, cookies and terms of use (C4).

    >>> drop_policy_lines("Tea.\\nThis site uses cookies.\\n© 2020 版权所有")
    'Tea.'
    """
    lowered = text.lower()
    if not any(phrase in lowered for phrase in POLICY_PHRASES):
        return text
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > MAX_POLICY_LINE or not POLICY.search(line)]
    return "\n".join(kept).strip("\n") if len(kept) < len(lines) else text


class Words(NamedTuple):
    """What is counted of a text with words."""

    words: int  # what stands between spaces
    unlettered: int  # of these, what doesn't begin with a letter
    characters: int  # that are neither a space nor a line end


def scan_quality(texts: list[str], languages: list[str]) -> list[Words | dict[str, int]]:
    """Return for each of many texts what `judge_quality` counts: letters by script where there are no words."""
    unspaced = [language in UNSPACED for language in languages]
    scripts = iter(count_all_scripts([text for text, is_unspaced in zip(texts, unspaced, strict=True) if is_unspaced]))
    words = iter(count_words([text for text, is_unspaced in zip(texts, unspaced, strict=True) if not is_unspaced]))
    return [next(scripts if is_unspaced else words) for is_unspaced in unspaced]


def count_words(texts: list[str]) -> list[Words]:
    """Count the words of many texts.

    >>> count_words(["Tea: 2 cups", " "])
    [Words(words=3, unlettered=1, characters=9), Words(words=0, unlettered=0, characters=0)]
    """
    if not texts:
        return []
    codes, bounds = join_codes(texts)
    kinds = kind_table().take(codes)
    is_start = (kinds & SPACE) == 0
    is_start[1:] &= (kinds[:-1] & SPACE) > 0
    words = count_marked(is_start, bounds)
    unlettered = count_marked(is_start & ((kinds & LETTER) == 0), bounds)
    blank = count_marked((codes == ord(" ")) | (codes == ord("\n")), bounds)
    return list(map(Words, words.tolist(), unlettered.tolist(), (bounds[1:] - bounds[:-1] - blank).tolist()))


def judge_quality(text: str, language: str, known: Words | dict[str, int] | None = None) -> str | None:
    """Return why a document is no good prose, or None: its length, words, lines and punctuation.

    `known` is what `scan_quality` says of the text, where that was asked.

    >>> judge_quality("tea " * 60, "en"), judge_quality("首页 | 新闻 | 视频 | 图片 | 登录\\n" * 20, "zh")
    ('few_stop_words', 'few_marks')
    """
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if not lines:
        return "empty"
    known = known or scan_quality([text], [language])[0]
    is_counted = isinstance(known, Words)
    reason = judge_words(text, language, known) if is_counted else judge_characters(text, language, known)
    return reason or judge_lines(text, lines, language)


def judge_words(text: str, language: str, known: Words) -> str | None:
    """Apply the word rules of Gopher."""
    words = known.words
    if not 50 <= words <= 100_000:
        return "few_words" if words < 50 else "many_words"
    if not (2 if language == "ko" else 3) <= known.characters / words <= 10:  # a Korean syllable is a character
        return "word_length"
    if text.count("#") > 0.1 * words or text.count("...") + text.count("…") > 0.1 * words:
        return "symbols"
    limit = 0.8 * words
    if words - known.unlettered < limit and sum(map(bool, map(LETTER_IN_WORD.search, text.split()))) < limit:
        return "few_alphabetic_words"
    padded = f" {text} ".replace("\n", " ")
    return "few_stop_words" if language == "en" and sum(word in padded for word in ENGLISH_STOP_WORDS) < 2 else None


def judge_characters(text: str, language: str, scripts: dict[str, int]) -> str | None:
    """Apply to a language without spaces what the word rules mean there: a word is about one and a half characters."""
    size = len(text) - text.count(" ") - text.count("\n")
    letters = scripts["han"] + scripts["kana"] if language in STOP_CHARACTERS else scripts["other"]
    if not 50 <= letters <= 150_000:
        return "few_characters" if letters < 50 else "many_characters"
    if letters < 0.5 * size and letters < 0.2 * sum(scripts.values()):
        return "few_han"
    if text.count("#") > 0.07 * letters or text.count("...") + text.count("…") > 0.14 * letters:
        return "symbols"
    if language not in STOP_CHARACTERS:  # Thai and its like have few marks
        return None
    marks = sum(map(text.count, CHINESE_MARKS))
    if marks < 0.01 * letters:
        return "few_marks"
    if marks > 0.5 * letters:
        return "many_marks"
    return "few_stop_words" if sum(character in text for character in STOP_CHARACTERS[language]) < 2 else None


def judge_lines(text: str, lines: list[str], language: str) -> str | None:
    """Apply the line rules of Gopher and FineWeb; a line of Chinese has about a third of the characters."""
    count = len(lines)
    if sum([line[0] in BULLETS for line in lines]) > 0.9 * count:
        return "bullets"
    may_be_ellipses = any(sign in text for sign in ELLIPSES)
    if may_be_ellipses and sum(line.endswith(ELLIPSES) for line in lines) > 0.3 * count:
        return "ellipsis_lines"
    ends_lines = language not in UNSPACED or language in STOP_CHARACTERS  # Thai and its like don't, by a mark
    if ends_lines and sum([line[-1] in STOPS for line in lines]) < 0.12 * count:
        return "unfinished_lines"
    lengths = list(map(len, lines))
    longest_short = 10 if language in UNSPACED else 30
    if sum([length <= longest_short for length in lengths]) > 0.67 * count:
        return "short_lines"
    may_be_links = count > 5 and any(sign in text for sign in LINK_SIGNS)
    if may_be_links and sum(bool(LINK.search(line)) for line in lines) > 0.5 * count:
        return "links"
    words = sum(lengths) / (1.5 if language in UNSPACED else 5)
    return "list" if count > 0.3 * words else None
