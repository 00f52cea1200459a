"""Turns a reply's tokens into text as they come: whole characters, stop texts held back, loops noticed."""

from transformers import PreTrainedTokenizerBase

from chat_utils.runtimes.prefix_cache import count_shared

CUT_OFF = "\ufffd"  # what tokenizers decode bytes to that are no whole character, or not yet
LOOP_COPIES = 4
LOOP_BYTES = 160  # of UTF-8: some 30 English words, 53 Chinese characters
LONGEST_PHRASE_BYTES = 512
CONTEXT_TOKENS = 8  # that are out and decoded again with what follows; to let go of them costs one decoding more


def is_looping(text: str) -> bool:
    """Tell whether a text ends in one phrase over and over: 4 times at least, and over 160 bytes or more.

    A phrase without a letter (rules, tables, rows of zeros) may go on for four times as long.

    >>> [is_looping(text) for text in ("I like tea. " * 14, "我喜欢你。" * 11, "Let it be, " * 4, "-" * 80)]
    [True, True, False, False]
    """
    tail = text[-4 * LONGEST_PHRASE_BYTES :].encode()[-4 * LONGEST_PHRASE_BYTES :]
    end, size = tail[-16:], len(tail)
    if size < LOOP_BYTES:
        return False
    # A period of the tail is a distance at which its last bytes stood before.
    start = tail.rfind(end, 0, size - 1)
    while start >= 0 and (period := size - len(end) - start) <= LONGEST_PHRASE_BYTES:
        phrase = tail[-period:]
        has_letter = any(char.isalpha() for char in phrase.decode(errors="ignore"))
        least = LOOP_BYTES if has_letter else 4 * LOOP_BYTES
        copies = max(LOOP_COPIES, -(-least // period))
        if tail.endswith(phrase * copies):
            return True
        start = tail.rfind(end, 0, start + len(end) - 1)
    return False


class TextStream:
    """Tokens in, text out that will not change any more; `stopped` tells that a stop text was met.

    The text of all pieces is the same however often it is read, but where it must be read `by_token`: a stop text ends
    at its token, and where each byte is a token ("<0xE5>") a wrong one spoils those that are decoded with it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: list[str]) -> None:
        self.stopped = False
        self.stop = [text for text in stop if text]
        self._tokenizer = tokenizer.backend_tokenizer
        self.by_token = bool(self.stop) or self._tokenizer.token_to_id("<0xE5>") is not None
        self._ids: list[int] = []  # the last ones, so that what follows is read in their context
        self._out_ids, self._out = 0, ""  # of them: how many are known to be whole characters, and what text is out
        self._decoded = self._held = ""

    def push(self, token: int) -> None:
        """Add a token."""
        self._ids.append(token)

    def read(self) -> str:
        """Return the text that is certain now and not out yet, often nothing."""
        text = self._decode()
        piece = self._cut_new(text).rstrip(CUT_OFF)  # a character of several tokens comes out with its last byte
        if not piece:
            return ""
        self._out = text.rstrip(CUT_OFF)
        if self._out == text:
            before, self._out_ids = self._out_ids, len(self._ids)
            if before >= CONTEXT_TOKENS:
                self._ids = self._ids[before:]
                self._out_ids, self._out = len(self._ids), self._decode()
        self._decoded += piece
        return self._release(piece)

    def finish(self) -> str:
        """Return what was held back. Of a character that is cut off within, nothing."""
        piece = self.read()
        return piece if self.stopped else piece + self._held

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _cut_new(self, text: str) -> str:
        """Return the part of the ids' text that is not out yet."""
        if text.startswith(self._out):
            return text[len(self._out) :]
        # Where each byte is a token, a wrong one is decoded with the right ones before it, which are out.
        return CUT_OFF + text[count_shared(text, self._out) :].lstrip(CUT_OFF)

    def is_looping(self) -> bool:
        """Tell whether the text repeats itself at its end."""
        return is_looping(self._decoded)

    def _release(self, piece: str) -> str:
        """Return the part of the held text and `piece` that cannot be the beginning of a stop text."""
        if not self.stop:
            return piece
        self._held += piece
        found = [place for text in self.stop if (place := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        certain = len(self._held)
        for text in self.stop:
            for length in range(min(len(text) - 1, len(self._held)), 0, -1):
                if self._held.endswith(text[:length]):
                    certain = min(certain, len(self._held) - length)
                    break
        released, self._held = self._held[:certain], self._held[certain:]
        return released
