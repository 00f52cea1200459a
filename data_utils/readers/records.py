"""A WARC that is not compressed in, its records out, by the lengths that they give, in bounded memory."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from data_utils.readers.opening import Report, find_break

CHUNK_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 20  # what is held in memory
MAX_HEAD_BYTES = 1 << 16
RECORD_MARK = b"WARC/1."
HEAD_END = b"\r\n\r\n"


class Window:
    """The bytes of a stream from place `offset` on, of which as many are held as are asked for."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.offset, self.held = stream, 0, b""

    def fill(self, size: int) -> None:
        """Hold at least `size` bytes, or what is left."""
        while len(self.held) < size and (more := self.stream.read(CHUNK_BYTES)):
            self.held += more

    def drop(self, size: int) -> None:
        """Go on by `size` bytes."""
        self.offset, self.held = self.offset + size, self.held[size:]

    def skip_to(self, mark: bytes) -> None:
        """Go on to the next mark behind this place, or to the end."""
        self.drop(1)
        while (place := self.held.find(mark)) < 0:
            self.drop(max(0, len(self.held) - len(mark) + 1))
            before = len(self.held)
            self.fill(before + CHUNK_BYTES)
            if len(self.held) == before:
                place = before
                break
        self.drop(place)


def split_records(stream: BinaryIO, report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield (place, bytes) of each record of a WARC that is not compressed, by the length that it gives.

    A record whose length cannot be, since it is too large or no record follows, is reported, and the next one is looked
    for: one record is held in memory, not more. A file that is cut loses its last record.
    """
    window = Window(stream)
    while True:
        window.fill(MAX_HEAD_BYTES)
        window.drop(len(window.held) - len(window.held.lstrip(b"\r\n")))
        if not window.held:
            return
        place, size, reason = window.offset, *measure_record(window)
        if not reason:
            yield f"byte {place}", window.held[:size] + HEAD_END
            window.drop(size)
            continue
        window.skip_to(HEAD_END + RECORD_MARK)
        if window.held or not find_break(stream):  # else it's that break, which is told already
            report(f"byte {place}", reason, window.offset - place if window.held else 0)


def measure_record(window: Window) -> tuple[int, str]:
    """Return (bytes, '') of the record at the beginning of a window, or (0, why there is none)."""
    head = window.held.find(HEAD_END, 0, MAX_HEAD_BYTES)
    length = re.search(rb"^content-length:\s*(\d{1,18})\s*$", window.held[: max(head, 0)], re.IGNORECASE | re.MULTILINE)
    if not window.held.startswith(RECORD_MARK):
        return 0, "no WARC record begins here"
    if not length:
        return 0, "the record has no end of its head, or no length"
    size = head + len(HEAD_END) + int(length[1])
    if size > MAX_RECORD_BYTES:
        return 0, f"the record is said to have {size:,} bytes, more than {MAX_RECORD_BYTES >> 20} MB"
    window.fill(size + len(HEAD_END + RECORD_MARK))
    if len(window.held) < size:
        return 0, "the record has less bytes than it says; is the file cut?"
    rest = window.held[size : size + len(HEAD_END + RECORD_MARK)].lstrip(b"\r\n")
    if not rest.startswith(RECORD_MARK[: len(rest)]):
        return 0, "the record's length is wrong: no record follows"
    return size, ""
