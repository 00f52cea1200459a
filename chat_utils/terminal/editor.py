"""Edits what the user types, with history and completion, by prompt_toolkit."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import has_focus, is_searching
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

from chat_utils.terminal.wording import say

MAX_SHOWN_PASTE = 5_000  # characters; a longer one is held aside, since the editor lays out all its text with each key


class Editor:
    """Reads a message or command at a time; `held` maps what stands on the screen for a long paste to the paste."""

    def __init__(self, commands: Sequence, history: Path | None) -> None:
        self.held: dict[str, str] = {}
        self.language = "en"
        self.commands = commands
        self._session: PromptSession[str] = PromptSession(
            history=History(history, self.held) if history else InMemoryHistory(),
            completer=CommandCompleter(self),
            complete_while_typing=True,
            multiline=True,
            key_bindings=self._bind_keys(),
            prompt_continuation="  ",
            enable_suspend=True,
            reserve_space_for_menu=6,
        )

    def read(self, language: str, text: str = "") -> str:
        """Return what the user types, `text` being there to begin with."""
        self.language = language
        self.held.clear()
        typed = self._session.prompt("> ", default=text)
        for mark, pasted in self.held.items():
            typed = typed.replace(mark, pasted)
        return typed

    def _bind_keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter", filter=has_focus("DEFAULT_BUFFER") & ~is_searching)
        def send(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter")
        @keys.add("escape", "c-j")  # as the terminal passes it on when it was typed during a reply
        def begin_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add(Keys.BracketedPaste)
        def paste(event: KeyPressEvent) -> None:
            text = event.data.replace("\r\n", "\n").replace("\r", "\n")
            if len(text) > MAX_SHOWN_PASTE:
                mark = f"[{say('pasted', self.language, number=len(self.held) + 1, count=f'{len(text):,}')}]"
                self.held[mark], text = text, mark
            event.current_buffer.insert_text(text)

        return keys


class History(FileHistory):
    """Keeps what was typed; a held paste would be a riddle in the next session."""

    def __init__(self, path: Path, held: dict[str, str]) -> None:
        self.held = held
        super().__init__(str(path))

    def store_string(self, string: str) -> None:
        """Write what was typed to the file."""
        if not any(mark in string for mark in self.held):
            with contextlib.suppress(OSError):
                super().store_string(string.encode("utf-8", "replace").decode("utf-8"))


class CommandCompleter(Completer):
    """Completes a command's name, then the file that it takes."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what may follow the text before the cursor."""
        text = document.text_before_cursor
        name, space, argument = text.partition(" ")
        if not text.startswith("/") or "\n" in text:
            return
        if space:
            command = next((command for command in self.editor.commands if f"/{command.name}" == name), None)
            if command and command.takes_file:
                files = PathCompleter(expanduser=True)
                yield from files.get_completions(Document(argument.lstrip()), complete_event)
            return
        for command in self.editor.commands:
            if command.name.startswith(text[1:]):
                about = command.describe(self.editor.language)
                yield Completion(f"/{command.name}", start_position=-len(text), display_meta=about)
