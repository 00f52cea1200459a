"""What the user types: prompt_toolkit's editing with history and completion, or input() where that can't be."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from chat_utils.terminal.screen import is_capable
from chat_utils.terminal.wording import say
from errors import InputError
from files import write_whole

MAX_SHOWN_PASTE = 5_000  # characters; a longer one is held aside, since the editor lays out all its text with each key
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
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        return read_plainly
    if not (is_capable(sys.stdin) and is_capable(sys.stdout)):
        return read_plainly
    return make_editor(commands, history)


def read_plainly(language: str, text: str = "") -> str:
    """Read one line with input(); readline gives editing where the platform has it."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    if text and "\n" in text:
        text = ""  # one line can't hold it
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


def make_editor(commands: Sequence, history: str) -> READ:
    """Return `read` by prompt_toolkit."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document
    from prompt_toolkit.filters import has_focus, is_searching
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    held: dict[str, str] = {}  # what stands on the screen for a long paste: the paste
    state = {"language": "en"}

    class History(FileHistory):
        """Keeps what was typed; a held paste would be a riddle in the next session."""

        def store_string(self, string: str) -> None:
            if not any(mark in string for mark in held):
                with contextlib.suppress(OSError):
                    super().store_string(string.encode("utf-8", "replace").decode("utf-8"))

    class Commands(Completer):
        """Completes a command's name, then the file that it takes."""

        def get_completions(self, document: Document, event: object) -> object:
            text = document.text_before_cursor
            name, space, argument = text.partition(" ")
            if not text.startswith("/") or "\n" in text:
                return
            if space:
                command = next((command for command in commands if f"/{command.name}" == name), None)
                if command and command.takes_file:
                    files = PathCompleter(expanduser=True)
                    yield from files.get_completions(Document(argument.lstrip()), event)
                return
            for command in commands:
                if command.name.startswith(text[1:]):
                    about = command.describe(state["language"])
                    yield Completion(f"/{command.name}", start_position=-len(text), display_meta=about)

    keys = KeyBindings()

    @keys.add("enter", filter=has_focus("DEFAULT_BUFFER") & ~is_searching)
    def send(event: object) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("escape", "c-j")  # as the terminal passes it on when it was typed during a reply
    def begin_line(event: object) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.BracketedPaste)
    def paste(event: object) -> None:
        text = event.data.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > MAX_SHOWN_PASTE:
            mark = f"[{say('pasted', state['language'], number=len(held) + 1, count=f'{len(text):,}')}]"
            held[mark], text = text, mark
        event.current_buffer.insert_text(text)

    path = open_history(history)
    session = PromptSession(
        history=History(str(path)) if path else InMemoryHistory(),
        completer=Commands(),
        complete_while_typing=True,
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  ",
        enable_suspend=True,
        reserve_space_for_menu=6,
    )

    def read(language: str, text: str = "") -> str:
        state["language"] = language
        held.clear()
        typed = session.prompt("> ", default=text)
        for mark, pasted in held.items():
            typed = typed.replace(mark, pasted)
        return typed

    return read
