"""Quality rules of Gopher, C4 and FineWeb for languages with words, and their counterparts by characters for Chinese.

Gopher: Rae et al. 2021, arXiv 2112.11446, tables A1 and A2. C4: Raffel et al. 2020, arXiv 1910.10683. FineWeb: Penedo
et al. 2024, arXiv 2406.17557. The limits are theirs, as in datatrove, whose own filters cut words by nltk or
spaCy, and know no Chinese. Each judge returns the reason to drop a document, or None.
"""

import re

from data_utils.cleaning.languages import count_scripts

ENGLISH_STOP_WORDS = (" the ", " be ", " to ", " of ", " and ", " that ", " have ", " with ")
CHINESE_STOP_CHARACTERS = tuple("的是了在有不这這和我他為为與与之也而其")
BULLETS = ("•", "-", "*", "·", "●", "▪", "■", "※")
ELLIPSES = ("...", "…")
STOPS = tuple(".?!\"'。？！；”’」』…：:;)）")
CHINESE_MARKS = (*"，。！？；：、", ", ", ". ")
LETTER_IN_WORD = re.compile(r"[^\W\d_]")
LINK = re.compile(r"https?://|www\.|[|｜»›>]")
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


def judge_quality(text: str, language: str) -> str | None:
    """Return why a document is no good prose, or None: its length, words, lines and punctuation.

    >>> judge_quality("tea " * 60, "en"), judge_quality("首页 | 新闻 | 视频 | 图片 | 登录\\n" * 20, "zh")
    ('few_stop_words', 'few_marks')
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return "empty"
    reason = judge_characters(text) if language == "zh" else judge_words(text, language)
    return reason or judge_lines(lines, language)


def judge_words(text: str, language: str) -> str | None:
    """Apply the word rules of Gopher."""
    words = text.split()
    if not 50 <= len(words) <= 100_000:
        return "few_words" if len(words) < 50 else "many_words"
    length = (len(text) - text.count(" ") - text.count("\n")) / len(words)
    if not 3 <= length <= 10:
        return "word_length"
    if text.count("#") > 0.1 * len(words) or text.count("...") + text.count("…") > 0.1 * len(words):
        return "symbols"
    limit = 0.8 * len(words)
    if sum(map(str.isalpha, words)) < limit and sum(map(bool, map(LETTER_IN_WORD.search, words))) < limit:
        return "few_alphabetic_words"
    if language == "en" and not holds_two(f" {text} ".replace("\n", " "), ENGLISH_STOP_WORDS):
        return "few_stop_words"
    return None


def judge_characters(text: str) -> str | None:
    """Apply to Chinese what the word rules mean there: a word is about one and a half characters."""
    size = len(text) - text.count(" ") - text.count("\n")
    scripts = count_scripts(text)
    han = scripts["han"]
    if not 50 <= han <= 150_000:
        return "few_characters" if han < 50 else "many_characters"
    if han < 0.5 * size and han < 0.2 * sum(scripts.values()):
        return "few_han"
    if text.count("#") > 0.07 * han or text.count("...") + text.count("…") > 0.14 * han:
        return "symbols"
    marks = sum(map(text.count, CHINESE_MARKS))
    if marks < 0.01 * han:
        return "few_marks"
    if marks > 0.5 * han:
        return "many_marks"
    if not holds_two(text, CHINESE_STOP_CHARACTERS):
        return "few_stop_words"
    return None


def holds_two(text: str, parts: tuple[str, ...]) -> bool:
    """Tell whether at least two of some parts are in a text."""
    return sum(1 for _, part in zip(range(2), (part for part in parts if part in text), strict=False)) == 2


def judge_lines(lines: list[str], language: str) -> str | None:
    """Apply the line rules of Gopher and FineWeb; a line of Chinese has about a third of the characters."""
    count = len(lines)
    if sum(line.startswith(BULLETS) for line in lines) > 0.9 * count:
        return "bullets"
    if sum(line.endswith(ELLIPSES) for line in lines) > 0.3 * count:
        return "ellipsis_lines"
    if sum(line.endswith(STOPS) for line in lines) < 0.12 * count:
        return "unfinished_lines"
    if sum(len(line) <= (10 if language == "zh" else 30) for line in lines) > 0.67 * count:
        return "short_lines"
    if count > 5 and sum(bool(LINK.search(line)) for line in lines) > 0.5 * count:
        return "links"
    words = sum(map(len, lines)) / (1.5 if language == "zh" else 5)
    return "list" if count > 0.3 * words else None
