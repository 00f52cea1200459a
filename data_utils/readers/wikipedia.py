"""Reads Wikipedia's dumps, `pages-articles*.xml`, compressed or not, single or multistream: an article is a document.

Pages are cut out of the stream and parsed one by one, so that a broken page costs itself alone; mwxml, one XML parser
over the whole dump, ends at the first.
"""

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from data_utils.readers.arguments import ReadArguments, current_limits, more_than
from data_utils.readers.limits import OutOfTime, limit_document
from data_utils.readers.opening import Part, Report, find_break, open_file, place_cuts
from data_utils.readers.wikitext import FILE_PREFIXES, extract_article
from errors import first_line

CHUNK_BYTES = 1 << 20
PAGE_MARK, BZ2_MARK = re.compile(b"<page>"), re.compile(rb"BZh[1-9]1AY&SY")
NAMESPACE = re.compile(rb'<namespace key="(?:6|14)"[^<>]*+>([^<]++)</namespace>')  # files and categories
TITLE = re.compile(rb"<title>([^<]*)")


def read_dump(
    path: str, options: ReadArguments, report: Report, part: Part | None = None
) -> Iterator[tuple[str, dict]]:
    """Yield (title, {"text"}) of each article: no talk, templates or redirects; the title stands above the text."""
    head = read_head(path) if part and part.start else b""
    prefixes = FILE_PREFIXES | name_prefixes(head)
    for page in cut_pages(path, report, part):
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
            with limit_document():
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
    return next((page for page in cut_pages(path, lambda *_: None) if not page.startswith(b"<page>")), b"")


def parse_page(page: bytes) -> tuple[str, str]:
    """Return (title, markup) of one page, the markup '' where it is no article; raise ParseError."""
    if b"<ns>0</ns>" not in page or b"<redirect " in page[:2000]:
        return "", ""
    if page.count(b"<") > current_limits().wiki_tags:  # the markup's own are entities
        raise ET.ParseError(f"the page has {more_than('wiki_tags')}")
    root = ET.fromstring(page)
    model = root.findtext("revision/model")
    markup = root.findtext("revision/text") or ""
    is_redirect = re.match(r"\s*#(?:redirect|重定向)", markup, re.IGNORECASE)
    return root.findtext("title") or "", "" if is_redirect or model not in (None, "wikitext") else markup


def cut_pages(path: str, report: Report, part: Part | None = None) -> Iterator[bytes]:
    """Yield what stands before the first page of a dump, then each page."""
    waiting, is_first = b"", True
    with open_file(path, report, part=part) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            *pages, waiting = (waiting + chunk).split(b"</page>")
            for page in pages:
                start = page.find(b"<page>")
                if is_first:
                    yield page[: max(0, start)]
                    is_first = False
                if start >= 0:
                    yield page[start:] + b"</page>"
            if len(waiting) > current_limits().wiki_page:
                report("", f"a page holds {more_than('wiki_page')}; left out")
                waiting = b""
        if b"<page>" in waiting and not find_break(stream):
            report("", "the file ends in the middle of a page")


def cut_dump(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut a dump where a page begins, one in bz2 where a stream does with one, as each of a multistream dump.

    The marks of the streams are in the dump itself: the index that lies beside it isn't needed.
    """
    return place_cuts(path, size, part_bytes, BZ2_MARK if path.lower().endswith(".bz2") else PAGE_MARK, b"<page>")
