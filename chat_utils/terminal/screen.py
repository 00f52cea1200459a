"""Shows replies and notes: Markdown painted in place on a terminal, plain pieces anywhere else."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Generator
from typing import Any, TextIO

from errors import make_printable

termios: Any
try:
    import termios
except ImportError:  # Windows
    termios = None
# What a terminal raises that is gone, or that another program has in the foreground by now.
GONE = (OSError, termios.error) if termios else (OSError,)

MAX_WIDTH = 100  # cells; longer lines are hard to read
STYLE = re.compile(r"\x1b\[[0-9;]*m")
# After a crash too: pasted text and autowrap as usual, cursor shown, no colour.
RESET = "\x1b[?2004l\x1b[?7h\x1b[?25h\x1b[0m"


def is_capable(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal that moves its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Painter:
    """Paints a growing Markdown text at the cursor, its last block anew with each piece.

    Only lines that differ are written again, each over its old self and in one write with the others, so that nothing
    flickers; blocks that are complete are left to scroll away.
    """

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(force_terminal=True, legacy_windows=False, highlight=False, markup=False)
        self.text = ""
        self.shown: list[str] = []
        self.columns = 0
        self.has_text = False

    def add(self, piece: str) -> None:
        """Show one more piece."""
        from chat_utils.terminal.markdown import render_lines, split_last_block

        self.text += piece
        self.has_text = True
        columns, rows = terminal_size()
        width = min(columns, MAX_WIDTH)
        head, tail = split_last_block(self.text)
        done = [*render_lines(self.console, head, width), ""] if head.strip() else []
        self.paint(done + render_lines(self.console, tail, width), columns, rows)
        if done:
            self.text, self.shown = tail, self.shown[len(done) :]

    def paint(self, lines: list[str], columns: int, rows: int) -> None:
        """Make the screen show these lines in place of those shown."""
        # A terminal that has become narrower has folded the lines that are there.
        heights = [max(1, -(-count_cells(line) // columns)) for line in self.shown]
        first = 0
        if columns == self.columns:
            while first < min(len(lines), len(self.shown)) and lines[first] == self.shown[first]:
                first += 1
        first = min(first, len(lines) - 1) if len(lines) < len(self.shown) else first
        # What has scrolled away can't be written again.
        while first < len(self.shown) and sum(heights[first:]) > rows:
            first += 1
        if lines[first:]:
            up = sum(heights[first:]) - 1
            begin = "\r" + (f"\x1b[{up}A" if up > 0 else "") if first < len(self.shown) else "\n" if self.shown else ""
            # No autowrap meanwhile: a terminal that takes a character for wider than we do can't shift the lines.
            write("\x1b[?7l" + begin + "\x1b[K\n".join(lines[first:]) + "\x1b[K\x1b[J\x1b[?7h")
        self.shown, self.columns = lines, columns

    def forget_screen(self) -> None:
        """Paint anew from the cursor, as after the program was stopped and taken up again."""
        self.shown = []


def count_cells(line: str) -> int:
    """Return how wide a line is on the screen."""
    from rich.cells import cell_len

    return cell_len(STYLE.sub("", line))


def terminal_size() -> tuple[int, int]:
    """Return the terminal's columns and rows."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        columns, rows = 80, 24
    return columns or 80, rows or 24


def write(text: str) -> None:
    """Write to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Screen:
    """Standard output as the chat uses it; `in_colour` where it is a terminal that can paint."""

    def __init__(self, in_dialogue: bool = False) -> None:
        self.in_dialogue = in_dialogue
        self.in_colour = is_capable(sys.stdout)

    def note(self, text: str) -> None:
        """Say something about the chat: beside the replies in a dialogue, else on standard error."""
        text = f"[{make_printable(text)}]"
        if self.in_dialogue and self.in_colour:
            text = f"\x1b[2m{text}\x1b[0m"
        print(text, file=sys.stdout if self.in_dialogue else sys.stderr, flush=True)

    @contextlib.contextmanager
    def reply(self) -> Generator["Painter | Printer"]:
        """Give what shows a reply's pieces by `add`, and end its line; a reply that was refused has none."""
        painter = Painter() if self.in_colour else Printer()
        with hush_input(painter.forget_screen):
            try:
                yield painter
            except BaseException:
                if painter.has_text:
                    write("\n")
                raise
            write("\n")


class Printer:
    """Prints pieces as they come."""

    has_text = False

    def add(self, piece: str) -> None:
        """Show one more piece."""
        self.has_text = True
        write(make_printable(piece))

    def forget_screen(self) -> None:
        """Nothing to paint anew."""


def read_modes() -> list | None:
    """Return the modes of the terminal that is typed in; None where there is none, or no such modes."""
    return termios.tcgetattr(sys.stdin.fileno()) if termios and sys.stdin.isatty() else None


def set_modes(modes: list) -> None:
    """Set the modes of the terminal, which `read_modes` returned."""
    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, modes)


@contextlib.contextmanager
def hush_input(resumed: Callable[[], None]) -> Generator[None]:
    """Keep what is typed out of the reply: it waits for the prompt. After Ctrl-Z `resumed` is called."""
    usual = read_modes()
    if usual is None:
        yield
        return
    hushed = [*usual]
    hushed[3] &= ~termios.ECHO

    def suspend(*_: object) -> None:
        set_modes(usual)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here again after SIGCONT.
        signal.signal(signal.SIGTSTP, suspend)
        set_modes(hushed)
        resumed()

    before = signal.signal(signal.SIGTSTP, suspend)
    try:
        set_modes(hushed)
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)
        with contextlib.suppress(*GONE):
            set_modes(usual)


@contextlib.contextmanager
def guard_terminal(in_colour: bool) -> Generator[None]:
    """Leave the terminal as it was found, also after a fault, SIGTERM or SIGHUP."""
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, lambda caught, _: sys.exit(128 + caught)) for number in numbers}
    usual = read_modes()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(*GONE):
            if usual:
                set_modes(usual)
        with contextlib.suppress(*GONE):
            if in_colour:
                write(RESET)
