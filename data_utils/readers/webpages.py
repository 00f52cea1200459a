"""Web pages in, their main text out, by resiliparse, whatever encoding they say they are in."""

import re
from collections.abc import Iterator

from resiliparse.extract.html2text import extract_plain_text

from data_utils.readers.encodings import EncodingFault, decode_bytes
from data_utils.readers.files import ReadArguments
from data_utils.readers.opening import Report, read_whole

MAX_PAGE_BYTES = 32 << 20  # a larger record is reported and left out; Common Crawl cuts pages at 1 MB
DECLARED = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE)
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w:.-]+)", re.IGNORECASE)
# What browsers do with these names (WHATWG Encoding): pages called gb2312 hold characters of GBK, latin-1 is cp1252.
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs", "iso-8859-1": "cp1252"}
WIDER |= {"latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252", "shift_jis": "cp932", "x-sjis": "cp932"}
WIDER |= {"euc-kr": "cp949", "ks_c_5601-1987": "cp949"}


def read_html(path: str, _: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield ("page", {"text"}) of an HTML file: its main text, lists and headings kept, menus left out."""
    data = read_whole(path, MAX_PAGE_BYTES + 1)
    if len(data) > MAX_PAGE_BYTES:
        report("", f"the page is larger than {MAX_PAGE_BYTES >> 20} MB")
        return
    try:
        text = extract_text(decode_page(data))
    except EncodingFault as error:
        report("", f"{error}; convert the file to UTF-8")
        return
    if text:
        yield "page", {"text": text}
    else:
        report("", "no text in it")


def decode_page(data: bytes, header: str = "") -> str:
    """Return the text of a page's bytes; what a header or the page declares counts only if the text fits.

    >>> decode_page('<meta charset="utf-8"><p>今天天气很好，我们去公园。'.encode("gbk"), "text/html; charset=big5")[-6:]
    '我们去公园。'
    """
    match = DECLARED.search(data, 0, 4096)
    names = [match[1].decode("ascii")] if match else []
    names += CHARSET.findall(header)
    return decode_bytes(data, tuple(WIDER.get(name.lower(), name.lower()) for name in names))


def extract_text(html: str, whole: bool = False) -> str:
    """Return the main text of a page, or all of it (a chapter of a book) where `whole`."""
    text = extract_plain_text(
        html, main_content=not whole, alt_texts=False, links=False, form_fields=False, noscript=False, comments=False
    )
    return text.strip()
