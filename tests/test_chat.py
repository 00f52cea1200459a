"""chat.py as a user runs it: a prompt, piped lines, a terminal, and with bad input."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

import chat
from errors import InputError

ROOT = Path(__file__).parents[1]


def run_chat(*options: str, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "chat.py"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment, **kwargs)


def test_prompt_gives_one_answer(tiny_checkpoint, capsys):
    options = ["--model", str(tiny_checkpoint), "--prompt", "你好", "--temperature", "0", "--max_new_tokens", "12"]
    assert chat.main(options) == 0
    first = capsys.readouterr().out
    assert chat.main(options) == 0
    assert capsys.readouterr().out == first != "\n"


def test_piped_lines_are_one_conversation(tiny_checkpoint):
    done = run_chat("--model", str(tiny_checkpoint), "--stats", "--max_new_tokens", "8", input="Hello\n\n你好\n")
    assert done.returncode == 0, done.stderr
    stats = [line for line in done.stderr.splitlines() if "tokens a second" in line]
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
    """In a real terminal: a message, commands, Ctrl-C stops a reply but not the program, Ctrl-D leaves."""
    master, slave = pty.openpty()
    command = [sys.executable, str(ROOT / "chat.py"), "--model", str(tiny_checkpoint), "--max_new_tokens", "100"]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, start_new_session=True, env={**os.environ}
    )
    os.close(slave)
    seen = bytearray()
    os.set_blocking(master, False)

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 45
        while text.encode() not in seen:
            assert time.monotonic() < deadline, seen.decode(errors="replace")
            try:
                seen.extend(os.read(master, 65536))
            except BlockingIOError:
                time.sleep(0.02)

    wait_for("/help for commands")
    wait_for("> ")
    os.write(master, "你好\n".encode())
    time.sleep(0.3)
    process.send_signal(2)
    time.sleep(0.5)
    os.write(master, b"/save kept.json\n")
    wait_for("saved to kept.json")
    os.write(master, b"/nonsense\n")
    wait_for("no command /nonsense")
    os.write(master, b"\x04")
    assert process.wait(timeout=20) == 0
    assert (
        (tmp_path / "kept.json")
        .read_text(encoding="utf-8")
        .startswith('{"messages": [{"role": "user", "content": "你好"}')
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "nowhere"], "nowhere: no such checkpoint"),
        (["--temperature", "-1"], "--temperature -1.0 is outside"),
        (["--prompt", " "], "--prompt is empty"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_options_are_one_line(options, expected, tiny_checkpoint):
    model = [] if "--model" in options else ["--model", str(tiny_checkpoint)]
    with pytest.raises(InputError) as caught:
        chat.main([*model, *options])
    assert expected in str(caught.value)


def test_odd_bytes_and_long_prompts(tiny_checkpoint):
    done = subprocess.run(
        [sys.executable, str(ROOT / "chat.py"), "--model", str(tiny_checkpoint), "--max_new_tokens", "2"],
        input=b"hello \xff\n", capture_output=True, check=False, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with pytest.raises(InputError, match="--prompt: the message is longer than the model's window"):
        chat.main(["--model", str(tiny_checkpoint), "--prompt", "long " * 500])


def test_half_a_checkpoint_is_one_line(tiny_checkpoint, tmp_path):
    for file in tiny_checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    done = run_chat("--model", str(tmp_path), "--prompt", "Hi")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith(f"error: {tmp_path}: cannot be loaded")
