"""A file or address, or a part of one, as a stream of bytes, unpacked by its name.

Where a compressed file is cut, the stream ends with what could be unpacked, and that is told once: what stands before
the cut is read, up to the last whole line, row, page or record. One that is damaged is not read at all: gzip, xz and
zstd tell by a checksum at the end that something is wrong, not where. bzip2 checks each block: what stands before a
bad one is read.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec
import pyarrow as pa

from errors import first_line

FEED_BYTES = 1 << 14  # given to an unpacker at once, counted from where its data begin: what a break costs at most
BUFFER_BYTES = 1 << 20
UNPACKERS = {".gz": lambda: zlib.decompressobj(wbits=31), ".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}
BEGINNINGS = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ"}  # of a member
PADDING = b"\0\r\n"  # of a tape's block, or a line end that a tool has put behind
MOST = 2**62  # bytes, more than any file has
COMPRESSED = (*UNPACKERS, ".zst")
CUT = "the file is cut: its compressed data have no end; get it again"
MORE = "what stands behind its compressed data is none, and was left out"

Report = Callable[..., None]  # (place, reason, bytes lost = 0) of a fault in the file being read


class Part(NamedTuple):
    """A piece of a large file that a task reads by itself.

    `start` and `end` are bytes, or row groups of Parquet; `size` its bytes in the file; `first` the number of its first
    line or row.
    """

    start: int
    end: int
    size: int
    first: int = 1


class Range(io.RawIOBase):
    """The bytes of a stream from `start` to `end` - 1, as a stream of its own."""

    def __init__(self, stream: BinaryIO, start: int, end: int) -> None:
        self.stream, self.start, self.end = stream, start, end
        stream.seek(start)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that places in it can be gone to."""
        return True

    def tell(self) -> int:
        """Return the place, from the start of the range."""
        return self.stream.tell() - self.start

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, from the start of the range."""
        self.stream.seek((self.start, self.stream.tell(), self.end)[whence] + offset)
        return self.tell()

    def readinto(self, buffer: bytearray) -> int:
        """Fill the buffer as far as the range goes."""
        data = self.stream.read(max(0, min(len(buffer), self.end - self.stream.tell())))
        buffer[: len(data)] = data
        return len(data)


class Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed stream; `fault` says how it broke off, `lost_bytes` how much stands behind."""

    def __init__(self, stream: BinaryIO, packing: str) -> None:
        self.stream, self.packing = stream, packing
        # It closes what it reads when it goes: a view, not the stream.
        self.frames = pa.CompressedInputStream(Range(stream, 0, MOST), "zstd") if packing == ".zst" else None
        self.unpacker, self.waiting, self.ready, self.offset = None, b"", memoryview(b""), 0
        self.is_done, self.was_readable, self.fault, self.lost_bytes = False, False, "", 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: bytearray) -> int:
        """Fill the buffer with what is unpacked next."""
        while not (self.ready or self.is_done):
            try:
                self.ready = memoryview(self.unpack_next())
            except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                reason = first_line(error)
                state = "are broken" if self.was_readable else f"are none of {self.packing}, or broken"
                is_cut = self.was_readable and "truncated" in reason.lower()  # as zstd says it
                self.is_done, self.fault = True, CUT if is_cut else f"its compressed data {state}: {reason}"
                self.offset = self.offset or self.stream.tell()
                self.lost_bytes = max(0, self.stream.seek(0, 2) - self.offset)
        size = min(len(buffer), len(self.ready))
        buffer[:size] = self.ready[:size]
        self.ready, self.was_readable = self.ready[size:], self.was_readable or size > 0
        return size

    def unpack_next(self) -> bytes:
        """Return what comes next, maybe nothing."""
        if self.frames is not None:
            data = self.frames.read(FEED_BYTES)
            self.is_done = not data
            return data
        if self.unpacker is not None and self.unpacker.eof:
            self.waiting, self.unpacker = self.unpacker.unused_data, None
        data = self.waiting or self.stream.read(FEED_BYTES)
        self.waiting = b""
        if not data:
            self.is_done, self.fault = True, CUT if self.unpacker is not None else ""
            return b""
        if self.unpacker is None and self.offset:
            size, data = len(data), data.lstrip(PADDING)
            self.offset += size - len(data)
            if not data:
                return b""
            beginning = BEGINNINGS[self.packing]
            if data[: len(beginning)] != beginning[: len(data)]:
                self.is_done, self.fault, self.lost_bytes = True, MORE, self.stream.seek(0, 2) - self.offset
                return b""
        self.unpacker = self.unpacker or UNPACKERS[self.packing]()
        unpacked = self.unpacker.decompress(data)
        self.offset += len(data) - len(self.unpacker.unused_data)
        return unpacked


def find_break(stream: BinaryIO) -> str:
    """Return how the data of an open file broke off, '' where they didn't, or haven't yet."""
    return getattr(getattr(stream, "raw", None), "fault", "")


def find_damage(stream: BinaryIO, packing: str) -> str:
    """Return what is wrong with compressed data, '' where that is nothing or that they are cut: they are unpacked once.

    That is 200 MB of text a second and more, some percent of what reading it takes.
    """
    raw = Unpacked(stream, packing)
    buffer = bytearray(BUFFER_BYTES)
    while raw.readinto(buffer):
        pass
    stream.seek(0)
    return "" if raw.fault in (CUT, MORE) else raw.fault


@contextmanager
def open_file(
    path: str, report: Report | None = None, decompress: bool = True, part: Part | None = None
) -> Iterator[BinaryIO]:
    """Open a file or address for reading bytes, by its name unpacked, or a part of it.

    `report` is told at the end if its data break off; without it, that is for the caller to ask (`find_break`).
    """
    with fsspec.open(str(path), "rb", compression=None) as file:
        stream = file if part is None else io.BufferedReader(Range(file, part.start, part.end), BUFFER_BYTES)
        packing = Path(path).suffix.lower()
        if decompress and packing in COMPRESSED:
            if report is not None and packing != ".bz2" and (fault := find_damage(stream, packing)):
                report("", fault, stream.seek(0, 2))
                yield io.BytesIO()
                return
            stream = io.BufferedReader(Unpacked(stream, packing), BUFFER_BYTES)
        yield stream
        if report is not None and find_break(stream):
            raw = stream.raw
            if raw.was_readable:
                report(f"byte {raw.offset}", f"{raw.fault}; what stands before is sound", raw.lost_bytes)
            else:
                report("", raw.fault)


def read_whole(path: str, most: int = -1) -> bytes:
    """Return all bytes of a file, or the first `most`; raise ValueError where they break off: half a page is none."""
    with open_file(path) as stream:
        data = stream.read(most)
        if find_break(stream):
            raise ValueError(find_break(stream))
    return data


def place_cuts(path: str, size: int, part_bytes: int, find: Callable[[BinaryIO], int | None]) -> list[Part]:
    """Cut a file into parts of about `part_bytes`: `find` goes from where the stream is to the next place for a cut.

    It returns how many bytes further that is, None where there is none.
    """
    cuts = [0]
    with open_file(path, decompress=False) as stream:
        while (target := cuts[-1] + part_bytes) < size - part_bytes // 2:
            stream.seek(target)
            further = find(stream)
            if further is None or target + further >= size:
                break
            cuts.append(target + further)
    return [Part(start, end, end - start) for start, end in zip(cuts, [*cuts[1:], size], strict=True)]
