"""The commands that begin with a slash: a table of what each does; their help is in messages.yaml."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rich.cells import cell_len

from chat_utils.engine import freeze_loaded
from chat_utils.terminal.wording import HELP, LANGUAGES, say
from data_utils.dialogue.checking import DialogueError
from errors import InputError, make_printable

if TYPE_CHECKING:
    from chat_utils.terminal.loop import Chat

MAX_SHOWN = 5_000  # characters of a kept message; a megabyte takes a quarter of a minute to paint


@dataclass(frozen=True)
class Command:
    """A command with its argument and help in each language; `run` gets the chat and what follows the name."""

    name: str
    argument: list[str]
    about: list[str]
    run: Callable[["Chat", str], None]

    @property
    def takes_file(self) -> bool:
        """Whether a path follows the name."""
        return self.argument[0] in ("FILE", "FOLDER")

    def describe(self, language: str) -> str:
        """Return what the command does."""
        return self.about[LANGUAGES.index(language)]

    def show(self, language: str) -> str:
        """Return the command as it is typed."""
        return f"/{self.name} {self.argument[LANGUAGES.index(language)]}".rstrip()


class Leave(Exception):
    """The user wants to leave the chat."""


def show_help(chat: "Chat", _: str) -> None:
    """List the commands and keys."""
    width = max(cell_len(command.show(chat.language)) for command in COMMANDS) + 2
    for command in COMMANDS:
        typed = command.show(chat.language)
        print(typed + " " * (width - cell_len(typed)) + command.describe(chat.language))
    print(say("keys", chat.language))


def set_system(chat: "Chat", text: str) -> None:
    """Set or clear the system prompt."""
    try:
        has_system = chat.conversation.set_system(text)
    except DialogueError as error:
        chat.say("no_system", reason=error)
        return
    chat.say("system_set" if has_system else "system_none")


def retry(chat: "Chat", _: str) -> None:
    """Ask the last message again, with other luck."""
    sampling = chat.conversation.sampling
    if sampling.seed is not None:
        sampling.seed += 1
    chat.answer(chat.conversation.last_question() or "", again=True)


def edit(chat: "Chat", text: str) -> None:
    """Put another message in the place of the last one, and answer that."""
    if not text:
        chat.say("edit")
        try:
            text = chat.read(chat.language, chat.conversation.last_question() or "").strip()
        except (KeyboardInterrupt, EOFError):
            text = ""
    if text:
        chat.answer(text, again=True)
    else:
        chat.say("unchanged")


def rate(chat: "Chat", name: str, liked: bool) -> None:
    """Note whether the last reply is liked, for tune_preferences.py to learn from."""
    chat.say("rated" if chat.conversation.rate(liked) else "nothing", name=name)


def save(chat: "Chat", name: str) -> None:
    """Keep the conversation in a file; one without a turn could not be learned from."""
    wanted = name or str(chat.conversation.file or "conversation.json")
    try:
        path = chat.conversation.save(wanted)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        chat.say("cannot_save", path=wanted, reason=error)
        return
    asked_for = wanted.rpartition("/")[2]
    if path.name in (asked_for, f"{asked_for}.json"):
        chat.say("saved", path=path)
    else:
        chat.say("saved_other", wanted=asked_for, path=path)


def load(chat: "Chat", name: str) -> None:
    """Go on with a conversation that was kept, and show its end."""
    if not name:
        chat.say("needs_file", name="load")
        return
    try:
        chat.conversation.load(name)
    except InputError as error:
        chat.say("cannot_load", path=name, reason=error)
        return
    messages = chat.conversation.messages
    chat.say("loaded", count=len(messages))
    print(">", make_printable(cut_front(chat.conversation.last_question() or "")))
    if messages[-1]["role"] == "user":
        chat.say("unanswered")
        return
    with chat.screen.reply() as painter:
        painter.add(cut_front(messages[-1]["content"]))


def cut_front(text: str) -> str:
    """Return the end of a text that would take long to paint."""
    return text if len(text) <= MAX_SHOWN else f"…{text[-MAX_SHOWN:]}"


def reset(chat: "Chat", _: str) -> None:
    """Begin a new conversation with the same system prompt."""
    chat.conversation.forget()
    chat.say("forgotten")


def change_model(chat: "Chat", path: str) -> None:
    """Load another checkpoint; the conversation stays."""
    if not path:
        chat.say("model", name=chat.conversation.engine.name)
        return
    try:
        chat.conversation.engine = chat.load_engine(path)
    except InputError as error:
        chat.say("no_model", reason=error)
        return
    freeze_loaded()
    chat.say("model_loaded", name=chat.conversation.engine.name)


def leave(_: "Chat", __: str) -> None:
    """End the chat."""
    raise Leave


RUN: dict[str, Callable[["Chat", str], None]] = {
    "help": show_help, "system": set_system, "retry": retry, "edit": edit,
    "like": lambda chat, _: rate(chat, "like", True), "dislike": lambda chat, _: rate(chat, "dislike", False),
    "save": save, "load": load, "reset": reset, "stats": lambda chat, _: chat.show_stats(), "model": change_model,
    "quit": leave,
}  # fmt: skip
COMMANDS = tuple(Command(name, *HELP[name], run) for name, run in RUN.items())
NEED_QUESTION = ("retry", "edit", "save")  # without one there is nothing to do
OTHER_NAMES = {"exit": "quit", "bye": "quit", "q": "quit", "clear": "reset", "new": "reset", "?": "help"}  # elsewhere


def run_command(chat: "Chat", line: str) -> None:
    """Carry out a line that begins with a slash; raises Leave at /quit."""
    name = re.split(r"\s", line[1:], maxsplit=1)[0]  # a Chinese keyboard's space is wide
    argument = line[1 + len(name) :].lstrip()
    by_name = {command.name: command for command in COMMANDS}
    command = by_name.get(OTHER_NAMES.get(name, name))
    if command is None:
        near = get_close_matches(name[:20], by_name, n=1)
        chat.say("near" if near else "unknown", name=name[:20], near="".join(near))
    elif command.name in NEED_QUESTION and chat.conversation.last_question() is None:
        chat.say("nothing", name=command.name)
    else:
        command.run(chat, argument)
