"""Opens a file or address, or a part of one, as a stream of bytes, unpacked by its name in bounded memory.

Where compressed data break off, the stream ends there and that is told once: what stands before is read, up to the last
whole line, row, page or record. Of data that are damaged nothing is read: gzip, xz and zstd tell by a checksum at the
end that something is wrong, not where. bzip2 checks each block, and is read up to the damage.
"""

import bz2
import errno
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from data_utils.readers.arguments import current_limits, more_than
from data_utils.readers.remote import ByteStream, PatientFile, is_address
from errors import first_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WINDOW = zstd.DecompressionParameter.window_log_max  # its logarithm, of 10 to 31
FEED_BYTES = 1 << 14  # given to an unpacker at once
BUFFER_BYTES = 1 << 20
UNPACKERS = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".bz2": bz2.BZ2Decompressor,
    ".xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=current_limits().dictionary),
    ".zst": lambda: zstd.ZstdDecompressor(
        options={WINDOW: min(max(current_limits().dictionary.bit_length() - 1, 10), 31)}
    ),
}
PADDING = b"\0\r\n"  # of a tape's block, or a line end that a tool has put behind
MAX_EMPTY = 1000  # members that hold nothing, one after the other: a file of them would take hours
MAX_SCAN_BYTES = 16 << 20  # in which a place to cut a file is looked for
BEGINNINGS = {  # of a member; of zstd also of what pzstd writes before one
    ".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": (b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"),
}  # fmt: skip
COMPRESSED = tuple(UNPACKERS)
CUT = "the file is cut: its compressed data have no end; what stands before is read; get it again"
MORE = "ignored trailing bytes after the compressed data"

Report = Callable[[object, str], None]  # (place, reason) of a fault in the file being read


class Part(NamedTuple):
    """A piece of a large file that a task reads by itself.

    `start` and `end` are bytes, or row groups of Parquet; `size` its bytes in the file; `first` the number of its first
    line or row.
    """

    start: int
    end: int
    size: int
    first: int = 1


class Range(ByteStream):
    """The bytes of a stream from `start` to `end` - 1, as a stream of its own."""

    def __init__(self, stream: BinaryIO, start: int, end: int) -> None:
        self.stream, self.start, self.end = stream, start, end
        stream.seek(start)

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

    def take(self, most: int) -> bytes:
        """Return the next bytes as far as the range goes."""
        return self.stream.read(max(0, min(most, self.end - self.stream.tell())))


class Unpacked(ByteStream):
    """The unpacked bytes of a compressed stream; `fault` says how they broke off."""

    def __init__(self, stream: BinaryIO, packing: str) -> None:
        self.stream, self.packing = stream, packing
        self.unpacker: Any = None  # of the member that is read
        self.waiting, self.fault, self.size = b"", "", 0  # size: of what is unpacked
        self.is_packed = True
        self.empty = 0  # members since the last one that held something

    def tell(self) -> int:
        """Return how many bytes were unpacked, which fastwarc asks."""
        return self.size

    def take(self, most: int) -> bytes:
        """Return what is unpacked next."""
        data = b""
        try:
            data = b"" if self.fault else self.unpack(most)
        except (OSError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
            too_large = any(words in str(error) for words in ("Memory usage limit", "requires too much memory"))
            broken = f"its compressed data are broken: {first_line(error)}"
            broken = broken if self.is_packed else f"no {self.packing} file, whatever its name says; rename it"
            self.fault = f"unpacking them takes {more_than('dictionary')}" if too_large else broken
        self.size += len(data)
        if self.size > max_unpacked_bytes(self.stream.tell()):
            self.fault = describe_bomb()
            return b""
        return data

    def unpack(self, most: int) -> bytes:
        """Return the next bytes of the members, at most so many, nothing at the end of the last one."""
        while self.unpacker is not None or self.begin_member():
            unpacker: Any = self.unpacker
            is_fed = getattr(unpacker, "needs_input", True)
            data = (self.waiting or self.stream.read(FEED_BYTES)) if is_fed else b""
            unpacked = unpacker.decompress(data, most)
            self.waiting = getattr(unpacker, "unconsumed_tail", b"") if is_fed else self.waiting
            if unpacker.eof:
                self.waiting, self.unpacker, self.empty = unpacker.unused_data, None, self.empty + 1
                if self.empty > MAX_EMPTY and not unpacked:
                    self.fault = f"its compressed data are {MAX_EMPTY:,} members of nothing, one after the other"
                    return b""
            elif is_fed and not data and not unpacked:
                self.fault = CUT
                return b""
            if unpacked:
                self.empty = 0
                return unpacked
        return b""

    def begin_member(self) -> bool:
        """Tell whether another member begins; what stands behind the last one is told."""
        data = self.waiting
        while (data := data.lstrip(PADDING) if self.size else data) == b"" and (more := self.stream.read(FEED_BYTES)):
            data = more
        data += self.stream.read(8) if data else b""
        if data and self.size and not data.startswith(BEGINNINGS[self.packing]):
            data, self.fault = b"", MORE
        self.is_packed = self.size > 0 or data.startswith(BEGINNINGS[self.packing])
        self.waiting, self.unpacker = data, UNPACKERS[self.packing]() if data else None
        return bool(data)


def max_unpacked_bytes(size: float) -> float:
    """Return how much text so many bytes may hold: no more than the best packing makes of text."""
    return max(current_limits().packed, current_limits().expansion * size)


def describe_bomb() -> str:
    """Return in words that a file unpacks to more than a text does."""
    return f"the file unpacks to {more_than('expansion')}"


def find_break(stream: BinaryIO) -> str:
    """Return how the data of an open file broke off, '' where they didn't, or haven't yet."""
    return getattr(getattr(stream, "raw", None), "fault", "")


def find_damage_of(stream: BinaryIO, packing: str) -> str:
    """Return what of compressed data is broken, '' for nothing: they are unpacked once, at 200 MB of text a second."""
    raw = Unpacked(stream, packing)
    while raw.take(BUFFER_BYTES):
        pass
    stream.seek(0)
    return "" if raw.fault in (CUT, MORE, describe_bomb()) else raw.fault


def open_bytes(path: str) -> Any:
    """Open a file or an address as a stream of its bytes; raise ValueError for a file that is a hole."""
    if is_address(path):
        return io.BufferedReader(PatientFile(path), BUFFER_BYTES)
    file = Path(path).open("rb", BUFFER_BYTES)  # noqa: SIM115, for whoever asked
    size = os.fstat(file.fileno()).st_size
    if size > current_limits().packed and is_hole(file.fileno(), size):
        file.close()
        raise ValueError("almost all of the file is a hole, without data on the disk; get it again")
    return file


def is_hole(handle: int, size: int) -> bool:
    """Tell whether less of an open file than a thousandth, of its limit for packed ones, stands on the disk at all.

    A copy that was cut off leaves such a file, and an archive can hold one of any size in some hundred bytes.
    """
    if not hasattr(os, "SEEK_DATA"):
        return False
    held = end = 0
    try:
        while size > max_unpacked_bytes(held):
            start = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, start, os.SEEK_HOLE)
            held += end - start
    except OSError as error:  # no data behind `end`; others come of a system that doesn't tell
        return error.errno == errno.ENXIO
    finally:
        os.lseek(handle, 0, os.SEEK_SET)
    return False


@contextmanager
def open_file(
    path: str, report: Report | None = None, decompress: bool = True, part: Part | None = None
) -> Generator[BinaryIO]:
    """Open a file or address for reading bytes, by its name unpacked, or a part of it.

    `report` is told if its data break off; without it, that is for the caller to ask (`find_break`).
    """
    with open_bytes(str(path)) as file:
        stream = file if part is None else io.BufferedReader(Range(file, part.start, part.end), BUFFER_BYTES)
        packing = Path(path).suffix.lower()
        if not decompress or packing not in COMPRESSED:
            yield stream
            return
        if report is not None and packing != ".bz2" and (damage := find_damage_of(stream, packing)):
            report("", damage)
            yield io.BytesIO()
            return
        raw = Unpacked(stream, packing)
        yield io.BufferedReader(raw, BUFFER_BYTES)
        if report is not None and raw.fault:
            report(f"byte {stream.tell()}" if raw.size else "", raw.fault)


def read_whole(path: str, limit: str, report: Report) -> bytes:
    """Return all bytes of a file, b"" where they are more than the limit of this name or break off, as is reported."""
    most = getattr(current_limits(), limit)
    with open_file(path) as stream:
        pieces, size = [], 0  # since all that is asked for is reserved at once
        while size <= most and (more := stream.read(BUFFER_BYTES)):
            pieces.append(more)
            size += len(more)
        data = b"".join(pieces)
        fault = find_break(stream) or f"the file holds {more_than(limit)}" * (len(data) > most)
    if fault:
        report("", fault)
    return b"" if fault else data


def place_cuts(path: str, size: int, part_bytes: int, mark: re.Pattern, begins: bytes) -> list[Part]:
    """Cut a file into parts of about `part_bytes`, where `mark` stands before data that begin so, unpacked."""
    cuts, packing = [0], Path(path).suffix.lower()
    with open_file(path, decompress=False) as stream:
        while (target := cuts[-1] + part_bytes) < size - part_bytes // 2:
            place = find_cut(stream, target, mark, begins, packing)
            if place is None:
                break
            cuts.append(place)
    return [Part(start, end, end - start) for start, end in zip(cuts, [*cuts[1:], size], strict=True)]


def find_cut(stream: BinaryIO, place: int, mark: re.Pattern, begins: bytes, packing: str) -> int | None:
    """Return the first place from one on, in MAX_SCAN_BYTES, for `place_cuts`: a mark of at most 16 bytes."""
    last, waiting = place + MAX_SCAN_BYTES, b""
    while place < last:
        stream.seek(place + len(waiting))
        if not (more := stream.read(BUFFER_BYTES)):
            break
        waiting += more
        for match in mark.finditer(waiting):
            stream.seek(place + match.start())
            unpacked: Any = Unpacked(stream, packing) if packing in COMPRESSED else stream
            if unpacked.read(64).lstrip().startswith(begins):
                return place + match.start()
        place, waiting = place + max(0, len(waiting) - 16), waiting[-16:]
    return None
