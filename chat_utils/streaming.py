"""The text of a reply as its tokens come: whole characters, stop texts held back, and loops noticed."""

from transformers import PreTrainedTokenizerBase

from chat_utils.states import count_shared

CUT_OFF = "\ufffd"  # what tokenizers decode bytes to that are no whole character, or not yet
LOOP_COPIES = 4
LOOP_BYTES = 160  # of UTF-8: some 30 English words, 53 Chinese characters
LONGEST_PHRASE_BYTES = 512


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
    """Tokens in, text out that will not change any more; `stopped` tells that a stop text was met."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: list[str]) -> None:
        self.stopped = False
        self._tokenizer, self._stop = tokenizer.backend_tokenizer, [text for text in stop if text]
        self._ids: list[int] = []  # since the piece before the last, so that what follows is read in its context
        self._out_ids, self._out = 0, ""  # how many of them are out already, and as what
        self._decoded = self._held = ""

    def push(self, token: int) -> str:
        """Add a token and return the text that is now certain, often nothing."""
        self._ids.append(token)
        piece = self._read_new()
        if not piece or piece.endswith(CUT_OFF):  # a character of several tokens comes out with its last byte
            return ""
        self._ids = self._ids[self._out_ids :]
        self._out_ids, self._out = len(self._ids), self._decode()
        self._decoded += piece
        return self._release(piece)

    def finish(self) -> str:
        """Return what was held back. Of a character that is cut off within, nothing."""
        piece = self._release(self._read_new().rstrip(CUT_OFF))
        return piece if self.stopped else piece + self._held

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=True)

    def _read_new(self) -> str:
        """Return the text of the ids that are not out yet."""
        text = self._decode()
        if text.startswith(self._out):
            return text[len(self._out) :]
        # Where each byte is a token ("<0xE4>"), a wrong one is decoded with the right ones before it, which are out.
        return CUT_OFF + text[count_shared(text, self._out) :].lstrip(CUT_OFF)

    def is_looping(self) -> bool:
        """Tell whether the text repeats itself at its end."""
        return is_looping(self._decoded)

    def _release(self, piece: str) -> str:
        """Return the part of the held text and `piece` that cannot be the beginning of a stop text."""
        if not self._stop:
            return piece
        self._held += piece
        found = [place for text in self._stop if (place := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        certain = len(self._held)
        for text in self._stop:
            for length in range(min(len(text) - 1, len(self._held)), 0, -1):
                if self._held.endswith(text[:length]):
                    certain = min(certain, len(self._held) - length)
                    break
        released, self._held = self._held[:certain], self._held[certain:]
        return released
