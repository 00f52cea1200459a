"""Ends a script at a mistake in the user's input: one line, exit code 2, never a traceback."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TypeVar

Fault = TypeVar("Fault", bound=Exception)


class InputError(Exception):
    """A fault in what the user gave (a file, an option, a checkpoint); its text says where, what and what to do."""


class RunError(Exception):
    """A run that can't come to a true end; its text says where it was, what was found and what to do."""


# Control characters change a terminal's state; marks that reorder the line, and separators, its looks.
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
INTERRUPTED = "interrupted; what was complete before is untouched"
# By number where Python reports it, by words where torch, safetensors and pyarrow do.
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
PATH_ERRORS = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}  # the user's own
MACHINE_WORDS = ("No space left", "File too large", "Disk quota", "I/O error", "write failed", "failed writing")
MACHINE_WORDS += ("unexpected pos", "out of memory", "can't allocate memory")


def is_machine_fault(error: BaseException) -> bool:
    """Tell whether an error is the machine's: a full disk, no permission, no memory."""
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return True
    return any(word in str(error) for word in MACHINE_WORDS)


def is_panic(error: BaseException) -> bool:
    """Tell whether a library in Rust gave up: pyo3's PanicException is no Exception, and no module holds it."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, with the next one where it ends in a colon; its kind where it has none.

    >>> first_line(ValueError("wrong size:\n  7")), first_line(KeyError("rope"))
    ('wrong size: 7', "'rope' is missing or unknown")
    """
    if isinstance(error, KeyError):
        return f"{error} is missing or unknown"
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {others[0].strip()}" if first.endswith(":") and others else first


def coded(error: Fault, code: str, *values: object) -> Fault:
    """Return an error with a code, and the values in its text: by these the chat says it in Chinese."""
    error.__dict__["coded"] = (code, values)
    return error


@contextlib.contextmanager
def explained(place: str, what: str) -> Generator[None]:
    """Turn what libraries raise inside for a broken file, of many kinds, into one line; the machine's faults stay."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)) or is_machine_fault(error):
            raise
        reason = first_line(error)
        if "trust_remote_code" in str(error):
            reason = "it brings code of its own, which is never run here; name a model whose class transformers has"
        raise coded(InputError(f"{place}: {what}: {reason}"), "cannot_load", place, reason) from error


@contextlib.contextmanager
def needing(what: str, requirements: str) -> Generator[None]:
    """Raise InputError with the command that installs a package which `what` needs and which is imported inside."""
    try:
        yield
    except ImportError as error:
        missing = error.name or first_line(error)
        raise InputError(f"{what} needs {missing}; run: pip install -r requirements/{requirements}") from error


def say_error(message: str) -> None:
    """Print the line that a process ends with; of several (accelerate launch) only the first of a machine prints."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"error: {as_one_line(message)}", file=sys.stderr)


def say_note(message: str) -> None:
    """Print a line about the input on standard error; of several processes only the first of a machine prints."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"note: {as_one_line(message)}", file=sys.stderr)


def as_one_line(message: str) -> str:
    """Return a message as one line that leaves a terminal as it was: a file's name may hold a line break.

    >>> as_one_line("a\\nb.txt: no such file")
    'a\\\\nb.txt: no such file'
    """
    return escape_unprintable(message.replace("\n", "\\n"))


def escape_unprintable(text: str) -> str:
    """Return text with what could change a terminal's state as an escape, and what is no UTF-8 in a file's name.

    >>> escape_unprintable("a\\x1b]0;b\\udcb1.txt")
    'a\\\\x1b]0;b\\\\xb1.txt'
    """

    def escape(match: re.Match) -> str:
        byte = ord(match[0]) - 0xDC00  # as Python keeps a name's bytes
        return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else match[0].encode("unicode_escape").decode()

    return UNPRINTABLE.sub(escape, text)


def make_printable(text: str) -> str:
    """Return text without what could change a terminal's state.

    >>> make_printable("a\\x1b[31mb\\n")
    'a[31mb\\n'
    """
    return UNPRINTABLE.sub("", text)


def say_interrupts() -> None:
    """Have Ctrl-C end the process with a line instead of a traceback, before `run_script` too: imports take seconds."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if kind is KeyboardInterrupt:
            say_error(INTERRUPTED)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = tell


def run_script(main: Callable[[], int | None]) -> None:
    """Run `main` and leave the process with its exit code."""
    sys.exit(run_guarded(main))


def run_guarded(main: Callable[[], int | None]) -> int:
    """Run `main` and return its exit code: 0 done, 1 the machine's fault, 2 the user's input, 130 interrupted."""
    try:
        code, message = main() or 0, None
        sys.stdout.flush()
    except (InputError, RunError) as error:
        code, message = 2 if isinstance(error, InputError) else 1, str(error)
    except KeyboardInterrupt:
        code, message = 130, INTERRUPTED
    except MemoryError as error:
        code, message = 1, f"out of memory: {error}; try a smaller --per_device_train_batch_size or model"
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, message = 141, None
    except BaseException as error:
        reason = first_line(error)
        if is_panic(error):
            code, message = 2, f"a library gave up ({reason}): the tokenizer or a text is damaged; take another"
        elif isinstance(error, OSError) and error.errno in PATH_ERRORS:
            code, message = 2, f"{str(error.filename)[:200]}: {error.strerror}; choose another path"
        elif not is_machine_fault(error):
            raise
        else:
            if isinstance(error, OSError) and error.strerror:
                reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
            code, message = 1, f"{reason}; what was complete before is untouched"
    if message:
        say_error(message)
    return code
