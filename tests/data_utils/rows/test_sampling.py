"""The tokenizer's sample: equal bytes of each language, from everywhere, bounded."""

import random

from hypothesis import given
from hypothesis import strategies as st

from data_utils.rows.sampling import PIECE_CHARACTERS, sample_texts

ROWS = st.lists(st.tuples(st.text(max_size=30), st.sampled_from(["en", "zh"])), max_size=40)


def make_rows(count: int) -> list[tuple[str, str]]:
    return [(f"document {i} 茶" if i % 10 else f"第{i}篇文章", "en" if i % 10 else "zh") for i in range(count)]


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def test_languages_have_equal_shares_from_everywhere():
    rows = make_rows(20_000)
    texts = list(sample_texts(rows, 10_000))
    for mark in ("document", "篇文章"):
        found = [text for text in texts if mark in text]
        assert 9_990 <= size(found) <= 10_000
        numbers = [int("".join(filter(str.isdigit, text))) for text in found[:-1]]
        for quarter in range(4):  # of the input
            assert 0.15 < sum(n // 5000 == quarter for n in numbers) / len(numbers) < 0.35


def test_the_sample_does_not_depend_on_the_order():
    rows = make_rows(3000)
    texts = list(sample_texts(rows, 2000))
    random.Random(0).shuffle(rows)
    assert sorted(sample_texts(rows, 2000)) == sorted(texts)


@given(ROWS, st.integers(1, 200))
def test_no_language_has_more_than_its_bytes(rows, max_bytes):
    texts = list(sample_texts(rows, max_bytes))
    assert size(texts) <= 2 * max_bytes
    for text in texts:
        assert any(text in row for row, _ in rows)


def test_what_is_little_is_taken_whole():
    assert sorted(sample_texts([("tea", "en"), ("", "en"), ("茶", "zh")], 100)) == ["tea", "茶"]


def test_a_long_document_is_not_all_of_the_sample():
    rows = [
        (" ".join(f"long {i}" for i in range(50_000)), "en"),
        *((f"short text number {i}", "en") for i in range(20_000)),
    ]
    texts = list(sample_texts(rows, 100_000))
    assert max(map(len, texts)) <= PIECE_CHARACTERS
    assert sum("short" in text for text in texts) > 1000


def test_only_accepted_texts_are_used_and_few_are_cleaned():
    cleaned = []

    def accept(text: str) -> str | None:
        cleaned.append(text)
        return None if "7" in text else text.upper()

    texts = list(sample_texts(make_rows(20_000), 1000, accept))
    assert texts
    assert not [text for text in texts if "7" in text or "document" in text]
    assert len(cleaned) < 4000


def test_a_document_larger_than_the_bound_is_cut_and_not_left_out():
    text = "茶 and tea " * 100
    [sample] = sample_texts([(text, "en")], 400)
    assert 390 < len(sample.encode()) <= 400
    assert text.startswith(sample)


def test_a_limit_for_all_languages_takes_from_the_largest():
    rows = [(f"document {i}, in words of a language", "en" if i % 20 else "de") for i in range(4000)]
    german = {text for text, language in rows if language == "de"}
    for total, share in ((10**6, size(list(german))), (50_000, size(list(german))), (8000, 4000)):
        texts = list(sample_texts(rows, 100_000, total_bytes=total))
        assert min(total, 100_000 + share) - 100 <= size(texts) <= total
        assert abs(size([text for text in texts if text in german]) - share) < 100
