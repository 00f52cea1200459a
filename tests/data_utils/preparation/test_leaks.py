"""Evaluation text inside of documents is found, in both languages; what is merely of the same kind is not."""

import numpy as np
import pytest

from data_utils.preparation.leaks import LeakIndex, build_index, make_entries
from data_utils.preparation.shingles import find_shingles, find_tokens
from tests.data_utils.preparation.test_duplicates import change_words, chinese, english, join, words_of  # noqa: F401


def index_of(evaluation: list[str], held_out: list[str]) -> LeakIndex:
    shingles = find_shingles(find_tokens(evaluation))
    first = make_entries(shingles, np.arange(len(evaluation)), 0)
    shingles = find_shingles(find_tokens(held_out))
    second = make_entries(shingles, np.arange(len(held_out)), len(evaluation))
    return build_index(first, second, len(evaluation))


def leaks_in(texts: list[str], index: LeakIndex) -> list[list[int]]:
    """Return for each text the evaluation texts that it holds."""
    tokens = find_tokens(texts)
    pairs = index.find(tokens, find_shingles(tokens)).tolist()
    return [[found for number, found in pairs if number == place] for place in range(len(texts))]


def plant(passage: str, text: str) -> str:
    """Hide a passage in the middle of a document."""
    words = words_of(text)
    middle = len(words) // 2
    return f"{join(words[:middle], text)} {passage} {join(words[middle:], text)}"


@pytest.mark.slow
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_planted_leaks_are_found(request, language):
    texts = request.getfixturevalue(language)
    evaluation, held_out, training = texts[:40], texts[40:60], texts[60:]
    index = index_of(evaluation, held_out)
    size = 16 if language == "english" else 32
    passages = [join(words_of(text)[30 : 30 + size], text) for text in evaluation[:10]]
    planted = {
        "a short passage in a large document": [plant(p, " ".join(training[3:8])) for p in passages],
        "a whole text in a larger one": [plant(text, training[9]) for text in evaluation[10:14]],
        "an edited text in a larger one": [plant(change_words(text, 0.06), training[10]) for text in evaluation[14:18]],
        "a held-out text in a larger one": [plant(text, " ".join(training[11:14])) for text in held_out[:4]],
        "half of a held-out text": [
            plant(join(words_of(t)[: len(words_of(t)) * 6 // 10], t), training[12]) for t in held_out[4:8]
        ],
    }
    found = leaks_in([text for texts in planted.values() for text in texts], index)
    expected = [*range(18), *range(40, 48)]  # the evaluation files, then what is held out
    assert [number in numbers for number, numbers in zip(expected, found, strict=True)] == [True] * 26
    alarms = [number for number, found in enumerate(leaks_in(training, index)) if found]
    assert len(alarms) < 0.01 * len(training), [training[number][:80] for number in alarms]


@pytest.mark.slow
def test_a_short_quotation_of_held_out_text_is_no_leak_but_of_an_evaluation_file_it_is(english):  # noqa: F811
    passage = join(words_of(english[0])[10:30], english[0])
    text = plant(passage, english[50])
    assert leaks_in([text], index_of([], [english[0]])) == [[]]
    assert leaks_in([text], index_of([english[0]], [])) == [[0]]


@pytest.mark.slow
def test_turns_of_phrase_of_many_texts_are_no_evidence(english):  # noqa: F811
    phrase = "as it was said at the very beginning of this long and winding story about nothing at all my friends"
    evaluation = [f"{text} {phrase}" for text in english[:20]]
    assert leaks_in([f"{english[30]} {phrase}"], index_of(evaluation, [])) == [[]]


def test_nothing_held_out_finds_nothing(own_documents):
    assert leaks_in(own_documents[:3], index_of([], [])) == [[], [], []]
    assert leaks_in(["", "好"], index_of(own_documents[:3], [])) == [[], []]
