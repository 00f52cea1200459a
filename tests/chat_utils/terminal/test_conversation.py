"""A conversation: its turns whatever happens to a reply, and the file that it is kept in."""

import json
import os
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chat_utils.messages import has_words
from chat_utils.reply import Stats
from chat_utils.sampling import Sampling
from chat_utils.terminal.conversation import Conversation, answered, read_ahead
from data_utils.dialogue.checking import DialogueError
from data_utils.dialogue.pairs import read_pairs
from data_utils.dialogue.reading import read_dialogues
from data_utils.sources.source import open_source, open_sources
from data_utils.text.cleaning import clean_text
from errors import InputError
from tests.scripted import ScriptedEngine, ScriptedReply


def converse(*replies: list, system: str | None = None) -> Conversation:
    return Conversation(ScriptedEngine(*replies), Sampling(), system)


def ask(conversation: Conversation, text: str, **how) -> tuple[str, str]:
    """Return the reply, and what was shown of it."""
    shown: list[str] = []
    return conversation.ask(text, shown.append, **how), "".join(shown)


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages]


# Asking


def test_reply_is_shown_as_it_comes_and_remembered():
    conversation = converse(["你", "好", "！ "], ["Fine"], system="Be kind.")
    assert ask(conversation, "Hello") == ("你好！", "你好！ ")
    ask(conversation, "How are you?")
    assert turns(conversation) == [
        ("system", "Be kind."), ("user", "Hello"), ("assistant", "你好！"), ("user", "How are you?"),
        ("assistant", "Fine"),
    ]  # fmt: skip
    assert conversation.engine.asked[1] == conversation.messages[:4]
    assert conversation.ended == "stop"


@pytest.mark.parametrize("pieces", [[], [" "], ["\n"], ["\x1b[0m"]])
def test_empty_reply_still_takes_its_turn(pieces):
    conversation = converse(pieces)
    ask(conversation, "Hello")
    assert turns(conversation) == [("user", "Hello"), ("assistant", "…")]


@pytest.mark.parametrize("text", ["", "  \n", "\x1b\x00", "\x1b[31m"])
def test_nothing_said_is_nothing_asked(text):
    conversation = converse(["a"], ["never"])
    ask(conversation, "1")
    with pytest.raises(DialogueError, match="the message has no words that can be read"):
        ask(conversation, text)
    assert len(conversation.engine.asked) == 1
    assert turns(conversation) == [("user", "1"), ("assistant", "a")]
    assert conversation.reply is conversation.ended is None  # what an earlier reply took is said once


def test_system_prompt_that_leaves_no_room_is_refused_and_the_one_before_stays():
    conversation = converse(system="Be kind.")
    with pytest.raises(DialogueError, match="the system prompt is longer than the model's window of 256 tokens"):
        conversation.set_system("a" * 10**6)
    assert turns(conversation) == [("system", "Be kind.")]


@pytest.mark.parametrize("fault", [DialogueError("too long"), [ValueError], ["Well", RuntimeError]])
@pytest.mark.parametrize("again", [False, True])
def test_fault_leaves_the_conversation_as_it_was(fault, again):
    conversation = converse(["a"], fault, ["b"])
    ask(conversation, "1")
    with pytest.raises((DialogueError, ValueError, RuntimeError)):
        ask(conversation, "x" * 1000, again=again)
    assert turns(conversation) == [("user", "1"), ("assistant", "a")]
    ask(conversation, "2")
    assert turns(conversation)[2:] == [("user", "2"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("pieces", "kept"), [(["Once", " upon", KeyboardInterrupt], "Once upon…"), ([KeyboardInterrupt], "…")]
)
def test_interrupted_reply_is_kept_and_marked(pieces, kept):
    conversation = converse(pieces, ["and so on"])
    ask(conversation, "A story")
    assert conversation.ended == "cancelled"
    assert turns(conversation) == [("user", "A story"), ("assistant", kept)]
    ask(conversation, "Go on")
    assert [role for role, _ in turns(conversation)] == ["user", "assistant"] * 2


def test_again_puts_a_message_in_the_place_of_the_last():
    conversation = converse(["a"], ["b"], ["c"], system="Be kind.")
    for text, again in (("1", False), ("2", False), ("two", True)):
        ask(conversation, text, again=again)
    assert turns(conversation)[1:] == [("user", "1"), ("assistant", "a"), ("user", "two"), ("assistant", "c")]
    assert [message["content"] for message in conversation.engine.asked[2]] == ["Be kind.", "1", "a", "two"]


def test_pieces_that_come_fast_are_shown_together_and_none_is_lost():
    reply = ScriptedReply([f"{i} " for i in range(5000)], Stats())
    pieces = list(read_ahead(reply))
    assert "".join(pieces) == "".join(f"{i} " for i in range(5000))
    assert len(pieces) < 500
    assert reply.finish_reason == "stop"


def test_reader_that_stops_closes_the_reply():
    reply, before = ScriptedReply(["a", 0.2, "b", 0.2, "c"], Stats()), set(threading.enumerate())
    reader = read_ahead(reply)
    assert next(reader) == "a"
    reader.close()
    assert reply.finish_reason == "cancelled"
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert reply.pieces[-1:] == ["c"]  # what came after was not computed


# Files


@pytest.mark.parametrize("name", ["kept.json", "kept.jsonl", "with space.json", "kept", "v1.2"])
@pytest.mark.parametrize("last", ["answered", "interrupted", "awaiting"])
def test_saved_conversation_is_a_dialogue_to_learn_from(name, last, tmp_path):
    second = ['"quoted"\nand a second line'] + [KeyboardInterrupt] * (last == "interrupted")
    conversation = converse(["你好！我是小明。"], second, system="Be kind.")
    ask(conversation, "你好")
    ask(conversation, "Go on")
    if last == "awaiting":
        conversation.messages.append({"role": "user", "content": "Still there?"})
    path = conversation.save(str(tmp_path / name))
    assert path.suffix in (".json", ".jsonl")
    assert read_dialogues([open_source(str(path))])["messages"] == [answered(conversation.messages)]
    assert "你好" in path.read_text(encoding="utf-8")  # readable, not escaped
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o600 or os.name == "nt"
    other = converse()
    other.load(str(path))
    assert other.messages == answered(conversation.messages)


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda text: has_words(clean_text(text))
)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
@example([("\xad?", "0")])
def test_any_conversation_comes_back_from_its_file(tmp_path_factory, exchanges):
    conversation = converse(*([answer] for _, answer in exchanges))
    for question, _ in exchanges:
        ask(conversation, question)
    path = conversation.save(str(tmp_path_factory.mktemp("kept") / "kept"))
    other = converse()
    other.load(str(path))
    assert other.messages == conversation.messages
    assert json.loads(path.read_text(encoding="utf-8"))["messages"] == conversation.messages


def test_save_never_overwrites_what_is_not_its_own(tmp_path):
    first, second = converse(["a"]), converse(["b"])
    ask(first, "1")
    ask(second, "2")
    assert first.save(str(tmp_path / "kept.json")) == tmp_path / "kept.json"
    assert second.save(str(tmp_path / "kept.json")) == tmp_path / "kept-2.json"
    assert second.save(str(tmp_path / "kept-2.json")) == tmp_path / "kept-2.json"  # its own by now
    ask(first, "more")
    assert first.save(str(tmp_path / "kept.json")) == tmp_path / "kept.json"
    assert "more" in (tmp_path / "kept.json").read_text()


def test_loaded_file_is_saved_in_its_place(tmp_path):
    conversation = converse(["a"], ["b"])
    ask(conversation, "1")
    path = conversation.save(str(tmp_path / "kept.json"))
    other = converse(["b"])
    other.load(str(path))
    ask(other, "2")
    assert other.save(str(path)) == path
    assert len(json.loads(path.read_text(encoding="utf-8"))["messages"]) == 4
    other.forget()
    assert other.save(str(path)) != path


@pytest.mark.parametrize("more", [{"title": "mine"}, {"messages": [{"role": "user", "content": "1", "name": "Ada"}]}])
def test_a_file_that_holds_more_than_is_kept_is_not_overwritten(tmp_path, more):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "1"}]} | more))
    before = path.read_bytes()
    conversation = converse(["a"])
    conversation.load(str(path))
    ask(conversation, "2")
    assert conversation.save(str(path)) == tmp_path / "other-2.json"
    assert path.read_bytes() == before


def test_failed_save_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    conversation = converse(["a"])
    ask(conversation, "1")
    path = conversation.save(str(tmp_path / "kept.json"))
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for name in ("kept.json", "new.json"):
        with pytest.raises(OSError, match="No space left"):
            conversation.save(str(tmp_path / name))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("failing", ["pathlib.Path.touch", "pathlib.Path.replace"])
def test_save_that_fails_at_its_draft_leaves_nothing(tmp_path, monkeypatch, failing):
    conversation = converse(["a"])
    ask(conversation, "1")

    def fail(*_, **__) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match="Too many open files"):
        conversation.save(str(tmp_path / "new.json"))
    assert list(tmp_path.iterdir()) == []


def test_files_may_stand_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    conversation = converse(["a"])
    ask(conversation, "1")
    conversation.save("~/kept.json")
    assert json.loads((tmp_path / "kept.json").read_text(encoding="utf-8")) == {"messages": conversation.messages}


MESSAGE = '{"role": "user", "content": "Hi"}'
BAD_FILES = {
    "nothing to learn": f'{{"messages": [{MESSAGE}, {{"role": "assistant", "content": "a", "weight": 0}}]}}'.encode(),
    "not JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "no messages": b'{"dialogue": []}',
    "empty messages": b'{"messages": []}',
    "messages of no form": b'{"messages": ["Hi"]}',
    "messages are a word": b'{"messages": "Hi"}',
    "messages are null": b'{"messages": null}',
    "system alone": b'{"messages": [{"role": "system", "content": "Be kind."}]}',
    "wrong role": b'{"messages": [{"role": "bot", "content": "Hi"}]}',
    "no text": b'{"messages": [{"role": "user", "content": 7}]}',
    "not UTF-8": b'{"messages": "\xe9"}',
    "two lines": f'{{"messages": [{MESSAGE}]}}\n{{"messages": [{MESSAGE}]}}\n'.encode(),
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", [*BAD_FILES, "a folder", "a device", "nothing"])
def test_bad_file_is_an_error_of_one_line_and_changes_nothing(kind, tmp_path):
    path = {"a folder": tmp_path, "a device": "/dev/zero"}.get(kind, tmp_path / "bad.json")
    if kind in BAD_FILES:
        path.write_bytes(BAD_FILES[kind])
    conversation = converse(["a"])
    ask(conversation, "1")
    with pytest.raises(InputError) as caught:
        conversation.load(str(path))
    assert str(caught.value).count("\n") == 0
    assert str(caught.value)
    assert turns(conversation) == [("user", "1"), ("assistant", "a")]


def test_loaded_conversation_that_awaits_an_answer_can_be_retried(tmp_path):
    (tmp_path / "kept.json").write_text(f'{{"messages": [{MESSAGE}]}}')
    conversation = converse(["Hello"], ["Fine"])
    conversation.load(str(tmp_path / "kept.json"))
    assert turns(conversation) == [("user", "Hi")]
    ask(conversation, conversation.last_question(), again=True)
    assert turns(conversation) == [("user", "Hi"), ("assistant", "Hello")]


def test_next_message_after_an_unanswered_one_keeps_the_order(tmp_path):
    (tmp_path / "kept.json").write_text(f'{{"messages": [{MESSAGE}]}}')
    conversation = converse(["Fine"])
    conversation.load(str(tmp_path / "kept.json"))
    ask(conversation, "How are you?")
    assert turns(conversation) == [("user", "Hi"), ("assistant", "…"), ("user", "How are you?"), ("assistant", "Fine")]


def test_a_thumb_is_kept_beside_its_reply_and_learned_from(tmp_path):
    conversation = converse(["你好！"], ["Fine"], ["no"])
    assert not conversation.rate(True)  # nothing is said yet
    for text, liked in (("Hi", True), ("How are you?", None), ("Sure?", False)):
        ask(conversation, text)
        assert liked is None or conversation.rate(liked)
    path = conversation.save(str(tmp_path / "kept.json"))
    pairs = read_pairs(open_sources([str(path)])).dialogues
    assert pairs["chosen"] == ["你好！", ""]
    assert pairs["rejected"] == ["", "no"]
    assert [message["content"] for message in pairs[1]["prompt"]] == ["Hi", "你好！", "How are you?", "Fine", "Sure?"]
    again = converse([])
    again.load(str(path))
    assert again.messages == conversation.messages
    assert [message.get("liked") for message in again.messages] == [None, True, None, None, None, False]
