"""Wikipedia's dumps in, articles as text out: `pages-articles*.xml`, compressed or not, single or multistream.

Pages are cut out of the stream and parsed one by one, so that a broken page or bz2 stream costs itself alone; mwxml,
one XML parser over the whole dump, ends at the first.
"""

import bz2
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from data_utils.readers.files import ReadArguments, Report, open_file
from data_utils.readers.wikitext import FILE_PREFIXES, extract_article

CHUNK_BYTES = 1 << 20
MAX_PAGE_BYTES = 64 << 20
BZ2_MARK = re.compile(rb"BZh[1-9]1AY&SY")
NAMESPACE = re.compile(rb'<namespace key="(?:6|14)"[^>]*>([^<]+)</namespace>')  # files and categories
TITLE = re.compile(rb"<title>([^<]*)")


def read_dump(path: str, options: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield (title, {"text"}) of each article: no talk, templates or redirects; the title stands above the text."""
    prefixes = FILE_PREFIXES
    for page in cut_pages(read_chunks(path, report), report):
        if not page.startswith(b"<page>"):  # what stands before the first page
            prefixes |= {name.decode("utf-8", errors="ignore").lower() for name in NAMESPACE.findall(page)}
            continue
        try:
            title, markup = parse_page(page)
        except ET.ParseError as error:
            name = TITLE.search(page)
            report(name[1].decode("utf-8", errors="replace") if name else "a page", f"not valid XML: {error}")
            continue
        if markup:
            text = extract_article(markup, options.chinese_variant, prefixes)
            if text:
                yield title, {"text": f"{title}\n\n{text}"}


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
    waiting, is_first = b"", True
    for chunk in chunks:
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
    if b"<page>" in waiting:
        report("", "the file ends in the middle of a page")


def read_chunks(path: str, report: Report) -> Iterator[bytes]:
    """Yield the bytes of a dump, unpacked; after a broken bz2 stream an empty chunk, then the next stream."""
    if not path.lower().endswith(".bz2"):
        with open_file(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
        return
    with open_file(path, decompress=False) as stream:
        unpacker, waiting, offset, is_whole = bz2.BZ2Decompressor(), stream.read(CHUNK_BYTES), 0, True
        while waiting:
            try:
                chunk = unpacker.decompress(waiting)
            except OSError as error:
                report(f"byte {offset}", f"a broken bz2 stream: {error}")
                yield b""
                match = BZ2_MARK.search(waiting, 1)
                while not match:
                    more = stream.read(CHUNK_BYTES)
                    if not more:
                        return
                    offset, waiting = offset + len(waiting) - 16, waiting[-16:] + more
                    match = BZ2_MARK.search(waiting, 1)
                offset, waiting = offset + match.start(), waiting[match.start() :]
                unpacker = bz2.BZ2Decompressor()
                continue
            if chunk:
                yield chunk
            left = unpacker.unused_data
            offset += len(waiting) - len(left)
            if unpacker.eof:
                unpacker = bz2.BZ2Decompressor()
                waiting = left or stream.read(CHUNK_BYTES)
                is_whole = True
            else:
                waiting = stream.read(CHUNK_BYTES)
                is_whole = False
    if not is_whole:
        report(f"byte {offset}", "the file ends in the middle of a bz2 stream")
