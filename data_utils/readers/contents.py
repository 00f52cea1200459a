"""Tells what a file is by its first bytes, where its name says something else, and what to do with it."""

import re

from data_utils.readers.opening import open_file

# The same for what is text, and would be read as some.
TEXT_SIGNS = (
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer and not the file itself; run git lfs pull"),
    (rb"\{\\rtf1", "rich text (RTF); save it as text"),
    (rb"%!PS-", "a PostScript file; save it as text or PDF"),
    (rb"(?:\xef\xbb\xbf)?\s*+(?i:<!doctype\s+html|<html[\s>])", "a web page (HTML); name it .html"),
    (rb"(?:\xef\xbb\xbf)?WARC/1\.", "a web archive (WARC); name it .warc or .wet"),
    (rb'(?:\xef\xbb\xbf)?\{"[^"\n]{1,60}": ?[^\n]*(?:\}\r?\n\{"|\}?\Z)', "JSON lines; name it .jsonl"),
)
# What bytes begin with -> what that is, and what to do. The more special first.
SIGNS = (
    (rb"PK\x03\x04.{26}mimetypeapplication/epub", "a book (EPUB); name it .epub"),
    (rb"PK\x03\x04.*?word/", "a Word document; save it as text, HTML or PDF"),
    (rb"PK\x03\x04.*?xl/", "an Excel sheet; save it as CSV"),
    (rb"PK\x03\x04.*?ppt/", "a PowerPoint file; save it as text or PDF"),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "an OpenDocument file; save it as text, HTML or PDF"),
    (rb"PK\x03\x04", "a zip archive; unpack it"),
    (rb"\xd0\xcf\x11\xe0", "an old Word, Excel or PowerPoint file; save it as text or PDF"),
    (rb"%PDF-", "a PDF; name it .pdf"),
    (rb"PAR1", "a Parquet file; name it .parquet"),
    (rb"ARROW1|\xff\xff\xff\xff.{4}\x10\x00\x00\x00", "an Arrow file; write it as Parquet"),
    (rb"\x1f\x8b", "compressed by gzip; let its name end in .gz"),
    (rb"BZh[1-9]", "compressed by bzip2; let its name end in .bz2"),
    (rb"\xfd7zXZ\0", "compressed by xz; let its name end in .xz"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd; let its name end in .zst"),
    (rb"7z\xbc\xaf|Rar!\x1a|.{257}ustar", "an archive (7z, RAR or tar); unpack it"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0\0\0\0|II\*\0|MM\0\*|.{4}ftyp(?:avif|heic)", "a picture"),
    (rb"ID3|\xff[\xfb\xf3]|OggS|fLaC|RIFF.{4}(?:WAVE|AVI )|.{4}ftyp|\x1aE\xdf\xa3", "a sound or film"),
    (rb"\x7fELF|MZ.{58}|\xca\xfe\xba\xbe", "a program"),
    (rb"SQLite format 3\0", "an SQLite database; write its text as CSV or JSON lines"),
    (rb"wOF|\x00\x01\x00\x00\x00|OTTO\0", "a font"),
)
PATTERNS = [(re.compile(sign, re.DOTALL), words) for sign, words in (*TEXT_SIGNS, *SIGNS)]
# What kinds begin with that are no plain text.
BINARY = {".epub": b"PK", ".pdf": b"%PDF", ".parquet": b"PAR1"}
OWN = BINARY | dict.fromkeys((".html", ".htm", ".xhtml"), b"<") | dict.fromkeys((".json", ".jsonl"), b'{"')
OWN |= dict.fromkeys((".warc", ".wet"), b"WARC/")


def describe_content(path: str, suffix: str, as_text: bool = False) -> str:
    """Return what a file is that is none of its name's kind, '' where its first bytes don't tell.

    With `as_text`, what a reader would take for text: other signs may be the beginning of one.
    """
    try:
        with open_file(path) as stream:
            start = stream.read(4096)
    except (OSError, ValueError):
        return ""
    own = OWN.get(suffix, b"")
    is_own = bool(own) and start.lstrip(b"\xef\xbb\xbf \r\n").startswith(own)
    if is_own or (as_text and suffix in BINARY):
        return ""
    patterns = PATTERNS[: len(TEXT_SIGNS)] if as_text else PATTERNS
    words = next((words for pattern, words in patterns if pattern.match(start)), "")
    return f"this is {words}" + ("" if ";" in words else "; leave it out") if words else ""
