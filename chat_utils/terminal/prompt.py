"""Reads what the user types: by prompt_toolkit (editor.py), or by input() where that can't be; keeps the history."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from chat_utils.terminal.screen import is_capable
from errors import InputError
from files import write_whole

MAX_HISTORY_BYTES = 1_000_000
ENTRY = re.compile(rb"\n?# \d{4}-\d\d-\d\d \d\d:\d\d")  # how prompt_toolkit begins each
READ = Callable[[str, str], str]


def default_history() -> str:
    """Return the file that keeps what was typed, by the XDG convention."""
    return str(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "chat" / "history")


def make_reader(commands: Sequence, history: str) -> READ:
    """Return `read(language, text)`, which returns what the user types, `text` being there to begin with.

    It raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C. `history` names a file; empty: nothing is kept.
    """
    if not (is_capable(sys.stdin) and is_capable(sys.stdout)):
        return read_plainly
    try:
        from chat_utils.terminal.editor import Editor
    except ImportError:  # prompt_toolkit is not there
        return read_plainly
    return Editor(commands, open_history(history)).read


def read_plainly(language: str, text: str = "") -> str:
    """Read one line with input(); readline gives editing where the platform has it."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    text = "" if "\n" in text else text  # one line can't hold it
    if is_capable(sys.stdin):
        with contextlib.suppress(ImportError):
            import readline

            readline.set_startup_hook(lambda: readline.insert_text(text))
    return input("> ")


def open_history(name: str) -> Path | None:
    """Create the history's file, for its owner's eyes only; None where there can be none.

    Raises InputError for a file that holds something else: it would be cut, and its permissions taken.
    """
    if not name:
        return None
    path = Path(name).expanduser()
    if path.exists() and not path.is_file():  # a folder, or /dev/null, whose permissions are everybody's
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "rb") as file:
            begin = file.read(64)
            if begin and not ENTRY.match(begin):
                raise InputError(f"--history {path}: holds something else than a history; choose another file")
        path.chmod(0o600)
        if path.stat().st_size > MAX_HISTORY_BYTES:
            kept = path.read_bytes()[-MAX_HISTORY_BYTES // 2 :]
            write_whole(path, kept[kept.find(b"\n# ") :], mode=0o600)
    except OSError:
        return None
    return path
