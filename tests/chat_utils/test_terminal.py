"""The conversation in a terminal: what each command does, and that nothing ends it but the user."""

import json

import pytest

from chat_utils.engine import Engine, Sampling, Stats
from chat_utils.terminal import HELP, Conversation, answer, make_printable, talk
from data_utils.dialogue import DialogueError, read_dialogues


class ScriptedEngine:
    """Replies as told: each reply a list of pieces, where an exception is raised at its place."""

    def __init__(self, *replies: list) -> None:
        self.replies, self.stats = list(replies), Stats()
        self.asked: list[list[dict]] = []
        self.seeds: list[int | None] = []
        self.dropped = 0

    def reply(self, dialogue, sampling=None):
        self.asked.append([dict(message) for message in dialogue])
        self.seeds.append(sampling.seed)
        self.stats = Stats(prompt_tokens=7, reply_tokens=3, seconds=1.0, dropped_messages=self.dropped)
        for piece in self.replies.pop(0):
            if isinstance(piece, BaseException) or (isinstance(piece, type) and issubclass(piece, BaseException)):
                raise piece
            yield piece


def converse(*replies: list, system: str | None = None, stats: bool = False, seed: int | None = None) -> Conversation:
    return Conversation(ScriptedEngine(*replies), Sampling(seed=seed), system, stats)


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in conversation.messages]


def type_lines(monkeypatch, *lines) -> list[str]:
    """Have input() return these lines, raise those that are exceptions, and meet the end of the input then."""
    remaining = [*lines, EOFError]

    def read(prompt: str = "") -> str:
        line = remaining.pop(0)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    return remaining


# Asking


def test_reply_is_streamed_and_remembered(capsys):
    conversation = converse(["你", "好", "！ "], ["Fine"], system="Be kind.")
    assert conversation.ask("Hello") == "你好！"
    assert capsys.readouterr().out == "你好！ \n"
    conversation.ask("How are you?")
    assert turns(conversation) == [
        ("system", "Be kind."), ("user", "Hello"), ("assistant", "你好！"), ("user", "How are you?"),
        ("assistant", "Fine"),
    ]  # fmt: skip
    assert conversation.engine.asked[1] == conversation.messages[:4]


@pytest.mark.parametrize("pieces", [[], [" "], ["\n"]])
def test_empty_reply_still_takes_its_turn(pieces):
    conversation = converse(pieces)
    assert conversation.ask("Hello") == ""
    assert turns(conversation) == [("user", "Hello"), ("assistant", "…")]


def test_too_long_message_is_said_and_forgotten(capsys):
    conversation = converse([DialogueError("the message is too long")], ["Hi"])
    answer(conversation, "x" * 1000)
    assert capsys.readouterr().out == "[the message is too long]\n"
    assert conversation.messages == []
    conversation.ask("Hello")
    assert turns(conversation) == [("user", "Hello"), ("assistant", "Hi")]


@pytest.mark.parametrize(
    ("pieces", "kept"), [(["Once", " upon", KeyboardInterrupt], "Once upon"), ([KeyboardInterrupt], "…")]
)
def test_interrupted_reply_keeps_what_was_said(pieces, kept, capsys):
    conversation = converse(pieces, ["and so on"])
    conversation.ask("A story")
    assert capsys.readouterr().out.endswith(" ⏹\n")
    assert turns(conversation) == [("user", "A story"), ("assistant", kept)]
    conversation.ask("Go on")
    assert [role for role, _ in turns(conversation)] == ["user", "assistant"] * 2


def test_dropped_turns_are_said_once_on_standard_error(capsys):
    conversation = converse(["a"], ["b"], ["c"])
    conversation.ask("1")
    assert capsys.readouterr().err == ""
    conversation.engine.dropped = 2
    conversation.ask("2")
    assert capsys.readouterr().err == "[the window is full: the oldest turns are no longer seen by the model]\n"
    conversation.ask("3")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wanted", [True, False])
def test_stats_after_each_reply_go_to_standard_error(wanted, capsys):
    conversation = converse(["a"], stats=wanted)
    conversation.ask("1")
    output = capsys.readouterr()
    assert output.out == "a\n"
    assert output.err == (f"[{conversation.engine.stats}]\n" if wanted else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mb\n", "a[31mb\n"),
        ("\x1b]0;title\x07x", "]0;titlex"),
        ("back\x08\x7fspace\r", "backspace"),
        ("\x9b31mred", "31mred"),  # the one-byte form of ESC [
        ("tab\tnewline\n", "tab\tnewline\n"),
        ("你好，🌍👩\u200d👧\u3000é", "你好，🌍👩\u200d👧\u3000é"),
        ("\x00\x01", ""),
    ],
)
def test_control_characters_never_reach_the_terminal(text, expected):
    assert make_printable(text) == expected


def test_replies_are_printed_without_control_characters(capsys):
    conversation = converse(["\x1b[2J", "wiped"])
    conversation.ask("Hi")
    assert capsys.readouterr().out == "[2Jwiped\n"


# Commands


@pytest.mark.parametrize("line", ["/quit", "/exit", "/q"])
def test_quit_leaves(line):
    assert converse().command(line) is False


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("/help", HELP),
        ("/nonsense", "[no command /nonsense; /help lists them]"),
        ("/", "[no command /; /help lists them]"),
        ("/Help", "[no command /Help; /help lists them]"),
        ("/reset", "[forgotten]"),
        ("/system Be brief.", "[system prompt set]"),
        ("/system", "[no system prompt]"),
        ("/retry", "[nothing to retry yet]"),
        ("/save", "[/save needs a file name]"),
        ("/load  ", "[/load needs a file name]"),
        ("/stats", f"[{Stats()}]"),
    ],
)
def test_command_answers_and_stays(line, output, capsys):
    conversation = converse()
    assert conversation.command(line) is True
    assert capsys.readouterr().out == output + "\n"
    assert conversation.engine.asked == []


def test_help_names_every_command():
    for command in ("/help", "/reset", "/system", "/retry", "/save", "/load", "/stats", "/quit"):
        assert command in HELP


def test_reset_forgets_all_but_the_system_prompt():
    conversation = converse(["a"], ["b"], system="Be kind.")
    conversation.ask("1")
    conversation.command("/reset")
    assert turns(conversation) == [("system", "Be kind.")]
    conversation.ask("2")
    assert conversation.engine.asked[1] == [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "2"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"),
    [("/system  Be brief.  ", [("system", "Be brief.")]), ("/system", []), ("/system   ", [])],
)
@pytest.mark.parametrize("before", [None, "Be kind."])
def test_system_prompt_is_set_replaced_and_cleared_in_first_place(line, expected, before):
    conversation = converse(["a"], system=before)
    conversation.ask("1")
    conversation.command(line)
    assert turns(conversation) == [*expected, ("user", "1"), ("assistant", "a")]


@pytest.mark.parametrize("system", [None, "", "  "])
def test_no_system_prompt_is_no_turn(system):
    assert converse(system=system).messages == []


def test_retry_asks_the_last_message_again_with_another_seed():
    conversation = converse(["a"], ["b"], ["c"], ["d"], system="Be kind.", seed=5)
    conversation.ask("1")
    conversation.ask("2")
    conversation.command("/retry")
    assert turns(conversation)[1:] == [("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "c")]
    assert conversation.engine.asked[2] == conversation.engine.asked[1]
    conversation.command("/retry")
    assert conversation.engine.seeds == [5, 5, 6, 7]


def test_retry_without_a_seed_stays_without():
    conversation = converse(["a"], ["b"])
    conversation.ask("1")
    conversation.command("/retry")
    assert conversation.engine.seeds == [None, None]
    assert turns(conversation) == [("user", "1"), ("assistant", "b")]


def test_stats_of_the_last_reply(capsys):
    conversation = converse(["a"])
    conversation.ask("1")
    capsys.readouterr()
    conversation.command("/stats")
    assert "3 tokens, 0 of 7 prompt tokens from the cache" in capsys.readouterr().out


# Files


@pytest.mark.parametrize("name", ["kept.json", "kept.jsonl", "with space.json"])
def test_saved_conversation_is_a_dialogue_to_learn_from(name, tmp_path, capsys):
    conversation = converse(["你好！我是小明。"], ['"quoted"\nand a second line'], system="Be kind.")
    conversation.ask("你好")
    conversation.ask("Go on")
    path = tmp_path / name
    conversation.command(f"/save {path}")
    assert f"[saved to {path}]" in capsys.readouterr().out
    dialogues = read_dialogues([str(path)])
    assert dialogues["messages"] == [conversation.messages]
    assert "你好" in path.read_text(encoding="utf-8")  # readable, not escaped


def test_loaded_conversation_goes_on(tmp_path, capsys):
    first = converse(["Hello"], system="Be kind.")
    first.ask("Hi")
    first.command(f"/save {tmp_path / 'kept.json'}")
    second = converse(["Fine"], system="Be rude.")
    second.command(f"/load {tmp_path / 'kept.json'}")
    assert "[3 messages loaded]" in capsys.readouterr().out
    assert second.messages == first.messages
    second.ask("How are you?")
    assert second.engine.asked[0] == [*first.messages, {"role": "user", "content": "How are you?"}]


def test_files_may_stand_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    conversation = converse(["a"])
    conversation.ask("1")
    conversation.command("/save ~/kept.json")
    assert json.loads((tmp_path / "kept.json").read_text()) == {"messages": conversation.messages}


MESSAGE = '{"role": "user", "content": "Hi"}'
BAD_FILES = {
    "not JSON": b"{",
    "empty": b"",
    "a list": b"[]",
    "no messages": b'{"dialogue": []}',
    "messages of no form": b'{"messages": ["Hi"]}',
    "messages are a word": b'{"messages": "Hi"}',
    "messages are null": b'{"messages": null}',
    "no reply": f'{{"messages": [{MESSAGE}]}}'.encode(),
    "wrong role": b'{"messages": [{"role": "bot", "content": "Hi"}]}',
    "not UTF-8": b'{"messages": "\xe9"}',
    "two lines": f'{{"messages": [{MESSAGE}]}}\n{{"messages": [{MESSAGE}]}}\n'.encode(),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_said_and_changes_nothing(kind, tmp_path, capsys):
    path = tmp_path / "bad.json"
    path.write_bytes(BAD_FILES[kind])
    conversation = converse(["a"])
    conversation.ask("1")
    capsys.readouterr()
    assert conversation.command(f"/load {path}") is True
    output = capsys.readouterr().out
    assert output.startswith(f"[{path}: cannot load: ")
    assert output.count("\n") == 1
    assert turns(conversation) == [("user", "1"), ("assistant", "a")]


@pytest.mark.parametrize("name", ["save", "load"])
@pytest.mark.parametrize("file", ["nowhere/kept.json", "."])
def test_file_that_cannot_be_opened_is_said(name, file, tmp_path, capsys):
    assert converse().command(f"/{name} {tmp_path / file}") is True
    assert f": cannot {name}: " in capsys.readouterr().out


# The loop


def test_talk_answers_messages_and_commands_until_the_input_ends(monkeypatch, capsys):
    conversation = converse(["Hello!"], ["Fine."])
    type_lines(monkeypatch, "  Hi  ", "", "   ", "/stats", "How are you?")
    talk(conversation)
    assert turns(conversation) == [
        ("user", "Hi"),
        ("assistant", "Hello!"),
        ("user", "How are you?"),
        ("assistant", "Fine."),
    ]
    output = capsys.readouterr().out
    assert "/help for commands" in output
    assert "输入消息" in output
    assert output.index("Hello!") < output.index("3 tokens") < output.index("Fine.")


def test_talk_leaves_at_quit(monkeypatch):
    conversation = converse()
    remaining = type_lines(monkeypatch, "/quit", "never read")
    talk(conversation)
    assert remaining[0] == "never read"


def test_ctrl_c_stops_a_reply_and_not_the_program(monkeypatch, capsys):
    conversation = converse(["Once", KeyboardInterrupt], ["Hello!"])
    type_lines(monkeypatch, "A story", KeyboardInterrupt, "Hi")
    talk(conversation)
    assert turns(conversation) == [("user", "A story"), ("assistant", "Once"), ("user", "Hi"), ("assistant", "Hello!")]
    output = capsys.readouterr().out
    assert "Once ⏹" in output
    assert "[Ctrl-D or /quit leaves]" in output  # Ctrl-C at the prompt


def test_ctrl_c_while_a_retry_is_answered_keeps_the_program(monkeypatch):
    conversation = converse(["a"], ["b", KeyboardInterrupt], ["c"])
    type_lines(monkeypatch, "1", "/retry", "2")
    talk(conversation)
    assert turns(conversation) == [("user", "1"), ("assistant", "b"), ("user", "2"), ("assistant", "c")]


def test_two_turns_with_a_real_model(tiny_checkpoint, capsys):
    engine = Engine(str(tiny_checkpoint))
    conversation = Conversation(engine, Sampling(max_new_tokens=8, seed=1), "Be kind.", show_stats=True)
    first = conversation.ask("Hello there")
    assert engine.stats.cached_tokens == 0
    conversation.ask("你好")
    assert engine.stats.cached_tokens > 0
    assert [role for role, _ in turns(conversation)] == ["system", "user", "assistant", "user", "assistant"]
    assert conversation.messages[2]["content"] == (first or "…")
    assert capsys.readouterr().err.count("tokens a second") == 2
