"""Markdown as lines for a terminal: rich's elements, Chinese wrapped as Chinese is, and no text lost."""

import re
from collections.abc import Iterable

from markdown_it import MarkdownIt
from rich import markdown
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.text import Text

from errors import make_printable

# Text is shown as it is: no HTML that vanishes, and no line of dashes that makes a heading of what stands above.
PARSER = MarkdownIt(options_update={"html": False}).enable(["strikethrough", "table"]).disable("lheading")

# Where a line may break: before a word or a wide character, with the marks that open it and close it.
OPENING, CLOSING = "“‘（「『《〈【(", "”’）」』》〉】，。！？；：、…)"
WIDE = r"\u2e80-\u2fff\u3040-\u9fff\uac00-\ud7af\uf900-\ufaff\uff10-\uff19\uff21-\uff5a"
UNIT = re.compile(rf"\s*[{OPENING}]*(?:[{WIDE}]|[^\s{WIDE}{OPENING}{CLOSING}]+)?[{CLOSING}]*")


def find_breaks(text: str, width: int) -> list[int]:
    """Return the places where a line of text is cut so that no part is wider than `width` cells.

    >>> find_breaks("say 你好，世界", 9)
    [5]
    """
    breaks: list[int] = []
    column = position = 0
    while position < len(text):
        unit = UNIT.match(text, position)
        end = max(position + 1, unit.end() if unit else 0)
        cells = cell_len(text[position:end])
        if column and column + cells > width:
            position = end - len(text[position:end].lstrip())
            breaks.append(position)
            column, cells = 0, cell_len(text[position:end])
        if cells > width:  # wider than a line by itself
            for place in range(position, end):
                if column and column + cell_len(text[place]) > width:
                    breaks.append(place)
                    column = 0
                column += cell_len(text[place])
        else:
            column += cells
        position = end
    return breaks


def wrap_text(text: Text, width: int) -> Iterable[Text]:
    """Yield a text's lines of at most `width` cells."""
    for line in text.split("\n", allow_blank=True):
        line.expand_tabs(4)
        for part in line.divide(find_breaks(line.plain, max(width, 2))):
            part.rstrip()
            part.no_wrap, part.overflow = True, "crop"
            yield part


class Paragraph(markdown.Paragraph):
    """A paragraph whose Chinese breaks between characters; rich breaks at spaces alone."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield from wrap_text(self.text, options.max_width)


class Heading(markdown.Heading):
    """A heading, at the left as the rest."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Text]:
        yield from wrap_text(self.text, options.max_width)


class Markdown(markdown.Markdown):
    """Markdown of a chat: a line's end stays one, and no character of a terminal's control comes out."""

    elements = {**markdown.Markdown.elements, "paragraph_open": Paragraph, "heading_open": Heading}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = PARSER.parse(text)
        for token in self.parsed:
            for child in token.children or []:
                if child.type == "softbreak":
                    child.type = "hardbreak"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        for part in super().__rich_console__(console, options):
            segments = [part] if isinstance(part, Segment) else console.render(part, options)
            for segment in segments:  # an entity such as &#x202e; has become a character by now
                if not segment.control:
                    yield Segment(make_printable(segment.text), segment.style)


def render_lines(console: Console, text: str, width: int) -> list[str]:
    """Return Markdown as lines of at most `width` cells, with the terminal's colours."""
    with console.capture() as capture:
        console.print(Markdown(make_printable(text)), width=width)
    lines = "\n".join(line.rstrip(" ") for line in capture.get().split("\n")).strip("\n")
    return lines.split("\n") if lines else []


def split_last_block(text: str) -> tuple[str, str]:
    """Part Markdown before its last block: what comes before can't be changed by more text.

    >>> split_last_block("One.\\n\\n- a\\n- b")
    ('One.\\n\\n', '- a\\n- b')
    """
    starts = [token.map[0] for token in PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    if not starts:
        return "", text
    lines = text.split("\n")
    head = "\n".join(lines[: starts[-1]])
    return (head + "\n", "\n".join(lines[starts[-1] :])) if head else ("", text)
