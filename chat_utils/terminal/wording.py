"""Words the chat's own messages in English and Chinese: at first by the locale, then by what the user types."""

import errno
import os
import re
from json import JSONDecodeError
from pathlib import Path

import yaml

from errors import first_line

LANGUAGES = ("en", "zh")
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
LATIN_WORD = re.compile(r"[A-Za-z]+")

WORDS = yaml.safe_load((Path(__file__).parent / "messages.yaml").read_text(encoding="utf-8"))
MESSAGES: dict[str, list[str]] = WORDS["messages"]
HELP: dict[str, list[list[str]]] = WORDS["commands"]  # of each command: what follows its name, and what it does
REASONS: dict[str, str] = WORDS["reasons"]


def translate(error: BaseException | None) -> str | None:
    """Return in Chinese what an error says, by its code, the system's number or its type; None where none is known."""
    number = getattr(error, "errno", None)
    code, values = getattr(error, "coded", (errno.errorcode.get(number or 0, type(error).__name__), ()))
    if isinstance(error, JSONDecodeError):
        values = (error.lineno, error.colno)
    return REASONS[code].format(*values) if code in REASONS else None


def put_reason(error: Exception, language: str) -> str:
    """Return in one line why something failed, in a language; a library's own words stay, in quotation marks.

    >>> from errors import coded
    >>> put_reason(coded(ValueError("no such file"), "no_file"), "zh"), put_reason(ValueError("bad magic"), "zh")
    ('没有这个文件', '程序出错：“bad magic”')
    """
    reason = getattr(error, "strerror", None) or first_line(error)
    if language == "en":
        return reason
    return translate(error) or translate(error.__cause__) or f"程序出错：“{reason}”"


def say(key: str, language: str, **values: object) -> str:
    """Return a message in a language.

    >>> say("saved", "zh", path="a.json")
    '已保存到 a.json'
    """
    reason = values.get("reason")
    if isinstance(reason, Exception):
        values["reason"] = put_reason(reason, language)
    return MESSAGES[key][LANGUAGES.index(language)].format(**values)


def locale_language() -> str:
    """Return "zh" where the environment's locale is Chinese, else "en"."""
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return "zh" if next((name for name in names if name), "").lower().startswith("zh") else "en"


def typed_language(text: str, language: str) -> str:
    """Return the language that a message is typed in; `language` where it has no words.

    >>> [typed_language(text, "en") for text in ("你好，GPT", "What does 你好 mean?", "12 + 3")]
    ['zh', 'en', 'en']
    """
    text = text[:10_000]
    han, words = len(HAN.findall(text)), len(LATIN_WORD.findall(text))
    if not han and not words:
        return language
    return "zh" if han >= words else "en"
