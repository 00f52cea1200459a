"""Reads the pages of Common Crawl's WARC archives and the texts of its WET archives by fastwarc, record by record."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data_utils.readers.arguments import ReadArguments, current_limits, more_than
from data_utils.readers.encodings import EncodingFault, decode_bytes
from data_utils.readers.limits import OutOfTime
from data_utils.readers.opening import Part, Report, find_break, open_file, place_cuts
from data_utils.readers.webpages import decode_page, extract_text
from errors import first_line

GZIP_MARK = re.compile(rb"\x1f\x8b\x08")
KINDS = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource


def read_warc(path: str, _: ReadArguments, report: Report, part: Part | None = None) -> Iterator[tuple[str, dict]]:
    """Yield (address, {"text"}) of each page of a WARC, or of each text of a WET archive.

    A record counts only where another one, or the end, follows: else its length was wrong, and what follows is lost.
    """
    with open_file(path, report, part=part) as stream:
        found, place = None, ""
        try:
            for record in ArchiveIterator(stream, record_types=KINDS, parse_http=True):
                if found:
                    yield found
                place = record.headers.get("WARC-Target-URI") or f"byte {record.stream_pos}"
                found = read_page_record(record, place, report, stream)
        except OSError as error:
            found = None
            if not find_break(stream):
                report(place, f"no WARC record follows ({first_line(error)}): this one and all behind it are left out")
        if found:
            yield found


def read_page_record(record: WarcRecord, place: str, report: Report, stream: BinaryIO) -> tuple[str, dict] | None:
    """Return (address, {"text"}) of a record, None where it holds none; a fault is reported."""
    expected = record.content_length
    if expected > current_limits().page:
        report(place, f"the record of {expected:,} bytes holds {more_than('page')}")
        return None
    content = record.reader.read()
    try:
        if len(content) < expected:
            if not find_break(stream):  # which is told already
                report(place, f"the record is shorter than its Content-Length: {len(content):,} of {expected:,} bytes")
            return None
        text = read_record_text(record, content)
    except (EncodingFault, OutOfTime, ValueError) as error:
        report(place, str(error))
        return None
    if text == "":
        report(place, "no text in it")
    return (place, {"text": text}) if text else None  # None: a picture, a redirect, an error page: no fault, no text


def read_record_text(record: WarcRecord, content: bytes) -> str | None:
    """Return the text of one record, '' where it is empty, None where it is no page."""
    if record.record_type == WarcRecordType.conversion:
        return decode_bytes(content).strip() if content else ""
    http = record.http_headers if record.is_http else None
    if http is not None and (http.status_code or 200) >= 300:
        return None
    kind = ((record.headers if http is None else http).get("Content-Type") or "text/html").lower()
    if not content.strip():
        return ""
    if "html" in kind:
        return extract_text(decode_page(content, kind))
    return decode_page(content, kind).strip() if kind.startswith("text/plain") else None


def cut_members(path: str, size: int, part_bytes: int, _: ReadArguments) -> list[Part]:
    """Cut an archive where a gzip member begins with a record, as the standard asks; else it is one part."""
    return place_cuts(path, size, part_bytes, GZIP_MARK, b"WARC/")
