"""Reads rows of JSON: a value a line, one list, or values one after the other, whatever the file's name says."""

import json
import re
from collections.abc import Iterator
from itertools import chain

from data_utils.readers.arguments import ReadArguments, current_limits, more_than
from data_utils.readers.cells import name_cells
from data_utils.readers.files import file_suffix
from data_utils.readers.opening import Part, Report
from data_utils.readers.rows import read_file_lines

BUFFER_CHARACTERS = 1 << 20
BETWEEN = re.compile(r"[\s,\ufeff]*+")
LAST_SEEN = 64  # characters at the end of what was read, in which an error may be none if more is read
COMMENTS = ("//", "/*", "#")
MOST_DIGITS = 4000  # Python reads a few more, by default
# A number of more digits is no reason to lose the row.
DECODER = json.JSONDecoder(
    object_pairs_hook=name_cells, parse_int=lambda digits: int(digits) if len(digits) < MOST_DIGITS else float(digits)
)


def read_json(path: str, _: ReadArguments, report: Report, part: Part | None = None) -> Iterator[tuple[int, object]]:
    """Yield (line, value) for each line that is not blank, with or without a comma behind it.

    Of a file that begins as one list, or as an object over several lines, (number, value) as `scan_values` does.
    """
    lines, is_first = read_file_lines(path, report, part), True
    for number, line in lines:
        if not (text := line.lstrip("\ufeff").strip()):  # its mark stands amid files that were joined
            continue
        try:
            if is_first and text[0] == "[" and file_suffix(path) == ".json":
                raise ValueError("one list on a line")
            value = parse(text)
        except (ValueError, RecursionError) as error:
            if is_first and (text[0] == "[" or text[-1] in "{[,"):
                yield from scan_values(chain([(number, line)], lines), report, number)
                return
            report(number, describe_json_fault(error))
        else:
            yield number, value
        is_first = False


def parse(text: str) -> object:
    """Return the value of a line of JSON; raise ValueError or RecursionError where it's none."""
    value, end = DECODER.raw_decode(text)
    if text[end:].strip(" \t,"):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def scan_values(lines: Iterator[tuple[int, str]], report: Report, line: int) -> Iterator[tuple[int, object]]:
    """Yield (number, value) of JSON text that begins in a line of that number.

    Behind a broken value it is read on from the next line that begins as its own one does.
    """
    held, number, in_list = Held(lines, line), 0, False
    while held.skip_between():
        if held.text[held.at] == ("]" if in_list else "["):
            in_list, held.at = not in_list, held.at + 1
            continue
        number += 1
        try:
            value = held.take_value()
        except (ValueError, RecursionError) as error:
            place = held.line_at(max(held.at, getattr(error, "pos", 0)))
            is_further = held.skip_value()
            report(place, describe_json_fault(error) + ("" if is_further else "; what stands behind it is left out"))
            if not is_further:
                return
        else:
            yield number, value


class Held:
    """The part of a JSON text that is in memory: `text`, of which all before `at` is done."""

    def __init__(self, lines: Iterator[tuple[int, str]], line: int) -> None:
        self.lines, self.text, self.at = lines, "", 0
        self.line, self.counted = line, 0  # the number of the line at a place up to which lines are counted

    def line_at(self, place: int) -> int:
        """Return the number of the line at a place behind `at`; lines before `at` are counted once."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line + self.text.count("\n", self.at, place)

    def read_on(self) -> bool:
        """Hold at least twice as much, without what is done; False at the end."""
        waiting = len(self.text) - self.at
        if waiting > current_limits().value:
            raise ValueError(f"a value holds {more_than('value')}")
        pieces, size = [], 0
        while size <= max(waiting, BUFFER_CHARACTERS) and (line := next(self.lines, None)):
            pieces.append(line[1])
            size += len(line[1])
        if pieces:
            self.line_at(self.at)
            self.text, self.at, self.counted = self.text[self.at :] + "".join(pieces), 0, 0
        return bool(pieces)

    def skip_between(self) -> bool:
        """Go to where the next value may begin; False at the end."""
        while True:
            between = BETWEEN.match(self.text, self.at)
            self.at = between.end() if between else self.at
            if self.at < len(self.text):
                return True
            if not self.read_on():
                return False

    def take_value(self) -> object:
        """Return the value that begins here and go behind it; raise ValueError or RecursionError where there's none."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Far from the end of what is held, and no string: no more text would mend it.
                is_certain = error.pos < len(self.text) - LAST_SEEN and not error.msg.startswith("Unterminated")
                if is_certain or not self.read_on():
                    raise
            else:
                if end < len(self.text) or not self.read_on():
                    self.at = end
                    return value

    def skip_value(self) -> bool:
        """Go to the next line that begins with an object, indented as this one; False where there is none."""
        indent = self.text[self.text.rfind("\n", 0, self.at) + 1 : self.at]
        mark = f"\n{indent}{{"
        while indent.strip() == "":
            place = self.text.find(mark, self.at)
            if place >= 0:
                self.at = place + 1
                return True
            self.at = max(self.at, len(self.text) - len(mark))
            if not self.read_on():
                return False
        return False


def describe_json_fault(error: Exception) -> str:
    """Return in words what is wrong with JSON."""
    if isinstance(error, json.JSONDecodeError):
        if error.doc[error.pos : error.pos + 1] in ("}", "]") and error.doc[: error.pos].rstrip()[-1:] == ",":
            return f"not valid JSON: a comma stands before the end at column {error.colno}; leave it out"
        if error.doc.startswith(COMMENTS, error.pos):
            return f"not valid JSON, which has no comments: one stands at column {error.colno}; leave it out"
        return f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    return f"not valid JSON: {error}" if isinstance(error, ValueError) else "not valid JSON: nested too deeply"
