"""Reads books: EPUB in the order of its spine, PDF page by page."""

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from data_utils.readers.arguments import ReadArguments, current_limits, more_than
from data_utils.readers.limits import OutOfTime, limit_document
from data_utils.readers.opening import Report, read_whole
from data_utils.readers.webpages import decode_page, extract_text, give_text
from errors import first_line

MAX_LIST_BYTES = 8 << 20  # of each of the two files that say what an EPUB holds
ENTRY_MARK = b"PK\x01\x02"  # of a zip's list
BYTES_A_LIMIT = 1_000_000
SENTENCE_END = tuple(".?!:;\"'”’。？！：；…）)」』")


def read_epub(path: str, _: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield ("book", {"text"}) of an EPUB: its chapters in order; a broken chapter is reported and left out."""
    chapters, left = [], current_limits().book_text
    data = read_whole(path, "book", report)
    if not data:  # which is told
        return
    if data.count(ENTRY_MARK) > current_limits().book_files:
        report("", f"the book has {more_than('book_files')}")
        return
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        for name in list_chapters(book):
            try:
                data = read_member(book, name, left)
                left -= len(data)
                chapters.append(extract_text(decode_page(data), whole=True))
            except (Exception, OutOfTime) as error:  # as many as there are ways to be broken
                report(name, f"not a readable chapter: {first_line(error)}")
    yield from give_text("book", "\n\n".join(filter(None, chapters)), report)


def read_member(book: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Return a file of a book; raise ValueError where it's larger than `most` when unpacked."""
    if book.getinfo(name).file_size > most:  # more isn't unpacked, whatever is in it
        raise ValueError(f"the book's files hold {more_than('book_text')} when unpacked")
    return book.read(name)


def list_chapters(book: zipfile.ZipFile) -> list[str]:
    """Return the names of a book's chapters in the order of its spine, each once."""
    container = ET.fromstring(read_member(book, "META-INF/container.xml", MAX_LIST_BYTES))
    package_name = next(str(node.get("full-path")) for node in container.iter() if node.tag.endswith("}rootfile"))
    package = ET.fromstring(read_member(book, package_name, MAX_LIST_BYTES))
    folder = posixpath.dirname(package_name)
    items = {node.get("id"): node for node in package.iter() if node.tag.endswith("}item")}
    order = [items.get(node.get("idref")) for node in package.iter() if node.tag.endswith("}itemref")]
    names = [
        posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        for item in order
        if item is not None and "html" in item.get("media-type", "html") and item.get("properties") != "nav"
    ]
    return list(dict.fromkeys(names))


def read_pdf(path: str, _: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield ("book", {"text"}) of a PDF: its pages, lines joined to paragraphs; a broken page is reported.

    A page has the time of a document, and all pages together as much for each BYTES_A_LIMIT of the file: a page of some
    hundred bytes may draw for seconds, and a file hold a hundred thousand of them.
    """
    import logging

    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    data = read_whole(path, "book", report)
    if not data:  # which is told
        return
    pages, number = [], 0
    try:
        with limit_document(1 + len(data) / BYTES_A_LIMIT):
            reader = PdfReader(io.BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                report("", "the PDF asks for a password")
                return
            for number, page in enumerate(reader.pages, 1):
                try:
                    pages.append(join_pdf_lines(page.extract_text()))
                except Exception as error:  # as many as PDF has ways to be broken
                    report(f"page {number}", f"not readable: {type(error).__name__}: {error}")
    except OutOfTime as error:
        report(f"page {number}", f"{error}, and all pages behind it")
    remedy = "; if its pages are pictures, it needs a program that reads them (OCR)"
    yield from give_text("book", "\n\n".join(filter(None, pages)), report, remedy=remedy)


def join_pdf_lines(text: str) -> str:
    """Return the text of a page with its lines joined to paragraphs: no space in Chinese, no hyphen in a cut word.

    >>> join_pdf_lines("The tea is\\nwarm and won-\\nderful.\\n今天下雨，我们\\n在家。\\n12")
    'The tea is warm and wonderful.\\n今天下雨，我们在家。'
    """
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if not re.fullmatch(r"[-–— ]*+\d{0,4}+[-–— ]*+", line)]  # the number of the page
    paragraphs: list[list[str]] = []  # the pieces of each: joined once, since a page may have 100,000 lines
    longest = max(map(len, lines), default=0)
    for line in lines:
        before = paragraphs[-1][-1] if paragraphs else ""
        is_short = paragraphs and len(paragraphs[-1]) == 1 and len(before) < 0.5 * longest
        if not before or before.endswith(SENTENCE_END) or is_short:
            paragraphs.append([line])
        elif re.search(r"[a-z]-$", before[-2:]) and line[:1].islower():
            paragraphs[-1][-1] = before[:-1]
            paragraphs[-1].append(line)
        else:
            is_wide = before[-1:] > "\u2e7f" or line[:1] > "\u2e7f"
            paragraphs[-1] += [line] if is_wide else [" ", line]
    return "\n".join(map("".join, paragraphs))
