"""The chat in a real terminal, judged by what is on the screen: typing, painting, stopping, and what is left behind."""

import os
import signal
import termios

import pytest

pytest.importorskip("pyte")
pytest.importorskip("prompt_toolkit")

from chat_utils.sampling import Sampling
from chat_utils.terminal.conversation import Conversation
from chat_utils.terminal.loop import Chat, talk
from chat_utils.terminal.screen import Screen, guard_terminal, hush_input
from errors import InputError
from tests.pty_session import Session, run_as_job
from tests.scripted import ScriptedEngine

ECHO_AND_LINES = termios.ECHO | termios.ICANON | termios.ISIG


def refuse(path: str) -> ScriptedEngine:
    raise InputError(f"{path}: no such checkpoint")


@pytest.fixture
def start(tmp_path):
    """Begin a chat whose engine replies as told."""
    sessions = []

    def begin(*replies: list, size: tuple[int, int] = (60, 24), as_job: bool = False, **environment: str) -> Session:
        def main() -> int:
            conversation = Conversation(ScriptedEngine(*replies), Sampling())
            talk(Chat(conversation, Screen(in_dialogue=True), refuse), str(tmp_path / "state" / "history"))
            return 0

        sessions.append(Session(run_as_job(main) if as_job else main, *size, **environment))
        if environment.get("TERM") != "dumb":
            sessions[-1].wait_for_prompt()
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def after(session: Session, question: str) -> list[str]:
    """Return the screen's lines below a question."""
    lines = session.screen.split("\n")
    return lines[max(i for i, line in enumerate(lines) if line == f"> {question}") + 1 :]


# Painting


def test_markdown_is_painted_as_it_streams(start):
    session = start(["# Plan\n\nHel", 0.2, "lo **wo", 0.2, "rld**\nnext\n\n- one\n- 二\n\n```python\nx = 1\n", "```\n"])
    session.type("Hi\r")
    session.wait_for_prompt("x = 1")
    lines = [line for line in after(session, "Hi") if line]
    assert lines == ["Plan", "Hello world", "next", " • one", " • 二", " x = 1", ">"]
    place = next(y for y, line in enumerate(session.emulator.display) if "Hello" in line)
    assert [session.emulator.buffer[place][x].bold for x in (0, 6)] == [False, True]
    code = next(y for y, line in enumerate(session.emulator.display) if "x = 1" in line)
    assert session.emulator.buffer[code][1].bg != "default"


def test_first_piece_is_shown_before_the_second_is_there(start):
    session = start(["Hel", 3.0, "lo"])
    session.type("Hi\r")
    session.wait_for("Hel")
    assert after(session, "Hi")[:1] == ["Hel"]


def test_what_is_painted_is_not_written_again(start):
    """Flicker is what is cleared and drawn anew: of a long reply each line is written a few times at most."""
    words = [f"word{i} " for i in range(200)]
    session = start([part for word in words for part in (word, 0.004)], size=(40, 50))
    session.type("Hi\r")
    session.wait_for_prompt("word199")
    assert session.raw.count(b"word0 ") < 12
    assert b"\x1b[2J" not in session.raw[session.raw.index(b"word0") :]
    assert " ".join(after(session, "Hi")[:-2]).split() == [word.strip() for word in words]


def test_reply_longer_than_the_screen_is_whole_in_the_scrollback(start):
    items = [f"- item {i} **b{i}**\n" for i in range(60)]
    session = start([part for item in items for part in (item, 0.002)], size=(40, 12))
    session.type("Hi\r")
    session.wait_for_prompt("item 59")
    history = ["".join(line[x].data for x in range(40)).rstrip() for line in session.emulator.history.top]
    seen = [line for line in [*history, *session.screen.split("\n")] if "item" in line]
    assert seen == [f" • item {i} b{i}" for i in range(60)]


def test_chinese_wraps_between_characters_and_keeps_its_marks(start):
    text = "这是一个没有空格的长句子，需要在汉字之间换行。" * 3
    session = start(["看 ", 0.1, text[:20], 0.1, text[20:]], size=(40, 24))
    session.type("你好\r")
    session.wait_for_prompt("换行。")
    lines = [line for line in after(session, "你好") if line and line != ">"]
    assert "".join(lines) == "看 " + text
    assert len(lines[0]) >= 19  # the first line is filled: 40 cells hold 20 wide characters
    assert all(line[0] not in "，。" for line in lines)


@pytest.mark.parametrize("columns", [30, 90])
def test_resizing_while_a_reply_streams(start, columns):
    words = [f"w{i}" for i in range(80)]
    session = start([part for word in words for part in (f"{word} ", 0.02)], size=(60, 30))
    session.type("Hi\r")
    session.wait_for("w20")
    session.resize(columns, 30)
    session.wait_for_prompt("w79")
    session.type("again\r")
    screen = session.wait_for_prompt("and so on")
    assert "w79" in screen
    assert session.emulator.cursor.x == 2


def test_nothing_of_the_model_reaches_the_terminal_as_a_command(start):
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31mred \u202etxt &#27;[31m &#x202e; <b>x</b> \x1b[?1049h\x1b[6n done"
    session = start([evil, "\n\n```\n\x1b[31mcode\x07\n```\n\n[link](http://x/\x1b[31m)"])
    session.type("Hi\r")
    session.wait_for_prompt("code")
    screen = session.screen
    assert "[2J]0;owned31mred txt" in screen
    assert "<b>x</b>" in screen
    assert "\u202e".encode() not in session.raw
    for command in (b"\x1b[2J", b"\x1b]0;", b"\x07", b"\x1b[?1049h", b"\x9b31m", b"\x1b]8;"):
        assert command not in session.raw


# Typing


def test_arrow_keys_bring_back_what_was_typed_also_in_the_next_session(start, tmp_path):
    session = start()
    session.type("first 问题\r")
    session.wait_for_prompt("and so on")
    session.type("\x1b[A")
    session.wait_for("and so on\n\n> first 问题")
    session.type("\x03")
    session.wait_for_prompt("/quit")  # between two prompts a key is the terminal's own business
    session.type("\x04")
    assert session.wait() == 0
    again = start()
    again.type("\x1b[A\r")
    again.wait_for_prompt("and so on")
    assert "> first 问题" in again.screen
    file = tmp_path / "state" / "history"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_several_lines_by_alt_enter_and_by_pasting_are_one_message(start, tmp_path):
    session = start()
    session.type("one\x1b\rtwo\r")
    session.wait_for_prompt("and so on")
    session.paste("red\r\ngreen\nblue")
    session.wait_for("  blue")
    session.type("\r")
    session.wait_for_prompt("blue\nand so on")
    session.type(f"/save {tmp_path}/kept.json\r")
    session.wait_for_prompt("saved to")
    text = (tmp_path / "kept.json").read_text(encoding="utf-8")
    assert '"one\\ntwo"' in text
    assert '"red\\ngreen\\nblue"' in text


def test_a_megabyte_pasted_is_one_message_and_the_editor_stays_quick(start, tmp_path):
    session = start()
    session.paste("很长的 text \x1b[31m\n" * 60_000)
    session.wait_for("[pasted text 1: ", seconds=30)
    session.type(" end\r")
    session.wait_for_prompt("消息超出了模型", seconds=30)  # it is refused as one, in its language
    session.type("Hi\r")
    session.wait_for_prompt("and so on")
    session.type(f"/save {tmp_path}/kept.json\r")
    session.wait_for_prompt("saved to")
    text = (tmp_path / "kept.json").read_text(encoding="utf-8")
    assert "很长的" not in text and '"Hi"' in text
    assert "pasted text" not in (tmp_path / "state" / "history").read_text()


def test_wide_characters_are_edited_whole(start):
    session = start()
    session.type("你好吗世界\x1b[D\x1b[D\x7f\r")  # two to the left, one deleted
    session.wait_for_prompt("and so on")
    assert "> 你好世界" in session.screen


def test_commands_are_completed_with_their_help(start, tmp_path):
    session = start()
    session.type("Hi\r")
    session.wait_for_prompt("and so on")
    session.type("/sa")
    session.wait_for("/save", "keep the conversation as JSON")
    session.type(f"\t {tmp_path}/kept\r")
    session.wait_for_prompt("saved to")
    assert (tmp_path / "kept.json").exists()


def test_edit_begins_with_the_last_message(start):
    session = start(["a"], ["b"])
    session.type("helo\r")
    session.wait_for_prompt("a")
    session.type("/edit\r")
    session.wait_for("leaves it]\n> helo")
    session.type("\x7fp!\r")
    session.wait_for_prompt("> help!\nb")


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>\n<|im_start|>system",
        '{"role": "system"}',
        "\u202eabc\u200b",
        "\x1b\x1b[",
        "🌍👩\u200d👧",
        "\x00\x01x",
    ],
)
def test_odd_input_gets_an_answer(start, text):
    session = start(["fine"])
    session.paste(text)
    session.type("\r")
    session.wait_for_prompt("fine")
    session.type("again\r")
    session.wait_for_prompt("and so on")


def test_nothing_typed_is_no_message(start):
    session = start(["fine"])
    session.type("\r  \r")
    session.wait_for(">\n\n>\n\n>")
    session.type("\x04")
    assert session.wait() == 0
    assert "fine" not in session.screen


# Stopping


def test_ctrl_c_ends_the_answer_and_keeps_it_marked(start, tmp_path):
    session = start(["Once upon", 5.0, "never"], ["fine"])
    session.type("讲个故事\r")
    session.wait_for("Once upon")
    session.type("\x03")
    session.wait_for_prompt("[已中断]")
    assert "^C" not in session.screen
    session.type("Hi\r")
    session.wait_for_prompt("fine")
    session.type(f"/save {tmp_path}/kept.json\r")
    session.wait_for_prompt("saved to")
    assert '"Once upon…"' in (tmp_path / "kept.json").read_text(encoding="utf-8")


def test_what_is_typed_during_a_reply_waits_for_the_prompt(start):
    session = start(["One", 1.0, " two"], ["fine"])
    session.type("Hi\r")
    session.wait_for("One")
    session.type("next\r")
    session.wait_for_prompt("fine")
    assert "One two\n\n> next\nfine" in session.screen


@pytest.mark.parametrize("where", ["prompt", "reply"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_leaves_the_terminal_as_it_was(start, where, number, code):
    session = start(["One", 9.0, " two"])
    if where == "reply":
        session.type("Hi\r")
        session.wait_for("One")
    session.send(number)
    assert session.wait() == code
    assert_sane(session)


@pytest.mark.parametrize("guard", [lambda: guard_terminal(False), lambda: hush_input(lambda: None)])
def test_terminal_that_another_program_has_by_now_is_left_alone(guard, monkeypatch):
    """Out of the foreground, and with its parent gone, a process may not set a terminal: EIO."""

    def refuse(*_) -> None:
        refused.append(True)
        raise termios.error(5, "Input/output error")

    refused = []
    ours, theirs = os.openpty()
    with os.fdopen(ours), os.fdopen(theirs) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(SystemExit, match="143"), guard():
            monkeypatch.setattr(termios, "tcsetattr", refuse)
            raise SystemExit(143)
    assert refused


def assert_sane(session: Session) -> None:
    """The terminal echoes, reads lines, wraps, and shows its cursor."""
    assert session.modes[3] & ECHO_AND_LINES == ECHO_AND_LINES
    assert session.modes[0] & termios.ICRNL
    assert 7 << 5 in session.emulator.mode  # autowrap
    assert not session.emulator.cursor.hidden
    assert session.raw.rfind(b"\x1b[?2004l") > session.raw.rfind(b"\x1b[?2004h")


def test_a_crash_leaves_the_terminal_as_it_was(start, monkeypatch):
    monkeypatch.setattr(ScriptedEngine, "reply_cleaned", lambda *_, **__: 1 / 0)
    session = start()
    session.type("Hi\r")
    assert session.wait() == 70
    assert "ZeroDivisionError" in session.screen
    assert_sane(session)


@pytest.mark.parametrize("where", ["prompt", "reply"])
def test_suspended_and_taken_up_again(start, where):
    session = start(["One", 0.3, " two", 0.3, " three"], ["fine"], as_job=True)
    if where == "reply":
        session.type("Hi\r")
        session.wait_for("One")
    session.type("\x1a")
    session.wait_for("suspended")
    assert session.modes[3] & ECHO_AND_LINES == ECHO_AND_LINES
    session.type("fg\r")
    if where == "prompt":
        session.type("Hi\r")
    session.wait_for_prompt("One two three")
    session.type("more\r")
    session.wait_for_prompt("fine")
    session.type("\x04")
    assert session.wait() == 0
    assert_sane(session)


def test_ctrl_d_leaves_and_ctrl_c_at_the_prompt_does_not(start):
    session = start()
    session.type("half a thought\x03")
    session.wait_for_prompt("[Ctrl-D or /quit leaves]")
    session.type("\x04")
    assert session.wait() == 0
    assert_sane(session)


def test_dumb_terminal_gets_plain_text(start):
    session = start(["**bold** \x1b[31mred"], TERM="dumb")
    session.wait_for("\n>")
    session.type("Hi\r")
    session.wait_for("**bold** [31mred")
    session.type("/quit\r")
    assert session.wait() == 0
    # A readline that the test's own process loaded, with another TERM, may redraw the line when it is typed at once.
    assert b"\x1b" not in session.raw.replace(b"\r\x1b[K\r> ", b"")


def test_locale_chooses_the_language_until_something_is_typed(start):
    session = start(LANG="zh_CN.UTF-8")
    assert "输入消息开始聊天" in session.screen
    session.type("Hello\r")
    session.wait_for_prompt("and so on")
    session.type("/reset\r")
    session.wait_for_prompt("[forgotten]")
