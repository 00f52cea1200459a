"""Wikipedia's dumps in, articles as text out: `pages-articles*.xml`, compressed or not, single or multistream.

Pages are cut out of the stream and parsed one by one, so that a broken page or bz2 stream costs itself alone (of a
stream: the pages from the break on); mwxml, one XML parser over the whole dump, ends at the first.
"""

import bz2
import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.etree import ElementTree as ET

from data_utils.readers.files import ReadArguments
from data_utils.readers.limits import OutOfTime, limit_seconds
from data_utils.readers.opening import FEED_BYTES, Part, Report, find_break, open_file, place_cuts
from data_utils.readers.wikitext import FILE_PREFIXES, extract_article
from errors import first_line

CHUNK_BYTES = 1 << 20
MAX_PAGE_BYTES = 64 << 20
MAX_SCAN_BYTES = 16 << 20  # in which a place to cut a dump is looked for
BZ2_MARK = re.compile(rb"BZh[1-9]1AY&SY")
NAMESPACE = re.compile(rb'<namespace key="(?:6|14)"[^<>]*+>([^<]++)</namespace>')  # files and categories
TITLE = re.compile(rb"<title>([^<]*)")


def read_dump(
    path: str, options: ReadArguments, report: Report, part: Part | None = None
) -> Iterator[tuple[str, dict]]:
    """Yield (title, {"text"}) of each article: no talk, templates or redirects; the title stands above the text."""
    head = read_head(path) if part and part.start else b""
    prefixes = FILE_PREFIXES | name_prefixes(head)
    for page in cut_pages(read_chunks(path, report, part), report):
        if not page.startswith(b"<page>"):  # what stands before the first page
            prefixes |= name_prefixes(page)
            continue
        try:
            title, markup = parse_page(page)
        except ET.ParseError as error:
            name = TITLE.search(page)
            report(name[1].decode("utf-8", errors="replace") if name else "a page", f"not valid XML: {error}")
            continue
        if not markup:
            continue
        try:
            with limit_seconds(options.max_seconds):
                text = extract_article(markup, options.chinese_variant, prefixes)
        except (OutOfTime, ValueError, RecursionError, MemoryError) as error:
            report(title, f"not readable as wiki markup: {first_line(error)}")
            continue
        if text:
            yield title, {"text": f"{title}\n\n{text}"}


def name_prefixes(head: bytes) -> frozenset[str]:
    """Return what links to files and categories begin with, by the head of a dump."""
    return frozenset(name.decode("utf-8", errors="ignore").lower() for name in NAMESPACE.findall(head))


def read_head(path: str) -> bytes:
    """Return what stands before the first page of a dump, for one who reads a later part of it."""
    chunks = read_chunks(path, lambda *_: None)
    return next((page for page in cut_pages(chunks, lambda *_: None) if not page.startswith(b"<page>")), b"")


def parse_page(page: bytes) -> tuple[str, str]:
    """Return (title, markup) of one page, the markup '' where it is no article; raise ParseError."""
    if b"<ns>0</ns>" not in page or b"<redirect " in page[:2000]:
        return "", ""
    root = ET.fromstring(page)
    model = root.findtext("revision/model")
    markup = root.findtext("revision/text") or ""
    is_redirect = re.match(r"\s*#(?:redirect|重定向)", markup, re.IGNORECASE)
    return root.findtext("title") or "", "" if is_redirect or model not in (None, "wikitext") else markup


def cut_pages(chunks: Iterator[bytes], report: Report) -> Iterator[bytes]:
    """Yield what stands before the first page, then each page; an empty chunk says that bytes are missing there."""
    waiting, is_first, is_whole = b"", True, True
    for chunk in chunks:
        is_whole = bool(chunk)
        if not chunk:
            waiting = b""
            continue
        waiting += chunk
        parts = waiting.split(b"</page>")
        for part in parts[:-1]:
            start = part.find(b"<page>")
            if is_first:
                yield part[: max(0, start)]
                is_first = False
            if start >= 0:
                yield part[start:] + b"</page>"
        waiting = parts[-1]
        if len(waiting) > MAX_PAGE_BYTES:
            report("", f"no end of a page in {MAX_PAGE_BYTES >> 20} MB; left out")
            waiting = b""
    if b"<page>" in waiting and is_whole:
        report("", "the file ends in the middle of a page")


def read_chunks(path: str, report: Report, part: Part | None = None) -> Iterator[bytes]:
    """Yield the bytes of a dump, unpacked; where they break off an empty chunk, then the next bz2 stream."""
    if not path.lower().endswith(".bz2"):
        with open_file(path, report, part=part) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
            if find_break(stream):
                yield b""
        return
    with open_file(path, decompress=False, part=part) as stream:
        first, place = part.start if part else 0, 0
        while True:
            # Fed in equal steps from where a stream begins: what a break costs does not depend on how a file is cut.
            unpacker = bz2.BZ2Decompressor()
            stream.seek(place)
            reason = ""
            while not unpacker.eof and not reason:
                data = stream.read(FEED_BYTES)
                try:
                    chunk = unpacker.decompress(data) if data else b""
                except OSError as error:
                    reason = f"a broken bz2 stream: {error}"
                else:
                    if chunk:
                        yield chunk
                    elif not data and stream.tell() == place:
                        return
                    elif not data:
                        reason = "the file ends in the middle of a bz2 stream"
            if not reason:
                place = stream.tell() - len(unpacker.unused_data)
                continue
            yield b""
            stream.seek(place + 1)
            further = find_mark(stream)
            if further is None:
                lost = 0 if reason.startswith("the file") else stream.seek(0, 2) - place
                report(f"byte {first + place}", reason, lost)
                return
            reason = reason if not reason.startswith("the file") else "a broken bz2 stream: it has no end"
            report(f"byte {first + place}", reason, further + 1)
            place += 1 + further


def find_mark(stream: BinaryIO, most: int | None = None) -> int | None:
    """Return how many bytes further the next bz2 stream begins, None where none does within `most`."""
    waiting, further = b"", 0
    while most is None or further < most:
        waiting += (more := stream.read(CHUNK_BYTES))
        if match := BZ2_MARK.search(waiting):
            return further + match.start()
        if not more:
            return None
        further, waiting = further + max(0, len(waiting) - 16), waiting[-16:]
    return None


def cut_dump(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut a dump where a bz2 stream begins with a page, as each of a multistream dump does; else it is one part.

    The marks of the streams are in the dump itself: the index that lies beside it isn't needed.
    """

    def find(stream: BinaryIO) -> int | None:
        start = place = stream.tell()
        while (further := find_mark(stream, start + MAX_SCAN_BYTES - place)) is not None:
            place += further
            stream.seek(place)
            unpacker, text = bz2.BZ2Decompressor(), b""
            try:
                while not text.strip() and not unpacker.eof and (data := stream.read(FEED_BYTES)):
                    text += unpacker.decompress(data)
            except OSError:
                text = b""
            if text.lstrip().startswith(b"<page>"):
                return place - start
            place += 1
            stream.seek(place)
        return None

    return place_cuts(path, size, part_bytes, find)


def cut_xml(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut a dump that isn't compressed where a page begins."""

    def find(stream: BinaryIO) -> int | None:
        start, waiting = stream.tell(), b""
        while more := stream.read(CHUNK_BYTES):
            waiting += more
            if (place := waiting.find(b"<page>")) >= 0:
                return stream.tell() - start - len(waiting) + place
            waiting = waiting[-8:]
        return None

    return place_cuts(path, size, part_bytes, find)
