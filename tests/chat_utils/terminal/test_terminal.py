"""The chat as it is typed: what each command does, what is said of a reply, and that nothing ends it but the user."""

import gc
import io
import json
import os
import re
import shutil
import weakref
from pathlib import Path

import pytest

from chat_utils.engine import Engine, freeze_loaded
from chat_utils.sampling import Sampling
from chat_utils.terminal.commands import COMMANDS, Leave
from chat_utils.terminal.conversation import Conversation
from chat_utils.terminal.loop import Chat, answer_lines, take_line, talk
from chat_utils.terminal.prompt import MAX_HISTORY_BYTES, open_history
from chat_utils.terminal.screen import Screen
from chat_utils.terminal.wording import LANGUAGES, MESSAGES, REASONS, locale_language, typed_language
from data_utils.dialogue.checking import DialogueError
from errors import InputError
from tests.chat_utils.terminal.test_conversation import BAD_FILES
from tests.scripted import ScriptedEngine, load_engine


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def begin(*replies: list, system: str | None = None, stats: bool = False, seed: int | None = None) -> Chat:
    conversation = Conversation(ScriptedEngine(*replies), Sampling(seed=seed), system)
    return Chat(conversation, Screen(in_dialogue=True), load_engine, wants_stats=stats)


def turns(chat: Chat) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in chat.conversation.messages]


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


# Replies


@pytest.mark.parametrize(
    ("pieces", "output"),
    [
        (["tea ", "tea ", "<loop>"], "tea tea \n[ended: it repeated itself]\n"),
        (["Well", "<length>"], "Well\n[cut off after 1 tokens]\n"),
        (["Once", KeyboardInterrupt], "Once\n[stopped]\n"),
        (["\x1b[2J", "wiped"], "[2Jwiped\n"),
        (["Fine."], "Fine.\n"),
    ],
)
def test_how_a_reply_ended_is_said(pieces, output, capsys):
    begin(pieces).answer("Hi")
    assert capsys.readouterr().out == output


def test_what_is_said_is_in_the_language_of_the_user(capsys):
    chat = begin(["茶茶", "<loop>"], ["tea", "<loop>"], ["7", "<loop>"])
    for text in ("你好", "Hi", "7 + 7"):
        chat.answer(text)
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert notes == ["[已结束：内容开始重复]", "[ended: it repeated itself]", "[ended: it repeated itself]"]


@pytest.mark.parametrize(
    ("text", "language"),
    [("你好", "zh"), ("Hello", "en"), ("用 Python 写一个程序", "zh"), ("What does 你好 mean?", "en"), ("...", "zh")],
)
def test_language_of_a_message(text, language):
    assert typed_language(text, "zh") == language


@pytest.mark.parametrize(
    ("environment", "language"),
    [({"LANG": "zh_CN.UTF-8"}, "zh"), ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"), ({}, "en")],
)
def test_language_of_the_locale(environment, language, monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert locale_language() == language


def test_every_message_is_in_both_languages_with_the_same_places():
    import string

    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, texts in MESSAGES.items():
        assert len(texts) == len(LANGUAGES), key
        assert places(texts[0]) >= places(texts[1]), key
    for command in COMMANDS:
        assert len(command.about) == len(command.argument) == len(LANGUAGES)


@pytest.mark.parametrize("kind", sorted(BAD_FILES))
def test_bad_file_is_refused_in_chinese_in_a_chinese_chat(kind, tmp_path, capsys):
    path = tmp_path / "坏.json"
    path.write_bytes(BAD_FILES[kind])
    chat = begin()
    chat.language = "zh"
    take_line(chat, f"/load {path}")
    reason = capsys.readouterr().out.partition("无法读取：")[2]
    for word in (
        "JSON",
        "UTF-8",
        '{"messages": [...]}',
        "role",
        "content",
        "user",
        "assistant",
        "system",
        "'bot'",
        "'weight'",
    ):
        reason = reason.replace(word, "")
    assert re.search(r"[\u4e00-\u9fff]", reason)
    assert not re.search(r"[A-Za-z]", reason)


def test_every_code_of_an_error_has_its_chinese_and_no_other_code_has():
    root = Path(__file__).parents[3]
    files = [file for folder in ("chat_utils", "data_utils", "model_utils") for file in (root / folder).rglob("*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in [root / "errors.py", *files])
    used = set(re.findall(r'(?:raise|return) coded\(.*, "(\w+)"', text))
    used |= {f"long_{what}{room}" for what in ("message", "system") for room in ("", "_room")}
    assert used == {code for code in REASONS if code.islower()}


def test_all_refusals_of_a_real_model_are_chinese_in_a_chinese_chat(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    (tmp_path / "weights").mkdir()
    (tmp_path / "file").touch()
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / "config.json").write_text("{")
    chat = Chat(Conversation(Engine(str(tiny_checkpoint)), Sampling(seed=0)), Screen(True), Engine)
    chat.language = "zh"
    monkeypatch.chdir(tmp_path)
    type_lines(
        monkeypatch, "很" * 300, "长" * 100_000, "/model nowhere", "/model file", "/model weights", "/model broken",
        "/save", "/load a\x00b", "/load weights", "/nonsense", "/retry", "\x1b", f"/system {'长' * 100_000}",
        f"/system {'很' * 300}",
    )  # fmt: skip
    talk(chat, "")
    chat.conversation.messages = [{"role": "user", "content": "好"}]
    type_lines(monkeypatch, "/save file/a", "/save nowhere/a", "/save weights")
    talk(chat, "")
    welcome = "[" + MESSAGES["welcome"][1].format(model=chat.conversation.engine.name) + "]"
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[") and line != welcome]
    assert len(notes) == 17
    words = (
        r"GGUF|nowhere|file|weights(-\d)?(\.json)?|broken|model\.safetensors|train\.py|finetune_dialogue\.py"
        r"|/[a-z]+|\bab?\b"
    )
    for note in (note.replace(f"{tmp_path}/", "") for note in notes):
        assert re.search(r"[\u4e00-\u9fff]", note)
        own = re.sub(words, "", re.sub(r"“.*”", "", note))  # in quotation marks: a library's own words
        assert not re.search(r"[A-Za-z]{2}", own), note


def test_dropped_turns_are_said_once(capsys):
    chat = begin(["a"], ["b"], ["c"])
    chat.answer("1")
    chat.conversation.engine.dropped = 2
    chat.answer("2")
    chat.answer("3")
    note = "[the window is full: the oldest turns are no longer seen by the model]\n"
    assert capsys.readouterr().out == f"a\nb\n{note}c\n"


def test_notes_go_to_standard_error_where_output_is_for_another_program(capsys):
    chat = begin(["a", "<loop>"], stats=True)
    chat.screen = Screen(in_dialogue=False)
    chat.answer("1")
    output = capsys.readouterr()
    assert output.out == "a\n"
    assert output.err.startswith("[ended: it repeated itself]\n[first token after ")


def test_interrupt_ends_a_program_that_is_no_dialogue(capsys):
    chat = begin(["a", KeyboardInterrupt])
    chat.screen = Screen(in_dialogue=False)
    with pytest.raises(KeyboardInterrupt):
        chat.answer("1")
    assert capsys.readouterr().out == "a\n"


# Commands


@pytest.mark.parametrize("line", ["/quit", "／quit", "/quit now"])
def test_quit_leaves(line):
    with pytest.raises(Leave):
        take_line(begin(), line)


@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("/nonsense", "[no command /nonsense; /help lists them]"),
        ("/", "[no command /; /help lists them]"),
        ("/Help", "[no command /Help; did you mean /help?]"),
        ("/etc/passwd", "[no command /etc/passwd; /help lists them]"),
        ("/reset", "[forgotten]"),
        ("/system Be brief.", "[system prompt set]"),
        ("／system", "[no system prompt]"),
        ("/retry", "[nothing to /retry yet]"),
        ("/edit", "[nothing to /edit yet]"),
        ("/save", "[nothing to /save yet]"),
        ("/system \x1b", "[no system prompt]"),
        ("／system　你好", "[system prompt set]"),
        ("/load  ", "[/load needs a file name]"),
        ("/stats", "[no reply yet]"),
        ("/model", "[scripted; /model FOLDER loads another]"),
        ("/model nowhere", "[nowhere: no such checkpoint]"),
        ("/load nowhere.json", "[nowhere.json: cannot load: no such file]"),
    ],
)
def test_command_answers_and_stays(line, output, capsys):
    chat = begin()
    take_line(chat, line)
    assert capsys.readouterr().out == output + "\n"
    assert chat.conversation.engine.asked == []


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("nowhere/kept", "[nowhere/kept: cannot save: No such file or directory]"),
        ("/", "[/: cannot save: / is a folder]"),
    ],
)
def test_save_that_fails_is_said(name, output, capsys):
    chat = begin(["a"])
    chat.answer("1")
    take_line(chat, f"/save {name}")
    assert capsys.readouterr().out == f"a\n{output}\n"


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_conversation_without_a_turn_is_not_saved(system, tmp_path, monkeypatch, capsys):
    """finetune_dialogue.py would refuse it."""
    monkeypatch.chdir(tmp_path)
    chat = begin(system=system)
    for chat.language, output in (("en", "[nothing to /save yet]\n"), ("zh", "[还没有可以 /save 的消息]\n")):
        take_line(chat, "/save kept")
        assert capsys.readouterr().out == output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("language", "output"),
    [("en", "[the message has no words that can be read]"), ("zh", "[无法回答：消息里没有可读的文字]")],
)
def test_message_without_words_is_said_and_nothing_of_the_last_reply(language, output, monkeypatch, capsys):
    chat = begin(["tea", "<loop>"], stats=True)
    chat.language = language
    type_lines(monkeypatch, "7 + 7", "\a")
    talk(chat, "")
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(notes) == 4  # the welcome; how the reply ended, and what it took; that there is none
    assert notes[-1] == output


@pytest.mark.parametrize("space", [" ", "　", "\t", "\n"])
def test_command_and_its_text_are_parted_by_any_space(space):
    chat = begin()
    take_line(chat, f"／system{space}你好　世界")
    assert turns(chat) == [("system", "你好　世界")]


def test_system_prompt_that_leaves_no_room_is_refused_in_the_users_language(tiny_checkpoint, capsys):
    chat = Chat(Conversation(Engine(str(tiny_checkpoint)), Sampling(seed=0)), Screen(True), Engine)
    for chat.language, output in (
        ("en", r"\[the system prompt is longer than the model's window of 256 tokens allows, which leaves it 1\d\d; "),
        ("zh", r"\[无法设置系统提示词：系统提示词太长：模型 256 个词元的窗口只给它留下 1\d\d 个，请缩短\]"),
    ):
        take_line(chat, f"/system {'很' * 300}")
        assert re.match(output, capsys.readouterr().out)
    assert turns(chat) == []


def test_interrupt_before_the_first_step_is_said(monkeypatch, capsys):
    chat = begin()
    monkeypatch.setattr(
        chat.conversation.engine, "reply_cleaned", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    type_lines(monkeypatch, "Hi")
    talk(chat, "")
    assert capsys.readouterr().out.count("[stopped]") == 1
    assert turns(chat) == [("user", "Hi"), ("assistant", "…")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_every_command_in_the_language(language, capsys):
    chat = begin()
    chat.language = language
    take_line(chat, "/help")
    output = capsys.readouterr().out
    for name in ("help", "system", "retry", "edit", "save", "load", "reset", "stats", "model", "quit"):
        command = next(command for command in COMMANDS if command.name == name)
        assert f"{command.show(language)} " in output
        assert command.describe(language) in output
    assert "Ctrl-C" in output
    assert len(COMMANDS) == 12


def test_message_that_begins_with_a_slash():
    chat = begin(["It is a file."])
    take_line(chat, " /etc/passwd, what is it?")
    assert turns(chat)[0] == ("user", "/etc/passwd, what is it?")


def test_reset_forgets_all_but_the_system_prompt():
    chat = begin(["a"], ["b"], system="Be kind.")
    chat.answer("1")
    take_line(chat, "/reset")
    assert turns(chat) == [("system", "Be kind.")]
    chat.answer("2")
    assert [message["content"] for message in chat.conversation.engine.asked[1]] == ["Be kind.", "2"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [("/system  Be brief.  ", [("system", "Be brief.")]), ("/system", []), ("/system   ", [])],
)
@pytest.mark.parametrize("before", [None, "Be kind."])
def test_system_prompt_is_set_replaced_and_cleared_in_first_place(line, expected, before):
    chat = begin(["a"], system=before)
    chat.answer("1")
    take_line(chat, line)
    assert turns(chat) == [*expected, ("user", "1"), ("assistant", "a")]


@pytest.mark.parametrize("system", [None, "", "  ", "\x1b"])
def test_no_system_prompt_is_no_turn(system):
    assert turns(begin(system=system)) == []


def test_retry_asks_the_last_message_again_with_another_seed():
    chat = begin(["a"], ["b"], ["c"], ["d"], system="Be kind.", seed=5)
    chat.answer("1")
    chat.answer("2")
    take_line(chat, "/retry")
    assert turns(chat)[1:] == [("user", "1"), ("assistant", "a"), ("user", "2"), ("assistant", "c")]
    assert chat.conversation.engine.asked[2] == chat.conversation.engine.asked[1]
    take_line(chat, "/retry")
    assert chat.conversation.engine.seeds == [5, 5, 6, 7]


def test_retry_without_a_seed_stays_without():
    chat = begin(["a"], ["b"])
    chat.answer("1")
    take_line(chat, "/retry")
    assert chat.conversation.engine.seeds == [None, None]
    assert turns(chat) == [("user", "1"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("typed", "question", "answer"),
    [("two", "two", "b"), ("", "1", "a"), (KeyboardInterrupt, "1", "a"), (EOFError, "1", "a")],
)
def test_edit_asks_for_other_words(typed, question, answer, monkeypatch):
    chat = begin(["a"], ["b"])
    chat.answer("1")
    type_lines(monkeypatch, typed)
    take_line(chat, "/edit")
    assert turns(chat) == [("user", question), ("assistant", answer)]


def test_edit_with_words_takes_them():
    chat = begin(["a"], ["b"])
    chat.answer("1")
    take_line(chat, "/edit two")
    assert turns(chat) == [("user", "two"), ("assistant", "b")]


def test_a_pipe_takes_commands_and_notes_what_is_none(monkeypatch, capsys):
    chat = begin(["a"], ["b"], ["c"])
    typed = "\ufeff/system Be kind.\n1\r\n\n/hepl\n /etc/passwd?\n/edit\ntwo\n/exit\nnever asked\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed, newline=""))
    answer_lines(chat)
    said = [("user", "1"), ("assistant", "a"), ("user", "two"), ("assistant", "c")]
    assert turns(chat) == [("system", "Be kind."), *said]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")][1:2] == [
        "[no command /hepl; did you mean /help?]"
    ]


def test_stats_of_the_last_reply(capsys):
    chat = begin(["a", "b"])
    chat.answer("1")
    take_line(chat, "/stats")
    assert "2 tokens, 0 of 7 prompt tokens from the cache]" in capsys.readouterr().out


def test_saved_conversation_is_loaded_and_its_end_is_shown(tmp_path, capsys):
    first = begin(["Hello"], system="Be kind.")
    first.answer("Hi")
    take_line(first, f"/save {tmp_path / 'kept'}")
    assert f"[saved to {tmp_path / 'kept.json'}]\n" in capsys.readouterr().out
    second = begin(["Fine"], system="Be rude.")
    take_line(second, f"/load {tmp_path / 'kept.json'}")
    assert capsys.readouterr().out == "[3 messages loaded]\n> Hi\nHello\n"
    assert turns(second) == turns(first)


def test_of_a_long_kept_message_the_end_is_shown_and_all_is_kept(tmp_path, capsys):
    kept = [{"role": "user", "content": "a" * 10**5 + "?"}, {"role": "assistant", "content": "b" * 10**5 + "!"}]
    (tmp_path / "kept.json").write_text(json.dumps({"messages": kept}))
    chat = begin()
    take_line(chat, f"/load {tmp_path}/kept.json")
    output = capsys.readouterr().out
    assert "a?\n" in output and "b!\n" in output
    assert len(output) < 11_000
    assert chat.conversation.messages == kept


def test_save_says_where_it_went_instead(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in ("", "-2"):
        chat = begin(["a"])
        chat.answer("1")
        capsys.readouterr()
        take_line(chat, "/save")
        path = tmp_path / f"conversation{number}.json"
        wanted = f"there is another conversation.json: saved to {path}" if number else f"saved to {path}"
        assert capsys.readouterr().out == f"[{wanted}]\n"
        assert json.loads(path.read_text(encoding="utf-8")) == {"messages": chat.conversation.messages}


def test_model_changes_and_the_conversation_goes_on(tiny_checkpoint, capsys):
    chat = begin(["a"])
    chat.load_engine = Engine
    chat.conversation.sampling.max_new_tokens = 4
    chat.answer("1")
    take_line(chat, f"/model {tiny_checkpoint}")
    assert f"[now talking to {tiny_checkpoint.name}; the conversation goes on]\n" in capsys.readouterr().out
    chat.answer("2")
    assert [role for role, _ in turns(chat)] == ["user", "assistant"] * 2
    assert chat.conversation.reply.stats.prompt_tokens > 10


def test_model_that_was_replaced_leaves_the_memory(tiny_checkpoint):
    chat = Chat(Conversation(Engine(str(tiny_checkpoint)), Sampling(max_new_tokens=4)), Screen(True), Engine)
    freeze_loaded()
    chat.answer("1")
    before = weakref.ref(chat.conversation.engine.decoder)
    take_line(chat, f"/model {tiny_checkpoint}")
    gc.unfreeze()
    assert before() is None


# The loop


def test_talk_answers_messages_and_commands_until_the_input_ends(monkeypatch, capsys):
    chat = begin(["Hello!"], ["Fine."])
    type_lines(monkeypatch, "  Hi  ", "", "   ", "/stats", "How are you?")
    talk(chat, "")
    assert turns(chat) == [("user", "Hi"), ("assistant", "Hello!"), ("user", "How are you?"), ("assistant", "Fine.")]
    output = capsys.readouterr().out
    assert "/help for commands" in output
    assert output.index("Hello!") < output.index("1 tokens") < output.index("Fine.")


def test_talk_leaves_at_quit(monkeypatch):
    remaining = type_lines(monkeypatch, "/quit", "never read")
    talk(begin(), "")
    assert remaining[0] == "never read"


@pytest.mark.parametrize("fault", [DialogueError("the message is too long"), [RuntimeError]])
def test_fault_is_said_and_the_chat_goes_on(fault, monkeypatch, capsys):
    chat = begin(fault, ["Hello!"])
    type_lines(monkeypatch, "x" * 1000, "Hi")
    talk(chat, "")
    assert turns(chat) == [("user", "Hi"), ("assistant", "Hello!")]
    output = capsys.readouterr().out
    assert "[the message is too long]" in output or "[the reply failed: RuntimeError]" in output


def test_ctrl_c_stops_a_reply_and_not_the_program(monkeypatch, capsys):
    chat = begin(["Once", KeyboardInterrupt], ["b", KeyboardInterrupt], ["Hello!"])
    type_lines(monkeypatch, "A story", "/retry", KeyboardInterrupt, "Hi")
    talk(chat, "")
    assert turns(chat) == [("user", "A story"), ("assistant", "b…"), ("user", "Hi"), ("assistant", "Hello!")]
    output = capsys.readouterr().out
    assert output.count("[stopped]") == 2
    assert "[Ctrl-D or /quit leaves]" in output  # Ctrl-C at the prompt


def test_two_turns_with_a_real_model(tiny_checkpoint, capsys):
    conversation = Conversation(Engine(str(tiny_checkpoint)), Sampling(max_new_tokens=8, seed=1), "Be kind.")
    chat = Chat(conversation, Screen(in_dialogue=True), Engine, wants_stats=True)
    chat.answer("Hello there")
    assert conversation.reply.stats.cached_tokens == 0
    chat.answer("Hello again")
    assert conversation.reply.stats.cached_tokens > 0
    assert [role for role, _ in turns(chat)] == ["system", "user", "assistant", "user", "assistant"]
    assert capsys.readouterr().out.count("tokens a second") == 2


# The history's file


def entries(count: int) -> bytes:
    """Return what prompt_toolkit keeps of so many lines of 100 letters."""
    return b"".join(b"\n# 2026-01-02 03:04:05.%06d\n+%s\n" % (number, b"x" * 100) for number in range(count))


def test_a_long_history_is_cut_to_whole_entries(tmp_path):
    path = tmp_path / "history"
    for _ in range(2):  # what was cut is a history too
        path.write_bytes(path.read_bytes() + entries(9000) if path.exists() else entries(9000))
        assert open_history(str(path)) == path
        kept = path.read_bytes()
        assert MAX_HISTORY_BYTES // 2 - 200 < len(kept) <= MAX_HISTORY_BYTES // 2
        assert entries(9000).endswith(kept)
        assert kept.startswith(b"\n# 2026")
    assert [file.name for file in tmp_path.iterdir()] == ["history"]


@pytest.mark.parametrize("text", ["# A book\n\nwith a title", "\n\nPoems", "\n# 2026 was a good year"])
def test_a_file_that_is_no_history_is_left_alone(text, tmp_path):
    path = tmp_path / "book.md"
    path.write_text(text * 100_000)
    path.chmod(0o644)
    before = path.stat().st_mode
    with pytest.raises(InputError, match=r"book\.md: holds something else than a history"):
        open_history(str(path))
    assert path.read_text() == text * 100_000
    assert path.stat().st_mode == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file")
def test_what_is_no_file_keeps_no_history(tmp_path):
    """Of /dev/null the permissions would be taken from all others."""
    before = Path(os.devnull).stat().st_mode
    assert open_history(os.devnull) is None
    assert Path(os.devnull).stat().st_mode == before
    assert open_history(str(tmp_path)) is None
