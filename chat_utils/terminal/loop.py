"""The chat in a terminal: messages and commands in, replies and notes out."""

import io
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from chat_utils.engine import Engine
from chat_utils.terminal.commands import COMMANDS, Leave, run_command
from chat_utils.terminal.conversation import Conversation
from chat_utils.terminal.prompt import READ, make_reader, read_plainly
from chat_utils.terminal.screen import Screen, guard_terminal
from chat_utils.terminal.wording import locale_language, say, typed_language
from data_utils.dialogue.checking import DialogueError
from errors import InputError


@dataclass
class Chat:
    """A conversation and the terminal it takes place in; `load_engine` opens the checkpoint of /model."""

    conversation: Conversation
    screen: Screen
    load_engine: Callable[[str], Engine]
    wants_stats: bool = False
    read: READ = read_plainly
    language: str = field(default_factory=locale_language)
    is_window_said: bool = False

    def say(self, key: str, **values: object) -> None:
        """Tell the user something about the chat, in the user's language."""
        self.screen.note(say(key, self.language, **values))

    def answer(self, text: str, again: bool = False) -> None:
        """Answer a message as `Conversation.ask` does; say how the reply ended where it wasn't by itself.

        Raises DialogueError where there is no answer, which says why.
        """
        if self.screen.in_dialogue:
            self.language = typed_language(text, self.language)
        conversation = self.conversation
        with self.screen.reply() as painter:
            conversation.ask(text, painter.add, again)
        if conversation.reply is None:  # Ctrl-C came before there was one
            raise KeyboardInterrupt
        stats = conversation.reply.stats
        ended = {"cancelled": "stopped", "loop": "loop", "length": "length"}.get(conversation.ended or "")
        if ended:
            self.say(ended, tokens=stats.reply_tokens)
        if stats.dropped_messages and not self.is_window_said:
            self.is_window_said = True
            self.say("window")
        if self.wants_stats:
            self.show_stats()
        if conversation.ended == "cancelled" and not self.screen.in_dialogue:
            raise KeyboardInterrupt

    def show_stats(self) -> None:
        """Tell what the last reply took."""
        if self.conversation.reply is None:
            self.say("no_stats")
            return
        stats = self.conversation.reply.stats
        self.say("stats", first_ms=stats.first_token_seconds * 1000, stats=stats)


def take_line(chat: Chat, line: str) -> None:
    """Carry out what was typed: a command or a message."""
    if line.startswith(("/", "／")):  # a Chinese keyboard types the wide one
        run_command(chat, line.strip())
    elif line.strip():
        chat.answer(line)


def talk(chat: Chat, history: str) -> None:
    """Answer what is typed until /quit or Ctrl-D; `history` names the file that keeps it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chat.read = make_reader(COMMANDS, history)
    with guard_terminal(chat.screen.in_colour):
        chat.say("welcome", model=chat.conversation.engine.name)
        while True:
            print()
            try:
                line = chat.read(chat.language, "")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                chat.say("leave")
                continue
            try:
                take_line(chat, line)
            except Leave:
                return
            except KeyboardInterrupt:
                chat.say("stopped")
            except DialogueError as error:
                chat.say("refused", reason=error)
            except (InputError, RuntimeError, MemoryError) as error:  # the model's: what was said before is kept
                chat.say("failed", reason=error)


def answer_option(chat: Chat, prompt: str, option: str) -> None:
    """Answer a prompt that an option gave; raises InputError where it can't be."""
    try:
        chat.answer(prompt)
    except DialogueError as error:
        raise InputError(f"command line: {option}: {error}") from error


def answer_lines(chat: Chat) -> None:
    """Answer each line of standard input, as one conversation; one that begins with a slash is a command here too."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    chat.read = lambda language, text: sys.stdin.readline()  # /edit takes the next line
    for line in sys.stdin:
        try:
            take_line(chat, line.removeprefix("\ufeff"))
        except Leave:
            return
        except DialogueError as error:
            chat.say("refused", reason=error)
