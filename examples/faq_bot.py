"""Customer service from a FAQ file: it answers in the file's own words or says that it does not know.

python chat.py --serve &
python examples/faq_bot.py examples/faq_en.md
echo 怎么退货 | python examples/faq_bot.py examples/faq_zh.md

A small model knows no facts, so it is never asked for one. The entry that fits best is the one whose questions hold
most of what was asked, each term weighed by how rare it is (inverse document frequency; Sparck Jones 1972). Its answer
is given word for word. Where no entry fits well, or two do alike, the bot says so. The model answers small talk.
"""

import math
import re
import sys
from collections import Counter
from pathlib import Path

from client import ask, parse_options, run_example
from wording import is_chinese, is_chinese_locale, say

CONFIDENT, NEAR, MARGIN = 0.6, 0.3, 0.1  # shares of what was asked: an answer, a suggestion, ahead of the second
STOP_WORDS = set(
    """a an and are am be can could did do does for from get have how i if in is it me my of on or please s should that
    the there this time to want we what when where which who why will with would you your""".split()  # noqa: SIM905
)
STOP_CHINESE = re.compile("请问|怎么样?|什么时?候?|可以|是否|如何|一下|[的了吗呢吧我你您们要想能请是到在有]")
SMALL_TALK = re.compile(
    "((hello|hi|hey|thanks?|thank you|bye|goodbye|good (morning|evening|day)|how are you|very much|so much)\\b[\\W_]*|"
    "(你好|您好|谢谢|多谢|再见|早上好|晚上好|你|您|啊|呀)\\W*)+",
    re.IGNORECASE,
)
UNKNOWN = {False: "I don't know that; our staff will help.", True: "这个问题我不清楚，请联系人工客服。"}
NEAREST = {False: 'What I can answer is: "{}"', True: "我能回答的是：“{}”"}


def read_faq(path: str) -> list[tuple[str, str]]:
    """Return (questions, answer) pairs of a Markdown file: `## Question / the same in other words`, then the answer."""
    _, *parts = re.split(r"^## ", Path(path).read_text(encoding="utf-8-sig"), flags=re.MULTILINE)
    if not parts:
        raise ValueError(path)
    return [(questions.strip(), answer.strip()) for questions, _, answer in (part.partition("\n") for part in parts)]


def find_terms(text: str) -> set[str]:
    """Return what a text is about: English words without their endings, Chinese characters and pairs of them.

    >>> sorted(find_terms("How do I return the items?")), sorted(find_terms("怎么退货？"))
    (['item', 'return'], ['货', '退', '退货'])
    """
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS]
    terms = {re.sub(r"(?<=[a-z]{3})(ing|ed|es|s|e)$", "", word) for word in words}
    for run in re.findall("[\u4e00-\u9fff]+", STOP_CHINESE.sub(" ", text)):
        terms |= {*run, *(run[i : i + 2] for i in range(len(run) - 1))}
    return terms


class Faq:
    """Finds the entry that fits."""

    def __init__(self, entries: list[tuple[str, str]]) -> None:
        self.entries = [(questions, answer, find_terms(questions)) for questions, answer in entries]
        self.counts = Counter(term for _, _, terms in self.entries for term in terms)

    def find(self, text: str) -> tuple[float, str, str]:
        """Return (share of what was asked that the best entry holds, question, answer); 0 where two are alike."""
        weights = {term: math.log(1 + len(self.entries) / max(1, self.counts[term])) for term in find_terms(text)}
        total = sum(weights.values()) or 1
        scored = [
            (sum(weights[term] for term in weights.keys() & terms) / total, questions.split(" / ")[0], answer)
            for questions, answer, terms in self.entries
        ]
        best, second = sorted([*scored, (0.0, "", ""), (0.0, "", "")], reverse=True)[:2]
        return best if best[0] >= second[0] + MARGIN else (0.0, "", "")


def answer(faq: Faq, text: str, url: str) -> str:
    """Return the FAQ's answer, the model's to small talk, or that it is not known."""
    score, question, found = faq.find(text)
    if score >= CONFIDENT:
        return found
    if SMALL_TALK.fullmatch(text.strip()):
        return ask(url, [{"role": "user", "content": text}], is_chinese(text), max_tokens=40)
    near = NEAREST[is_chinese(text)].format(question) if score >= NEAR else ""
    return f"{UNKNOWN[is_chinese(text)]} {near}".strip()


def main() -> None:
    """Answer each line of standard input."""
    options = parse_options(__doc__, ("faq", {"help": "Markdown file of questions and answers"}))
    try:
        service = Faq(read_faq(options.faq))
    except (OSError, ValueError):
        sys.exit(say("file", is_chinese_locale(), options.faq))
    for line in filter(str.strip, sys.stdin):
        print(answer(service, line.strip(), options.url), flush=True)


if __name__ == "__main__":
    run_example(main)
