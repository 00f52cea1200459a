"""Decodes bytes: the encoding is detected and the result checked, so that no text is mojibake in silence.

An encoding is taken only where its text is plausible: a wrong one gives rare characters, the right one common ones.
Where none is, or two are alike, that is a fault of the file, and not a guess.
"""

import codecs
import io
import re
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

from charset_normalizer import from_bytes

from data_utils.readers.arguments import current_limits, more_than
from data_utils.readers.opening import Report, find_break
from data_utils.text.mojibake import NO_TEXT, count_wide, plausibility

BLOCK_BYTES = 1 << 20
ESCAPED = re.compile(rb"\x1b\$[@B(]")  # how ISO-2022-JP, whose bytes are all ASCII, begins Japanese
SAMPLE_BYTES = 1 << 16  # what an encoding is judged by

NOTHING_PRINTED = "control characters, or others that stand in no text; leave the file out"
LEAST_THAI = 12
THAI, THAI_MARK = re.compile("[\u0e01-\u0e5b]"), re.compile("[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")
THAI_MARKED = re.compile("(?<=[\u0e01-\u0e2e\u0e31\u0e34-\u0e3a\u0e47-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")
WIDE_RUN, BEFORE_LETTER = re.compile(r"[^\0-\x7f]+"), re.compile("[\u0e01-\u0e5b][A-Za-z@_`]")
HAN = re.compile("[\u3040-\u9fff\uac00-\ud7af\uff66-\uff9f]")
BEHIND_LETTER = re.compile(f"(?<=[A-Za-z]){HAN.pattern}")
LEAST_SAMPLE = 64  # characters that a file is judged by
UNPRINTED, MAX_UNPRINTED = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f]"), 0.05

LATIN = frozenset("àâäáãåæçèéêëìíîïñòóôöõøœùúûüýÿß«»¿¡°§·–—‘’“”„…•€£©®™½¼²³ªº\xa0")
MULTIBYTE = ("gb18030", "big5hkscs", "cp950", "cp932", "euc_jp", "cp949")
MARKS = (  # the longer first: UTF-32's begins as UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class EncodingFault(ValueError):
    """No encoding, or more than one, fits the bytes."""


def detect_encoding(data: bytes, declared: tuple[str, ...] = ()) -> str:
    """Return the encoding of bytes, of which the last character may be cut; raise EncodingFault where none is sure.

    Args:
        data: the beginning of a file, or all of it.
        declared: what headers say it is, the most trusted first; taken only where the text bears it out.

    >>> detect_encoding("今天天气很好，我们去公园。".encode("gb18030"))
    'gb18030'
    """
    for mark, name in MARKS:
        if data.startswith(mark):
            text = "" if name == "utf-8-sig" else try_decode(data[:SAMPLE_BYTES], name)
            if text is None or not is_printed(text) or len(NO_TEXT.findall(text)) > MAX_UNPRINTED * len(text):
                raise EncodingFault(NOTHING_PRINTED)  # a picture, a sound or a program
            return name
    if ESCAPED.search(data) and plausibility(try_decode(data, "iso2022_jp_2") or "") >= 0.2:
        return "iso2022_jp_2"
    if b"\0" in data[:SAMPLE_BYTES] or is_wide_chinese(data):
        return detect_wide(data[:SAMPLE_BYTES])
    if is_utf8(data):
        return "utf-8"
    start = next(i for i, byte in enumerate(data) if byte > 127) if not data.isascii() else 0
    start = data.rfind(b"\n", 0, start) + 1
    sample = data[start : start + SAMPLE_BYTES]
    if is_thai(decode_most(sample, "cp874") or ""):
        return "cp874"
    scores = {}
    for name in dict.fromkeys((*filter(is_encoding, declared), *MULTIBYTE)):
        text = decode_most(sample, name)
        if text is not None and not is_latin(text):
            # EUC-JP read as GB18030 keeps its kana, in the same rows of both, and gets other Han characters.
            is_japanese = name == "gb18030" and 5 * sum("ぁ" <= c <= "ゖ" for c in text) > len(text)
            scores.setdefault(text, (plausibility(text) / (2 if is_japanese else 1), name))
    ranked = sorted(scores.values(), key=lambda pair: -pair[0])
    if ranked and ranked[0][0] >= 0.2 and (len(ranked) == 1 or ranked[1][0] <= 0.6 * ranked[0][0]):
        return ranked[0][1]
    return detect_single_byte(sample, declared)


def is_thai(text: str) -> bool:
    """Tell whether bytes read as Thai are: marks stand on consonants, words have any number of bytes."""
    letters, marks, runs = len(THAI.findall(text)), len(THAI_MARK.findall(text)), WIDE_RUN.findall(text)
    is_known = letters >= 0.9 * count_wide(text) and letters >= LEAST_THAI and marks > 0.05 * letters
    is_single = any(len(run) % 2 for run in runs) and not BEFORE_LETTER.search(text)
    return is_known and is_single and len(THAI_MARKED.findall(text)) >= 0.98 * marks


def is_latin(text: str) -> bool:
    """Tell whether bytes read as Chinese or Japanese are Latin letters: the few Han ones stand behind a letter."""
    han = len(HAN.findall(text))
    return 0 < han < 0.2 * len(text) and len(BEHIND_LETTER.findall(text)) > 0.5 * han


def is_printed(text: str) -> bool:
    """Tell whether a text has next to no control characters."""
    return len(UNPRINTED.findall(text)) <= MAX_UNPRINTED * len(text)


def tells_encoding(block: bytes) -> bool:
    """Tell whether an encoding shows in bytes: there is more than plain ASCII."""
    return not block.isascii() or b"\0" in block or bool(ESCAPED.search(block))


@cache
def is_encoding(name: str) -> bool:
    """Tell whether Python knows an encoding of text by this name."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False


def try_decode(data: bytes, encoding: str) -> str | None:
    """Return the text of bytes whose last character may be cut, or None where they are not of that encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(data)
    except (UnicodeError, LookupError):
        return None


def decode_most(data: bytes, encoding: str) -> str | None:
    """Return the text of bytes of which some lines of many may be of another encoding, or None."""
    text = try_decode(data, encoding)
    if text is not None or data.count(b"\n") < 10:
        return text
    lines = [try_decode(line, encoding) for line in io.BytesIO(data)]
    good = [line for line in lines if line is not None]
    return "".join(good) if len(good) >= 0.9 * len(lines) else None


def is_utf8(data: bytes) -> bool:
    """Tell whether bytes, of which the last character may be cut, are UTF-8 but for a few places in much that is."""
    if try_decode(data, "utf-8") is not None:
        return True
    text = data.decode("utf-8", errors="replace")
    return count_wide(text) >= 21 * text.count("\ufffd")


def is_wide_chinese(data: bytes) -> bool:
    """Tell whether bytes without a zero may still be UTF-16: Chinese without a line end or a space in it."""
    if len(data) % 2 or len(data) >= SAMPLE_BYTES or try_decode(data, "utf-8") is not None:
        return False
    return max(plausibility(try_decode(data, name) or "") for name in ("utf-16-le", "utf-16-be")) > 0.5


def detect_wide(sample: bytes) -> str:
    """Return which UTF-16 without a mark it is, by which bytes of the ASCII in it are zero and by plausibility."""
    found = []
    for name in ("utf-16-le", "utf-16-be"):
        text = try_decode(sample, name)
        if text and not NO_TEXT.search(text) and "\0" not in text and is_printed(text):
            ascii_share = sum(c < "\x7f" for c in text) / len(text)
            if ascii_share > 0.7 or plausibility(text) >= 0.2:
                found.append(name)
    if len(found) == 1:
        return found[0]
    raise EncodingFault("zero bytes: no text, or UTF-16 that cannot be told apart")


def detect_single_byte(sample: bytes, declared: tuple[str, ...]) -> str:
    """Return the encoding of Western text, or another that charset-normalizer names, where the text bears it out."""
    text = try_decode(sample, "cp1252")
    if text is not None and not NO_TEXT.search(text):
        wide = [c for c in text if c > "\x7f"]
        share = len(wide) / max(1, sum(c.isalpha() for c in text))
        # Western letters are few among ASCII ones; other alphabets, misread so, are many and rarely these.
        if (
            len(wide) >= (1 if "cp1252" in declared else 3)
            and share < 0.2
            and sum(c.lower() in LATIN for c in wide) >= 0.98 * len(wide)
        ):
            joined = len(re.findall(r"[a-z][À-ÖØ-Þ][a-z]|[A-Za-z][«»¿¡°§©®½¼²³ªº„”“][a-z]|[à-ÿ]{3}", text))
            if joined <= 0.02 * len(wide):
                return "cp1252"
    best = from_bytes(sample).best()
    if best is not None and best.encoding not in ("ascii", "cp1252", "latin_1"):
        text = try_decode(sample, best.encoding)
        named = {codecs.lookup(name).name for name in declared if is_encoding(name)}
        sure = best.chaos < 0.05 and (best.coherence >= 0.5 or codecs.lookup(best.encoding).name in named)
        if text is not None and sure and not NO_TEXT.search(text):
            return best.encoding
    raise EncodingFault("no encoding fits")


def decode_bytes(data: bytes, declared: tuple[str, ...] = ()) -> str:
    """Return the text of a whole file or page; raise EncodingFault where no encoding fits all of it."""
    encoding = detect_encoding(data, declared)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8" and data.decode("utf-8", errors="ignore").count("\n") and len(data) - error.start <= 4:
            return data[: error.start].decode("utf-8")  # a page cut in the middle of its last character
        raise EncodingFault(f"not valid {encoding} (byte {data[error.start]:#04x} at {error.start})") from error


def read_lines(
    stream: BinaryIO, report: Report, number: int = 1, encoding: str | None = None
) -> Iterator[tuple[int, str]]:
    """Yield (number, line) with `\\n` at its end, in constant memory; a line that is not text is reported and left out.

    The lines are counted from `number`. The encoding, where it isn't given, is that of the first block that holds more
    than ASCII. The byte order mark is dropped.
    """
    decoder, carry, is_old_mac = None, "", None
    for block in read_blocks(stream):
        if block is None:
            report(number, f"the line holds {more_than('line')}; left out")
            number += 1
            continue
        is_old_mac = number == 1 and b"\n" not in block if is_old_mac is None else is_old_mac
        if encoding is None and tells_encoding(block):
            try:
                encoding = detect_encoding(block)
            except EncodingFault:
                encoding = "utf-8"
                bad = [i for i, line in enumerate(io.BytesIO(block)) if try_decode(line + b"\n", "utf-8") is None]
                if len(bad) > 1 + 0.02 * block.count(b"\n"):
                    report(number + bad[0], describe_fault(block))
                    return
                if block.count(b"\0") > 0.01 * len(block):
                    report(number, "zero bytes: no text, or UTF-16 that cannot be told apart")
                    return
            sample = block[:SAMPLE_BYTES].decode(errors="ignore")
            if encoding.startswith("utf-8") and len(sample) >= LEAST_SAMPLE and not is_printed(sample):
                report(number, NOTHING_PRINTED)
                return
        if encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            decoder = decoder or codecs.getincrementaldecoder(encoding)()
            try:
                *lines, carry = (carry + decoder.decode(block)).split("\n")
            except UnicodeDecodeError:
                report(number, f"not valid {encoding}")
                return
            lines = [f"{line}\n" for line in lines]
        else:
            cut = block.replace(b"\r", b"\n") if is_old_mac else block
            lines = decode_lines(cut, encoding or "utf-8", number, report)
        for line in lines:
            if line is not None:
                yield number, line.replace("\r\n", "\n")
            number += 1
        encoding = "utf-8" if encoding == "utf-8-sig" else encoding  # the mark stands at the beginning only
    if carry:
        yield number, carry


def read_blocks(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield a stream in blocks of about BLOCK_BYTES that end where a line does; a line that breaks off is left out.

    A line of more than the limit is None.
    """
    most = current_limits().line
    size = min(BLOCK_BYTES, most)
    block = stream.read(size)
    while block:
        if not block.endswith(b"\n"):
            block += (rest := stream.readline(most))
            if len(rest) == most and not rest.endswith(b"\n"):
                yield from filter(None, [block[: block.rfind(b"\n") + 1]])
                yield None
                while not (rest := stream.readline(BLOCK_BYTES)).endswith(b"\n") and rest:
                    pass
                block = b""
            elif not block.endswith(b"\n") and find_break(stream):
                block = block[: block.rfind(b"\n") + 1]
        if block:
            yield block
        block = stream.read(size)


def decode_lines(block: bytes, encoding: str, number: int, report: Report) -> list[str | None]:
    """Return the lines of a block, None for one that is not of the encoding, which is reported."""
    if encoding.startswith("utf-8"):
        text = try_decode(block, encoding) if block.endswith(b"\n") else None
        if text is not None:
            return [*io.StringIO(text, newline="\n")]  # unlike splitlines, cut at \n alone
    lines: list[str | None] = []
    for offset, line in enumerate(io.BytesIO(block)):
        # A line of UTF-8 in a file of another encoding: four valid characters are no accident.
        text = None if line.isascii() or encoding.startswith("utf-8") else try_decode(line, "utf-8")
        try:
            is_foreign = text is not None and count_wide(text) >= 4
            lines.append(text if is_foreign else line.decode(encoding))
        except UnicodeDecodeError:
            report(number + offset, describe_fault(line, encoding))
            lines.append(None)
    return lines


def describe_fault(data: bytes, encoding: str = "utf-8") -> str:
    """Return why bytes cannot be read, by the first that is not of the encoding."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else encoding
        return f"not valid {name} (byte {data[error.start]:#04x}); convert the file to UTF-8"
    return "no encoding fits; convert the file to UTF-8"
