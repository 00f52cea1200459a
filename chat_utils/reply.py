"""Gives one reply as it comes: an iterator of text pieces that any thread may read, stop and look at."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from chat_utils.runtimes.decoder import Session
from chat_utils.streaming import TextStream

LOOP_TOKENS = 16  # loops are looked for after each so many, however fast they come: a seed's reply has one end


@dataclass
class Stats:
    """What a reply took; seconds count from when it was asked for."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    dropped_messages: int = 0

    @property
    def tokens_per_second(self) -> float:
        """How fast the tokens after the first came."""
        return max(self.reply_tokens - 1, 0) / max(self.seconds - self.first_token_seconds, 1e-9)


class Reply(Iterator[str]):
    """Pieces of whole characters; `stats` grows as they come.

    `finish_reason` is None while it runs, then "stop" (by itself or at a stop text), "length", "loop" (it repeated
    itself and was ended) or "cancelled".
    """

    def __init__(self, session: Session, text: TextStream, room: int, stats: Stats) -> None:
        """`room`: the longest reply in tokens; `stats.seconds` may already count what preparing took."""
        self.stats, self.finish_reason = stats, None
        self._session, self._text, self._room = session, text, room
        self._started = time.perf_counter() - stats.seconds
        self._lock = threading.RLock()
        self._is_cancelled = False

    def __next__(self) -> str:
        with self._lock:
            while self.finish_reason is None:
                if self._is_cancelled:
                    self._finish("cancelled")
                elif piece := self._advance():
                    return piece
        raise StopIteration

    def cancel(self) -> None:
        """Have whoever reads the reply end it before its next turn, a part of its prompt too; waits for nothing."""
        self._is_cancelled = True

    def close(self) -> None:
        """Cancel the reply where it still runs, from any thread; waits for a turn in progress at most."""
        self.cancel()
        with self._lock:
            if self.finish_reason is None:
                self._finish("cancelled")

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _advance(self) -> str:
        """Let the model go on for a turn and return the text that this made certain, often nothing."""
        stats = self.stats
        if stats.reply_tokens == 0 or self._text.by_token:  # the first comes at once
            limit = 1
        else:
            limit = min(LOOP_TOKENS - stats.reply_tokens % LOOP_TOKENS, self._room - stats.reply_tokens)
        tokens = self._session.step(limit)
        stats.seconds = time.perf_counter() - self._started
        stats.cached_tokens = self._session.cached_tokens
        if not tokens:
            return ""
        if stats.reply_tokens == 0:
            stats.first_token_seconds = stats.seconds
        stats.reply_tokens += len(tokens)
        reason = None
        if tokens[-1] in self._session.stop_ids:
            reason = "stop"
            tokens.pop()
        for token in tokens:
            self._text.push(token)
        piece = self._text.read()
        if self._text.stopped:
            reason = "stop"
        elif reason is None and stats.reply_tokens % LOOP_TOKENS == 0 and self._text.is_looping():
            reason = "loop"
        elif reason is None and stats.reply_tokens >= self._room:
            reason = "length"
        if reason is None:
            return piece
        if not self._text.stopped:
            piece += self._text.finish()
            reason = "stop" if self._text.stopped else reason
        self._finish(reason)
        return piece

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        self._session.close()
