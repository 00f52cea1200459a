"""What steps are told of many texts at once: the same as of each alone, and never less than what is there."""

import itertools
import random
import unicodedata

import pytest
from ftfy.badness import is_bad
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("datatrove")

from datatrove.data import Document

from data_utils.preparation.arguments import DEFAULT_STEPS, CleaningArguments
from data_utils.preparation.filters import build_filters
from data_utils.preparation.tally import Tally
from data_utils.text.characters import HARMLESS, SUSPICIOUS, UNNORMAL, UNPRINTABLE, find_kinds
from data_utils.text.quality import count_words
from data_utils.text.repetition import judge_repetition, scan_repetition

PIECES = [
    "茶是很古老的饮料，",
    "The tea of the old house. ",
    "138-1234-5678 ",
    "li.lei@qq.com ",
    "11010519491231002X",
    "AKIAIOSFODNN7EXAMPLE",
    "密码：abc12345x",
    "\u200b",
    "e\u0301",
    "schÃ¶n",
    "\x07",
    "\xa0\n",
    "  \n",
    "\n\n\n",
    "锟斤拷",
    "\ufffd",
    "“”",
    "8.8.8.8",
    "한국어",
    "www.a.b | ",
    "uses cookies\n",
    "```\nx = 1\n```",
    "１２３",
    "²",
    "\U000e0100",
    "",
]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=50), max_size=12)


@given(TEXTS)
def test_a_batch_is_judged_as_each_document_alone(texts):
    for name in (name for name in DEFAULT_STEPS if name != "boilerplate"):
        batch, alone = (
            [Document(text, "", metadata={"language": "zh" if "茶" in text else "en"}) for text in texts] for _ in "ab"
        )
        (chain,) = build_filters(CleaningArguments(clean=[name]), Tally())
        (step,) = chain.keywords["steps"].values()
        assert (step(batch) if batch else []) == [step([document])[0] for document in alone], name
        assert [d.metadata for d in batch] == [d.metadata for d in alone], name


@given(st.lists(st.text(max_size=20) | st.sampled_from(PIECES), min_size=1, max_size=5))
def test_no_kind_that_is_there_is_missed(texts):
    texts = [text.encode(errors="replace").decode() for text in texts]
    for text, kinds in zip(texts, find_kinds(texts), strict=True):
        printed = text.translate(dict.fromkeys(map(ord, "\n\t\u3000\xa0")))
        assert kinds & UNPRINTABLE or printed.isprintable()
        assert kinds & UNNORMAL or unicodedata.is_normalized("NFC", text)
        assert kinds & SUSPICIOUS or kinds & UNPRINTABLE or not is_bad(text)


def test_what_is_called_harmless_is_no_mojibake_with_anything_plain():
    signs = "\xa0·´–—…’¡«¿©‘“•®»”™aZ 0中。\n"
    assert sum(bool(HARMLESS.match(sign)) for sign in signs) == 18
    for length in (1, 2, 3):
        for parts in itertools.product(signs, repeat=length):
            assert not is_bad("".join(parts))


def test_words_are_counted_as_split_does():
    texts = ["", "a", " a  b\tc\u3000d\x1ce ", "\xa0x\u2003y\nz", "1st 22 @at é ²"]
    counts = count_words(texts)
    assert [count.words for count in counts] == [len(text.split()) for text in texts]
    assert [count.unlettered for count in counts] == [0, 0, 0, 0, 3]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_scan_finds_every_repetitive_text(language):
    chance = random.Random(1)
    words = [f"word{n} " if language == "en" else chr(0x4E00 + n) for n in range(2000)]
    texts = []
    for _ in range(300):
        text = "".join(chance.choices(words, k=chance.randint(5, 400)))
        start, length = chance.randrange(len(text)), chance.randint(1, 200)
        texts.append(text + text[start : start + length] * chance.randint(0, 6))
    reasons = [judge_repetition(text, language) for text in texts]
    told = [
        judge_repetition(t, language, may)
        for t, may in zip(texts, scan_repetition(texts, [language] * 300), strict=True)
    ]
    assert told == reasons
    assert 30 < sum(reason is not None for reason in reasons) < 270
