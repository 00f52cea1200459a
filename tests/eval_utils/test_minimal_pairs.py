"""Minimal pairs: one difference each, no pair twice, lengths balanced, the same by seed, words that agree."""

import re
from collections import defaultdict
from functools import cache

import pytest

from data_utils.text.languages import detect_language
from eval_utils import minimal_pairs
from eval_utils.minimal_pairs import CHOICE, LANGUAGES, SLOT, Pair, make_pairs, make_phenomenon

BALANCE_CHARACTERS = 1.2  # the good sentences of a phenomenon may be longer or shorter by so much on average
VOWEL = "aeiou"


@cache
def phenomena(language: str) -> dict[str, list[Pair]]:
    found = defaultdict(list)
    for pair in make_pairs(language):
        found[pair.phenomenon].append(pair)
    return found


def split_units(text: str, language: str) -> list[str]:
    return text.split() if language == "en" else list(text)


def differences(pair: Pair, language: str) -> tuple[list[str], list[str]]:
    """Return what is left of both sentences without their common beginning and end."""
    good, bad = split_units(pair.good, language), split_units(pair.bad, language)
    while good and bad and good[0].lower() == bad[0].lower():
        good, bad = good[1:], bad[1:]
    while good and bad and good[-1] == bad[-1]:
        good, bad = good[:-1], bad[:-1]
    return good, bad


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough(language):
    found = phenomena(language)
    assert len(found) >= 25
    assert {len(pairs) for pairs in found.values()} == {100}


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_sentence_comes_twice(language):
    for name, pairs in phenomena(language).items():
        sentences = [text for pair in pairs for text in (pair.good, pair.bad)]
        assert len(set(sentences)) == 200, name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_pair_differs_in_one_thing(language):
    """It is a word (of Chinese, up to five characters) that is another, or words in another order."""
    for name, pairs in phenomena(language).items():
        for pair in pairs:
            good, bad = differences(pair, language)
            is_word = max(len(good), len(bad)) <= (1 if language == "en" else 5)
            words = [sorted(text.lower().strip(".?") for text in units) for units in (good, bad)]
            is_order = words[0] == words[1]
            assert good and bad and (is_word or is_order), (name, pair)


@pytest.mark.parametrize("language", LANGUAGES)
def test_lengths_are_balanced(language):
    for name, pairs in phenomena(language).items():
        excess = sum(len(pair.good) - len(pair.bad) for pair in pairs) / len(pairs)
        assert abs(excess) <= BALANCE_CHARACTERS, (name, excess)
        if language == "en":
            assert all(len(pair.good.split()) == len(pair.bad.split()) for pair in pairs), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_whole(language):
    for pairs in phenomena(language).values():
        for text in (text for pair in pairs for text in (pair.good, pair.bad)):
            form = r"[A-Z][a-zA-Z,' ]+[.?]" if language == "en" else r"[\u4e00-\u9fff，]+[。？！]"
            assert re.fullmatch(form, text), text
            assert detect_language(text) == language
            assert "  " not in text


def test_articles_agree_with_their_nouns():
    for name, pairs in phenomena("en").items():
        for pair in pairs:
            for article, noun in re.findall(r"\b(an?) (\w+)", pair.good):
                assert (article == "an") == (noun[0].lower() in VOWEL), (name, pair)


def test_numbers_agree_with_their_nouns():
    """Each good sentence has a plural after these, two, many and few, and a singular after this, a and every."""
    plural = re.compile(r"\b(?:[Tt]hese|[Tt]hose|two|many|few) (\w+)")
    for pairs in (phenomena("en")[name] for name in ("demonstrative_number", "many_much", "few_little")):
        for pair in pairs:
            for noun in plural.findall(pair.good):
                assert noun.endswith(("s", "mice", "knives")), pair


def test_the_seed_decides():
    first, again, other = (list(make_pairs("en", 5, seed)) for seed in (0, 0, 1))
    assert first == again
    assert len(set(first) & set(other)) < len(first) / 4


def test_the_beginning_is_a_fair_sample():
    few, more = list(make_pairs("zh", 1)), list(make_pairs("zh", 2))
    assert more[: len(few)] == few
    assert len({pair.phenomenon for pair in few}) == len(few)


def test_too_few_words_are_an_error():
    with pytest.raises(ValueError, match="en, thing: its words make fewer than 3 pairs"):
        list(make_phenomenon(Pair("", "", "thing", "en"), ["a {cat} [is|are] here."], {"cat": ["cat", "dog"]}, 3, 0))


@pytest.mark.parametrize("language", LANGUAGES)
def test_templates_and_words_fit(language):
    data = minimal_pairs.yaml.safe_load((minimal_pairs.DATA / f"pairs_{language}.yaml").read_text(encoding="utf-8"))
    used = set()
    assert len({field for field, *_ in data["phenomena"].values()}) >= 8
    for name, (_, *templates) in data["phenomena"].items():
        for template in templates:
            assert len(CHOICE.findall(template)) == 1, (name, template)
            for slot in SLOT.finditer(template):
                used.add(slot[1])
                assert all(len(str(entry).split("/")) >= int(slot[3] or 1) for entry in data["words"][slot[1]]), slot[0]
    assert used == set(data["words"])
    for name, entries in data["words"].items():
        assert len(set(entries)) == len(entries), name
