"""Books in, text out: EPUB in the order of its spine, PDF page by page."""

import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree as ET

from data_utils.readers.encodings import EncodingFault
from data_utils.readers.files import ReadArguments
from data_utils.readers.limits import OutOfTime
from data_utils.readers.opening import Report, read_whole
from data_utils.readers.webpages import decode_page, extract_text

MAX_CHAPTER_BYTES = 64 << 20  # unpacked; a small zip may hold a huge file
SENTENCE_END = tuple(".?!:;\"'”’。？！：；…）)」』")


def read_epub(path: str, options: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield ("book", {"text"}) of an EPUB: its chapters in order; a broken chapter is reported and left out."""
    with zipfile.ZipFile(io.BytesIO(read_whole(path))) as book:
        chapters = []
        for name in list_chapters(book):
            try:
                if book.getinfo(name).file_size > MAX_CHAPTER_BYTES:
                    raise ValueError(f"larger than {MAX_CHAPTER_BYTES >> 20} MB")
                text = extract_text(decode_page(book.read(name)), options.max_seconds, whole=True)
            except (KeyError, ValueError, EncodingFault, OutOfTime, zipfile.BadZipFile, OSError) as error:
                report(name, f"not a readable chapter: {error}")
            except Exception as error:  # zlib.error and what else a broken member raises
                report(name, f"not a readable chapter: {type(error).__name__}: {error}")
            else:
                chapters.append(text)
    text = "\n\n".join(chapter for chapter in chapters if chapter)
    if text:
        yield "book", {"text": text}
    else:
        report("", "no text in it")


def list_chapters(book: zipfile.ZipFile) -> list[str]:
    """Return the names of a book's chapters in the order of its spine."""
    container = ET.fromstring(book.read("META-INF/container.xml"))
    package_name = next(node.get("full-path") for node in container.iter() if node.tag.endswith("}rootfile"))
    package = ET.fromstring(book.read(package_name))
    folder = posixpath.dirname(package_name)
    items = {node.get("id"): node for node in package.iter() if node.tag.endswith("}item")}
    order = [items.get(node.get("idref")) for node in package.iter() if node.tag.endswith("}itemref")]
    return [
        posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        for item in order
        if item is not None and "html" in item.get("media-type", "html") and item.get("properties") != "nav"
    ]


def read_pdf(path: str, _: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield ("book", {"text"}) of a PDF: its pages, lines joined to paragraphs; a broken page is reported."""
    import logging

    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.ERROR)
    reader = PdfReader(io.BytesIO(read_whole(path)))
    if reader.is_encrypted and not reader.decrypt(""):
        report("", "the PDF asks for a password")
        return
    pages = []
    for number, page in enumerate(reader.pages, 1):
        try:
            pages.append(join_pdf_lines(page.extract_text()))
        except Exception as error:  # as many as PDF has ways to be broken
            report(f"page {number}", f"not readable: {type(error).__name__}: {error}")
    text = "\n\n".join(page for page in pages if page)
    if text:
        yield "book", {"text": text}
    else:
        report("", "no text in it; if its pages are pictures, it needs a program that reads them (OCR)")


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
