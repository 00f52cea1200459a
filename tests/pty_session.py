"""A function run in a real pseudo-terminal, a terminal emulator at its other end: keys in, the screen's text out."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable

import pyte


class Screen(pyte.HistoryScreen):
    """A screen that answers what the program asks of its terminal, such as the cursor's place."""

    def __init__(self, columns: int, rows: int, master: int) -> None:
        super().__init__(columns, rows, history=1000)
        self.master = master

    def write_process_input(self, data: str) -> None:
        os.write(self.master, data.encode())


class Session:
    """A child process that runs `main` in a terminal of its own; it begins with all that is imported here."""

    def __init__(self, main: Callable[[], int], columns: int = 60, rows: int = 24, **environment: str) -> None:
        self.raw = bytearray()
        self.code: int | None = None
        self.process, self.master = pty.fork()
        if self.process == 0:
            code = 70
            try:
                os.environ.update({"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "", **environment})
                sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
                sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
                sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                code = main()
            except SystemExit as error:
                code = error.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        self.emulator = Screen(columns, rows, self.master)
        self.stream = pyte.ByteStream(self.emulator)
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, as dragging its window does."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.emulator.resize(rows, columns)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def paste(self, text: str) -> None:
        """Paste as terminals do where the program asked for it."""
        data = b"\x1b[200~" + text.encode() + b"\x1b[201~"
        while data:
            self.read(0)
            if select.select([], [self.master], [], 0.1)[1]:
                data = data[os.write(self.master, data[:1024]) :]

    def read(self, seconds: float) -> bool:
        """Take in what the program writes within so many seconds; tell whether there was something."""
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the program has left
            return False
        self.raw += data
        self.stream.feed(data)
        return bool(data)

    def wait_for(self, *texts: str, seconds: float = 15) -> str:
        """Read until all texts are on the screen, and return the screen."""
        deadline = time.monotonic() + seconds
        while not all(text in self.screen for text in texts):
            assert time.monotonic() < deadline, f"no {texts} on the screen:\n{self.screen}"
            self.read(0.2)
        return self.screen

    def wait_for_prompt(self, after: str = "", seconds: float = 15) -> str:
        """Read until the cursor waits behind the prompt, below `after` if given."""
        deadline = time.monotonic() + seconds
        while True:
            while self.read(0.05):
                pass
            line = self.emulator.display[self.emulator.cursor.y]
            if line.rstrip() == ">" and self.emulator.cursor.x == 2 and after in self.screen:
                return self.screen
            assert time.monotonic() < deadline, f"no prompt:\n{self.screen}"

    @property
    def screen(self) -> str:
        """The text on the screen, without what is empty."""
        return "\n".join(line.rstrip() for line in self.emulator.display).strip("\n")

    @property
    def modes(self) -> list:
        """The terminal's settings, as stty shows them."""
        return termios.tcgetattr(self.master)

    def send(self, number: int) -> None:
        """Send the program a signal."""
        os.kill(self.process, number)

    def wait(self, seconds: float = 15) -> int:
        """Wait for the program's end and return its exit code."""
        deadline = time.monotonic() + seconds
        while self.code is None:
            self.read(0.05)
            done, status = os.waitpid(self.process, os.WNOHANG)
            if done:
                self.code = os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"still running:\n{self.screen}"
        while self.read(0):
            pass
        return self.code

    def close(self) -> None:
        """End the program if it still runs."""
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self.master)


def run_as_job(main: Callable[[], int]) -> Callable[[], int]:
    """Return `main` as the job of a shell: Ctrl-Z suspends it, the shell says so, and a line typed then goes on."""

    def shell() -> int:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # the terminal is handed over from the background
        job = os.fork()
        if job == 0:
            os.setpgid(0, 0)
            os.tcsetpgrp(0, os.getpid())
            return main()
        while True:
            _, status = os.waitpid(job, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            os.tcsetpgrp(0, os.getpgrp())
            print("suspended", flush=True)
            sys.stdin.readline()
            os.tcsetpgrp(0, job)
            os.kill(job, signal.SIGCONT)

    return shell
