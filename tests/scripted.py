"""An engine that replies as told, for what a small model never says: Markdown, control characters, faults.

python -m tests.scripted replies.json    # a chat in the terminal; each reply a list of pieces
"""

import json
import sys
import time

from chat_utils.messages import clean_message
from chat_utils.reply import Stats
from chat_utils.sampling import Sampling
from chat_utils.terminal.conversation import Conversation
from chat_utils.terminal.loop import Chat, talk
from chat_utils.terminal.screen import Screen
from errors import InputError, run_script


class ScriptedReply:
    """Pieces as told: an exception is raised at its place, a number waits so many seconds, and <reason> ends it."""

    def __init__(self, pieces: list, stats: Stats) -> None:
        self.pieces, self.stats, self.finish_reason = list(pieces), stats, None

    def __iter__(self):
        return self

    def __next__(self) -> str:
        while self.pieces and not self.finish_reason:
            piece = self.pieces.pop(0)
            if isinstance(piece, float):
                time.sleep(piece)
                continue
            if isinstance(piece, type):
                raise piece
            if piece in ("<loop>", "<length>"):
                self.finish_reason = piece[1:-1]
                break
            self.stats.reply_tokens += 1
            return piece
        self.finish_reason = self.finish_reason or "stop"
        raise StopIteration

    def close(self) -> None:
        self.finish_reason = self.finish_reason or "cancelled"


class ScriptedEngine:
    """Replies as told: each reply a list of pieces, or an exception that refuses the dialogue."""

    name, window = "scripted", 256

    def __init__(self, *replies: list) -> None:
        self.replies = list(replies)
        self.given: list[ScriptedReply] = []
        self.asked: list[list[dict]] = []
        self.seeds: list[int | None] = []
        self.dropped = 0

    def check_system(self, text, sampling=None) -> str:
        return clean_message(text, "system", self.window)

    def reply_cleaned(self, dialogue, sampling=None, *, dropped=0) -> ScriptedReply:
        self.asked.append([dict(message) for message in dialogue])
        self.seeds.append(sampling.seed)
        pieces = self.replies.pop(0) if self.replies else ["and so on"]
        if isinstance(pieces, Exception):
            raise pieces
        stats = Stats(prompt_tokens=7, seconds=1.0, dropped_messages=self.dropped + dropped)
        self.given.append(ScriptedReply(pieces, stats))
        return self.given[-1]


def load_engine(path: str) -> ScriptedEngine:
    """Load a model that is not there."""
    raise InputError(f"{path}: no such checkpoint")


def main() -> int:
    """Talk in the terminal; the replies stand in the file named."""
    with open(sys.argv[1], encoding="utf-8") as stream:  # noqa: PTH123
        replies = json.load(stream)
    talk(Chat(Conversation(ScriptedEngine(*replies), Sampling()), Screen(in_dialogue=True), load_engine), sys.argv[2])
    return 0


if __name__ == "__main__":
    run_script(main)
