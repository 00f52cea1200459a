"""Extracts the main text of web pages by resiliparse, whatever encoding they say they are in."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

from data_utils.readers.arguments import ReadArguments, current_limits, more_than
from data_utils.readers.encodings import EncodingFault, decode_bytes
from data_utils.readers.limits import OutOfTime
from data_utils.readers.opening import Report, read_whole

DECLARED = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*+[\"']?+\s*+([\w:.-]+)", re.IGNORECASE)
CHARSET = re.compile(r"charset\s*+=\s*+[\"']?([\w:.-]+)", re.IGNORECASE)
# What browsers do with these names (WHATWG Encoding): pages called gb2312 hold characters of GBK, latin-1 is cp1252.
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs", "iso-8859-1": "cp1252"}
WIDER |= {"latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252", "shift_jis": "cp932", "x-sjis": "cp932"}
WIDER |= {"euc-kr": "cp949", "ks_c_5601-1987": "cp949"}


_turn = Lock()


def read_html(path: str, options: ReadArguments, report: Report) -> Iterator[tuple[str, dict]]:
    """Yield ("page", {"text"}) of an HTML file: its main text, lists and headings kept, menus left out."""
    data = read_whole(path, "page", report)
    if not data:
        return
    try:
        text = extract_text(decode_page(data))
    except (EncodingFault, OutOfTime) as error:
        report("", f"{error}; convert the file to UTF-8" if isinstance(error, EncodingFault) else str(error))
    else:
        yield from give_text("page", text, report)


def give_text(place: str, text: str, report: Report, remedy: str = "") -> Iterator[tuple[str, dict]]:
    """Yield (place, {"text"}), or report that there is none."""
    if text:
        yield place, {"text": text}
    else:
        report("", f"no text in it{remedy}")


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
    """Return the main text of a page, or all of it (a chapter of a book) where `whole`.

    Raises OutOfTime for a page that takes more processor time than a document may, or too much memory.
    """
    seconds = current_limits().seconds
    options = dict.fromkeys(("alt_texts", "links", "form_fields", "noscript", "comments"), False)
    with _turn:
        process: Any = _page_process(os.getpid())
        try:
            pickle.dump((html, options | {"main_content": not whole}, seconds), process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except BaseException as error:
            process.kill()
            process.communicate()
            _page_process.cache_clear()
            if isinstance(error, EOFError | BrokenPipeError | pickle.UnpicklingError):
                raise OutOfTime(f"its HTML takes too much memory, or {more_than('seconds')}; left out") from None
            raise
    if isinstance(answer, Exception):
        raise answer
    return answer.strip()


@lru_cache(1)
def _page_process(pid: int) -> subprocess.Popen:
    """Return the parser of this process; one that was forked from it starts its own."""
    import_module("resiliparse.extract.html2text")  # whose absence is told here
    command = [sys.executable, str(Path(__file__).with_name("page_process.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
