"""The conversation in a terminal: lines in, streamed replies out, and the commands that begin with a slash."""

import contextlib
import json
import signal
import sys
from pathlib import Path

from chat_utils.engine import Engine, Sampling
from data_utils.dialogue import DialogueError, check_dialogue, clean_text

HELP = """\
/help            these commands               /system TEXT     set the system prompt (empty: none)
/reset           forget the conversation      /retry           another reply to your last message
/save FILE       keep it as JSON              /load FILE       go on with a kept one
/stats           speed of the last reply      /quit            leave (or Ctrl-D)
Ctrl-C stops a reply, not the program."""


class Conversation:
    """A dialogue with an engine, as typed line by line."""

    def __init__(self, engine: Engine, sampling: Sampling, system: str | None, show_stats: bool) -> None:
        self.engine, self.sampling, self.show_stats = engine, sampling, show_stats
        self.messages: list[dict] = []
        self.said_dropped = False
        self.set_system(system)

    def set_system(self, text: str | None) -> None:
        """Set or clear the system turn."""
        self.messages = [message for message in self.messages if message["role"] != "system"]
        if text and text.strip():
            self.messages.insert(0, {"role": "system", "content": clean_text(text)})

    def ask(self, text: str) -> str:
        """Add the user's message and the reply to it, streamed to standard output; returns the reply.

        The message is cleaned as the dialogues are that the model learned from. Raises DialogueError where it is longer
        than the model's window.
        """
        text = clean_text(text)
        if not text:
            return ""
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            for piece in self.engine.reply(self.messages, self.sampling):
                pieces.append(piece)
                print(make_printable(piece), end="", flush=True)
        except KeyboardInterrupt:
            print(" ⏹", end="")
        except DialogueError:
            self.messages.pop()
            raise
        print()
        reply = "".join(pieces).strip()
        self.messages.append({"role": "assistant", "content": reply or "…"})
        if self.engine.stats.dropped_messages and not self.said_dropped:
            self.said_dropped = True
            print("[the window is full: the oldest turns are no longer seen by the model]", file=sys.stderr)
        if self.show_stats:
            print(f"[{self.engine.stats}]", file=sys.stderr)
        return reply

    def command(self, line: str) -> bool:
        """Carry out a command; return False to leave."""
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        if name in ("quit", "exit", "q"):
            return False
        if name == "reset":
            self.messages = [message for message in self.messages if message["role"] == "system"]
            print("[forgotten]")
        elif name == "system":
            self.set_system(rest)
            print("[system prompt set]" if rest else "[no system prompt]")
        elif name == "retry":
            self.retry()
        elif name == "stats":
            print(f"[{self.engine.stats}]")
        elif name in ("save", "load"):
            self.save_or_load(name, rest)
        else:
            print(HELP if name == "help" else f"[no command /{name}; /help lists them]")
        return True

    def retry(self) -> None:
        """Ask the last message again, with other luck."""
        users = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not users:
            print("[nothing to retry yet]")
            return
        text = self.messages[users[-1]]["content"]
        del self.messages[users[-1] :]
        if self.sampling.seed is not None:
            self.sampling.seed += 1
        answer(self, text)

    def save_or_load(self, name: str, file: str) -> None:
        """Write the dialogue to a file as OpenAI-style JSON, which finetune_dialogue.py reads, or read one back."""
        if not file:
            print(f"[/{name} needs a file name]")
            return
        path = Path(file).expanduser()
        try:
            if name == "save":
                path.write_text(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n", encoding="utf-8")
                print(f"[saved to {path}]")
            else:
                self.messages = check_dialogue(json.loads(path.read_text(encoding="utf-8"))["messages"])
                print(f"[{len(self.messages)} messages loaded]")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"[{path}: cannot {name}: {error}]")


def make_printable(text: str) -> str:
    """Return text without control characters, which could change a terminal's state.

    >>> make_printable("a\\x1b[31mb\\n")
    'a[31mb\\n'
    """
    return "".join(char for char in text if char in "\n\t" or char.isprintable() or ord(char) > 0x9F)


def answer(conversation: Conversation, text: str) -> None:
    """Answer a message; one that is too long for the model is refused, and the conversation goes on."""
    try:
        conversation.ask(text)
    except DialogueError as error:
        print(f"[{error}]")


def talk(conversation: Conversation) -> None:
    """Read lines until /quit or Ctrl-D, and answer each."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives input() history and editing where the platform has it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("Type a message, /help for commands, Ctrl-D to leave. 输入消息，/help 查看命令，Ctrl-D 退出。")
    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n[Ctrl-D or /quit leaves]")
            continue
        if line.startswith("/"):
            if not conversation.command(line):
                return
        elif line:
            answer(conversation, line)
