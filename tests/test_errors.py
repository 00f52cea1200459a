"""How a script ends: its exit code, and one line for the person who typed the command."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors import SafetensorError
from tokenizers import Tokenizer

from errors import InputError, explained, run_guarded, run_script


def end_of(main, capsys) -> tuple[int, str]:
    """Return the exit code and what was written to standard error."""
    with pytest.raises(SystemExit) as left:
        run_script(main)
    return left.value.code, capsys.readouterr().err


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.fixture(autouse=True)
def first_process(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.parametrize(("result", "code"), [(0, 0), (None, 0), (143, 143), (130, 130)])
def test_code_is_that_of_main_and_nothing_is_said(result, code, capsys):
    assert end_of(lambda: result, capsys) == (code, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InputError("a.txt:3: role 'bot' is not user; rename it"),
            2,
            "error: a.txt:3: role 'bot' is not user; rename it\n",
        ),
        (InputError("数据.txt: 没有"), 2, "error: 数据.txt: 没有\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; what was complete before is untouched\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "ckpt/x"),
            1,
            "error: No space left on device (ckpt/x); what was complete before is untouched\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            1,
            "error: Permission denied; what was complete before is untouched\n",
        ),
        (
            RuntimeError("CUDA out of memory. Tried 2 GiB.\nmore\nlines"),
            1,
            "error: CUDA out of memory. Tried 2 GiB.; what was complete before is untouched\n",
        ),
        (
            SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
            1,
            "error: Error while serializing: I/O error: File too large (os error 27); what was complete before is "
            "untouched\n",
        ),
        (
            RuntimeError("[enforce fail at file.cc:664] . unexpected pos 6"),
            1,
            "error: [enforce fail at file.cc:664] . unexpected pos 6; what was complete before is untouched\n",
        ),
        (InputError("a\nb.txt: no such file"), 2, "error: a\\nb.txt: no such file\n"),
    ],
    ids=[
        "input",
        "Chinese",
        "interrupt",
        "disk-full",
        "no-permission",
        "GPU-full",
        "file-limit",
        "cut-off-write",
        "line-break",
    ],
)
def test_fault_is_one_line_with_its_code(error, code, line, capsys):
    assert end_of(raising(error), capsys) == (code, line)


def test_full_memory_is_one_line_that_says_what_to_do(capsys):
    code, said = end_of(raising(MemoryError("cannot allocate")), capsys)
    assert code == 1
    assert said.startswith("error: out of memory: cannot allocate; try a smaller --per_device_train_batch_size")
    assert said.count("\n") == 1


def test_a_path_that_no_system_takes_is_the_users(capsys):
    assert end_of(lambda: Path("a" * 5000).exists() and None, capsys) == (
        2, f"error: {'a' * 200}: File name too long; choose another path\n"
    )  # fmt: skip
    assert end_of(raising(IsADirectoryError(errno.EISDIR, "Is a directory", "x")), capsys)[0] == 2


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a bug"), FileNotFoundError(2, "a bug")]
)
def test_bug_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a bug"):
        run_script(raising(error))


@pytest.mark.parametrize(("rank", "says"), [("0", True), ("1", False), ("7", False)])
def test_one_process_of_a_machine_speaks_and_all_leave_alike(rank, says, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", rank)
    code, said = end_of(raising(InputError("x: y")), capsys)
    assert code == 2
    assert said == ("error: x: y\n" if says else "")


def test_help_leaves_as_it_asked(capsys):
    assert end_of(raising(SystemExit(0)), capsys) == (0, "")


def test_output_is_flushed_before_the_end(capsys):
    def main() -> None:
        print("done", end="")

    with pytest.raises(SystemExit):
        run_script(main)
    assert capsys.readouterr().out == "done"


PRINTERS = {
    "while it writes": "for _ in range(100_000): print('a line that is long enough to fill a pipe')",
    "before the end": "print('a line')",  # it stands in the buffer when main returns
}


@pytest.mark.parametrize("when", PRINTERS)
def test_reader_who_has_left_is_no_fault(when):
    """As in `chat.py | head -1`."""
    code = f"from errors import run_script\ndef main():\n    input()\n    {PRINTERS[when]}\nrun_script(main)"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    _, said = process.communicate("go\n", timeout=30)
    assert said == ""
    assert process.returncode == 141


def test_a_panic_of_a_library_in_rust_is_a_line(tokenizer, capsys):
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "a"}
    broken = Tokenizer.from_str(json.dumps(content))
    assert run_guarded(lambda: broken.encode("tea")) == 2
    assert "error: a library gave up (index out of bounds" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"^a: cannot be read: index out of bounds"), explained("a", "cannot be read"):
        broken.encode("tea")


def test_interrupt_before_a_script_begins_is_a_line_too():
    code = "from errors import say_interrupts; say_interrupts(); raise KeyboardInterrupt"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr == "error: interrupted; what was complete before is untouched\n"


@pytest.mark.parametrize(
    "script", ["train.py", "finetune_dialogue.py --base MODEL", "chat.py --model MODEL", "export.py MODEL --to peft",
               "-m prepare_corpus --sources README.md"]
)  # fmt: skip
def test_interrupt_while_a_script_imports_is_a_line(tiny_checkpoint, tmp_path, script):
    for package in ("transformers", "datasets"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise KeyboardInterrupt")
    source = Path(find_spec("transformers").origin).with_name("training_args.py")
    shutil.copy(source, tmp_path / "transformers")  # whose options are read from it beforehand, without importing it
    words = script.replace("MODEL", str(tiny_checkpoint)).split()
    ended = subprocess.run(
        [sys.executable, *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode in (130, -signal.SIGINT)  # a shell shows 130 for both
    assert ended.stderr == "error: interrupted; what was complete before is untouched\n"
