"""chat.py as a user runs it: a prompt, piped lines, a terminal, and with bad input."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

import chat
from chat_utils import engine
from chat_utils.server import serve
from errors import InputError

ROOT = Path(__file__).parents[1]


def test_prompt_gives_one_answer(tiny_checkpoint, capsys):
    options = ["--model", str(tiny_checkpoint), "--prompt", "你好", "--temperature", "0", "--max_new_tokens", "12"]
    assert chat.main(options) == 0
    first = capsys.readouterr().out
    assert chat.main(options) == 0
    assert capsys.readouterr().out == first != "\n"


def test_piped_lines_are_one_conversation(tiny_checkpoint, forked):
    options = ["--model", str(tiny_checkpoint), "--stats", "--max_new_tokens", "8"]
    codes, done = forked.run("chat", options, typed="Hello\n\n你好\n".encode())
    assert codes == [0], done.text
    stats = [line for line in done.err.splitlines() if "tokens a second" in line]
    assert len(stats) == 2
    assert " 0 of" in stats[0]
    assert " 0 of" not in stats[1]  # the second turn found the first in the cache


def test_samples_answer_in_both_languages(tiny_checkpoint, capsys):
    assert chat.main(["--model", str(tiny_checkpoint), "--samples", "--max_new_tokens", "4"]) == 0
    output = capsys.readouterr().out
    assert [line for line in output.splitlines() if line.startswith("> ")] == [f"> {p}" for p in chat.SAMPLE_PROMPTS]


def test_finds_the_tuned_model_first(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="neither ckpt_chat/ nor ckpt/"):
        chat.find_model()
    (tmp_path / "ckpt").symlink_to(tiny_checkpoint)
    assert chat.find_model() == "ckpt"
    assert "not fine-tuned" in capsys.readouterr().err
    (tmp_path / "ckpt_chat").symlink_to(tiny_checkpoint)
    assert chat.find_model() == "ckpt_chat"


def test_terminal_session(tiny_checkpoint, tmp_path):
    """In a real terminal: a message, Ctrl-C stops a reply but not the program, commands, Ctrl-D leaves."""
    pytest.importorskip("pyte")
    from tests.pty_session import Session

    def start() -> None:
        os.chdir(tmp_path)
        options = ["--model", str(tiny_checkpoint), "--max_new_tokens", "100", "--history", str(tmp_path / "typed")]
        os.execv(sys.executable, [sys.executable, str(ROOT / "chat.py"), *options])

    session = Session(start, 70, 30)
    try:
        session.wait_for_prompt("/help for commands", seconds=60)
        session.type("你好\r")
        time.sleep(1)  # a reply that is stopped before its first word is not kept, nor is what it answered
        session.type("\x03")
        session.wait_for_prompt("> 你好", seconds=20)  # stopped, or ended before; which, test_pty.py makes sure of
        session.type("/save kept\r")
        session.wait_for_prompt("已保存到")
        session.type("/nonsense\r")
        session.wait_for_prompt("/nonsense；")
        session.type("\x04")
        assert session.wait() == 0
    finally:
        session.close()
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert kept["messages"][0] == {"role": "user", "content": "你好"}
    assert "你好" in (tmp_path / "typed").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "nowhere"], "nowhere: no such checkpoint"),
        (["--model", __file__], "test_chat.py: is no GGUF file; name a checkpoint's folder, or a GGUF file"),
        (["--temperature", "-1"], "--temperature -1.0 is outside"),
        (["--prompt", " "], "--prompt is empty"),
        (["--nonsense"], "unknown key 'nonsense'"),
        (["--top_k", "many"], "--top_k: a whole number is expected, not 'many'"),
        (["--max_new_tokens", "0"], "--max_new_tokens 0 is outside 1 to"),
        (["--system", "long " * 500], "--system: the system prompt is longer than the model's window of 256 tokens"),
        (["--serve", "--system", "long " * 500], "--system: the system prompt is longer than"),
        (["--serve", "--max_new_tokens", "1", "--system", "qzx" * 60], "--system: the system prompt is longer than"),
        (["--prompt", "\a"], "--prompt: the message has no words that can be read"),
        (["--temp", "0"], "unknown key 'temp'"),
        (["--serve", "--web"], "--serve has no effect with --web; leave out"),
        (["--serve", "--prompt", "Hi"], "--prompt has no effect with --serve"),
        (["--web", "--stats"], "--stats has no effect with --web"),
        (["--prompt", "Hi", "--samples"], "--samples has no effect with --prompt"),
        (["--prompt", "Hi", "--history", ""], "--history has no effect with --prompt"),
        (["--serve", "--no_browser"], "--no_browser has no effect without --web"),
        (["--prompt", "Hi", "--port=9"], "--port has no effect without --web or --serve"),
        (["--max_queue", "0"], "--max_queue has no effect without --web or --serve"),
        (["--slots", "2"], "--slots has no effect without --web or --serve"),
        (["--temperature", "0", "--top_p", "0.5"], "--top_p has no effect with --temperature 0"),
    ],
)
def test_bad_options_are_one_line(options, expected, tiny_checkpoint):
    model = [] if "--model" in options else ["--model", str(tiny_checkpoint)]
    with pytest.raises(InputError) as caught:
        chat.main([*model, *options])
    assert expected in str(caught.value)


def test_options_that_have_their_effect_pass():
    for options in (
        ["--web", "--no_browser", "--slots", "2", "--temperature", "0", "--top_p", "0.5", "--system", "Be kind."],
        ["--prompt", "Hi", "--stats", "--temperature", "0", "--repetition_penalty", "1"],
        ["--history", "", "--seed", "1"],
    ):
        chat.parse_chat(options)


@pytest.mark.parametrize(
    ("mode", "slots"), [(["--prompt", "Hi"], 1), (["--serve"], 8), (["--serve", "--slots", "3"], 3)]
)
def test_one_user_pays_for_one_row_of_a_step(mode, slots, tiny_checkpoint, monkeypatch):
    load, loaded = engine.load_engine, []
    monkeypatch.setattr(engine, "load_engine", lambda *a, **more: loaded.append(load(*a, **more)) or loaded[0])
    monkeypatch.setattr(serve, "serve", lambda *_, **__: 0)
    assert chat.main(["--model", str(tiny_checkpoint), "--engine", "batched", "--max_new_tokens", "2", *mode]) == 0
    assert loaded[0].decoder.step_limit == slots


def test_line_without_words_is_said_and_nothing_of_the_last_reply(tiny_checkpoint, forked):
    options = ["--model", str(tiny_checkpoint), "--stats", "--max_new_tokens", "4", "--seed", "1"]
    codes, done = forked.run("chat", options, typed=b"Hello\n\a\nHi\n")
    assert codes == [0], done.text
    lines = done.err.splitlines()
    assert len([line for line in lines if "tokens a second" in line]) == 2
    assert lines.count("[the message has no words that can be read]") == 1
    _, without = forked.run("chat", options, typed=b"Hello\nHi\n")
    assert done.out == without.out


def test_odd_bytes_and_long_prompts(tiny_checkpoint, forked):
    options = ["--model", str(tiny_checkpoint), "--max_new_tokens", "2"]
    codes, done = forked.run("chat", options, typed=b"hello \xff\n")
    assert codes == [0], done.text
    with pytest.raises(InputError, match="--prompt: the message is longer than the model's window"):
        chat.main(["--model", str(tiny_checkpoint), "--prompt", "long " * 500])


def test_half_a_checkpoint_is_one_line(tiny_checkpoint, tmp_path, forked):
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    codes, done = forked.run("chat", ["--model", str(tmp_path), "--prompt", "Hi"])
    assert codes == [2]
    assert len(done.err.strip().splitlines()) == 1
    assert re.search(
        f"^error: {re.escape(str(weights))}: has 5,000 bytes, its header says [0-9,]+; it is cut", done.err
    )
