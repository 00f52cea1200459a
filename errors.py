"""How a mistake in the user's input ends a script: one line, exit code 2, never a traceback."""

import errno
import os
import sys
from collections.abc import Callable


class InputError(Exception):
    """A fault in what the user gave (a file, an option, a checkpoint); its text says where, what and what to do."""


def run_script(main: Callable[[], int | None]) -> None:
    """Run `main` and leave the process: 0 done, 1 the machine's fault, 2 the user's input, 130 interrupted.

    Of several processes (accelerate launch) only the first of a machine prints, so that a fault is said once.
    """
    is_printer = os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        code, message = main() or 0, None
        sys.stdout.flush()
    except InputError as error:
        code, message = 2, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted; nothing was left half-written"
    except MemoryError as error:
        code, message = 1, f"out of memory: {error}; try a smaller --per_device_train_batch_size or model"
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, message = 141, None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO):
            raise
        where = f" ({error.filename})" if error.filename else ""
        code, message = 1, f"{error.strerror}{where}; what was complete before is untouched"
    except RuntimeError as error:
        # torch and safetensors report a full disk or an exhausted device as RuntimeError.
        text = str(error)
        if not any(mark in text for mark in ("No space left", "out of memory", "file write failed", "unexpected pos")):
            raise
        code, message = 1, f"{text.splitlines()[0]}; what was complete before is untouched"
    if message and is_printer:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
