"""Common Crawl's archives in, text out: WARC (pages) and WET (text), read member by member.

A broken member or record costs itself alone, and a file that is cut what stands behind the cut: fastwarc reads records,
but ends where gzip does.
"""

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data_utils.readers.encodings import EncodingFault, decode_bytes
from data_utils.readers.files import ReadArguments
from data_utils.readers.limits import OutOfTime
from data_utils.readers.opening import FEED_BYTES, Part, Report, open_file, place_cuts
from data_utils.readers.records import HEAD_END, RECORD_MARK, split_records
from data_utils.readers.webpages import MAX_PAGE_BYTES, decode_page, extract_text
from errors import first_line

MAX_MEMBER_BYTES = 64 << 20  # of one gzip member, unpacked: what is held in memory
CHUNK_BYTES = 1 << 20
GZIP_MARK = b"\x1f\x8b\x08"
CUT_MEMBER = "the file ends in the middle of a gzip member"


def read_warc(
    path: str, options: ReadArguments, report: Report, part: Part | None = None
) -> Iterator[tuple[str, dict]]:
    """Yield (address, {"text"}) of each page of a WARC, or of each text of a WET archive."""
    for place, data in read_members(path, report, part):
        try:
            yield from read_records(data, place, report, options.max_seconds)
        except Exception as error:  # fastwarc raises what it meets
            report(place, f"not a WARC record: {first_line(error)}")


def read_records(data: bytes, place: str, report: Report, max_seconds: float) -> Iterator[tuple[str, dict]]:
    """Yield (address, {"text"}) of each record of uncompressed WARC bytes."""
    kinds = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    for record in ArchiveIterator(io.BytesIO(data), record_types=kinds, parse_http=True):
        name = record.headers.get("WARC-Target-URI") or f"{place}+{record.stream_pos}"
        expected = record.content_length
        if expected > MAX_PAGE_BYTES:
            report(name, f"the record is larger than {MAX_PAGE_BYTES >> 20} MB")
            continue
        content = record.reader.read()
        if len(content) < expected and not record.is_http:
            report(name, f"the record is cut: {len(content)} of {expected} bytes")
            continue
        try:
            text = read_record_text(record, content, max_seconds)
        except (EncodingFault, OutOfTime) as error:
            report(name, str(error))
            continue
        if text is None:
            continue  # a picture, a redirect, an error page: not broken, but no text
        if text:
            yield name, {"text": text}
        else:
            report(name, "no text in it")


def read_record_text(record: WarcRecord, content: bytes, max_seconds: float) -> str | None:
    """Return the text of one record, '' where it is empty, None where it is no page."""
    if record.record_type == WarcRecordType.conversion:
        return decode_bytes(content).strip() if content else ""
    if record.is_http and record.http_headers is not None and (record.http_headers.status_code or 200) >= 300:
        return None
    headers = record.http_headers if record.is_http and record.http_headers is not None else record.headers
    kind = (headers.get("Content-Type") or "text/html").lower()
    if not content.strip():
        return ""
    if "html" in kind:
        return extract_text(decode_page(content, kind), max_seconds)
    return decode_page(content, kind).strip() if kind.startswith("text/plain") else None


def read_members(path: str, report: Report, part: Part | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (place, bytes) of each gzip member of a file, or of each record where it is not compressed.

    A broken member is reported and skipped: the next begins at the next mark of gzip.
    """
    if part is None and (not path.lower().endswith(".gz") or is_one_member(path)):
        with open_file(path, report) as stream:
            yield from split_records(stream, report)
        return
    with open_file(path, decompress=False, part=part) as stream:
        offset, waiting = part.start if part else 0, stream.read(CHUNK_BYTES)
        while waiting:
            start = offset
            member, used, waiting, reason = unpack_member(stream, waiting)
            offset += used
            if reason:
                skipped, waiting = find_member(stream, waiting)
                offset += skipped
                report(f"byte {start}", reason, 0 if reason == CUT_MEMBER else offset - start)
            else:
                yield f"byte {start}", member
            waiting = waiting or stream.read(CHUNK_BYTES)


def cut_members(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut an archive where a gzip member begins, a record in each as the standard asks; else it is one part."""
    if is_one_member(path):
        return [Part(0, size, size)]

    def find(stream: BinaryIO) -> int | None:
        skipped, rest = find_member(stream, stream.read(CHUNK_BYTES))
        return skipped if rest else None

    return place_cuts(path, size, part_bytes, find)


def is_one_member(path: str) -> bool:
    """Tell whether a .gz was packed as a whole, against the standard: then it is read as a stream."""
    unpacker, start = zlib.decompressobj(wbits=31), b""  # that unpacks a megabyte at once at most
    with open_file(path, decompress=False) as stream:
        for _ in range(CHUNK_BYTES // FEED_BYTES):
            try:
                start += unpacker.decompress(unpacker.unconsumed_tail + stream.read(FEED_BYTES), CHUNK_BYTES)
            except zlib.error:
                break
            if unpacker.eof:
                return False
            if start.count(HEAD_END + RECORD_MARK) > 2:
                return True
    return start.count(HEAD_END + RECORD_MARK) > 2


def unpack_member(stream: io.BufferedIOBase, waiting: bytes) -> tuple[bytes, int, bytes, str]:
    """Unpack the member that begins in `waiting`; return (bytes, bytes used, what follows, reason of a fault or '')."""
    unpacker, parts, size, used = zlib.decompressobj(wbits=31), [], 0, 0
    while True:
        try:
            part = unpacker.decompress(waiting, MAX_MEMBER_BYTES + 1 - size)
        except zlib.error as error:
            return b"", used + 1, waiting[1:], f"a broken gzip member: {error}"
        parts.append(part)
        size += len(part)
        if size > MAX_MEMBER_BYTES:
            return b"", used + 1, waiting[1:], f"a gzip member larger than {MAX_MEMBER_BYTES >> 20} MB"
        if unpacker.eof:
            left = unpacker.unused_data
            return b"".join(parts), used + len(waiting) - len(left), left, ""
        used += len(waiting)
        waiting = stream.read(CHUNK_BYTES)
        if not waiting:
            return b"", used, b"", CUT_MEMBER


def find_member(stream: io.BufferedIOBase, waiting: bytes) -> tuple[int, bytes]:
    """Return (bytes skipped, rest) up to the next mark of a gzip member that can be unpacked."""
    skipped = 0
    while True:
        place = waiting.find(GZIP_MARK)
        if place >= 0:
            waiting, skipped = (
                waiting[place:] + (b"" if len(waiting) - place > 512 else stream.read(512)),
                skipped + place,
            )
            try:
                start = zlib.decompressobj(wbits=31).decompress(waiting[:4096], 64)
                if start.startswith(b"WARC/"):
                    return skipped, waiting
            except zlib.error:
                pass
            waiting, skipped = waiting[1:], skipped + 1
            continue
        keep = len(waiting) - 2
        skipped += max(0, keep)
        more = stream.read(CHUNK_BYTES)
        if not more:
            return skipped + min(2, len(waiting)), b""
        waiting = waiting[max(0, keep) :] + more
