"""Reads and writes addresses of object storage with patience: what fails is tried again after a pause, and counted.

Memory is bounded: fsspec's files keep a few megabytes of what was read. Credentials come from the environment alone
(of S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role): an address that holds some would stand in
the run's record.
"""

import io
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from tqdm import tqdm

from errors import InputError, RunError, first_line, say_note

PAUSE_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # between tries: half a minute, which outlasts a store that is busy
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError)  # another try finds the same
# Of botocore and aiohttp, whose errors are no OSErrors: what is another try's business, as these are: timeouts, broken
# connections, "slow down".
FAULTS = {"HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError", "ClientError"}
SECRET = re.compile(r"://[^/?#]*@|[?&;][^=&]*(token|signature|secret|passw|credential|key|sig)[^=&]*=", re.IGNORECASE)

repeated: Counter[str] = Counter()  # how often what was asked of an address was asked again
Found = TypeVar("Found")


def is_address(path: str) -> bool:
    """Tell whether a path is an fsspec address, `s3://bucket/file`, and no file of this machine."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*(::|://)", path))


def check_address(path: str) -> None:
    """Raise InputError, without repeating it, for an address that holds a password or a key.

    >>> check_address("s3://bucket/folder/a@b.jsonl")
    """
    if is_address(path) and SECRET.search(path):
        place = re.split(r"[/?#]", path.partition("://")[2])[0].rpartition("@")[2]
        raise InputError(
            f"{path.partition('://')[0]}://{place}: the address holds a password or a key, which would stand in the "
            "run's record; give credentials by the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def is_fault(error: Exception) -> bool:
    """Tell whether a store failed to answer, so that it may be asked again: no wrong name, and no missing key.

    >>> is_fault(TimeoutError()), is_fault(ValueError("Invalid endpoint"))
    (True, False)
    """
    return isinstance(error, OSError) or any(kind.__name__ in FAULTS for kind in type(error).__mro__)


def ask(path: str, action: Callable[[], Found]) -> Found:
    """Do what asks a store for something, again after each fault; raise RunError where it fails to the end.

    Raises FINAL as they are, and InputError for what no other try changes.
    """
    for pause in (*PAUSE_SECONDS, None):
        try:
            return action()
        except FINAL:
            raise
        except Exception as error:
            if not is_fault(error):
                raise InputError(f"{path}: cannot be opened: {first_line(error)}") from error
            if pause is None:
                tries = len(PAUSE_SECONDS) + 1
                raise RunError(f"{path}: failed in {tries} tries, {first_line(error)}; try again later") from error
        repeated[path] += 1
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def open_store(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return an address's store and the place in it; raise InputError where no store can be opened."""
    check_address(path)
    try:
        return fsspec.core.url_to_fs(path)
    except (ValueError, ImportError, OSError) as error:  # unknown protocol, its package missing, no access
        raise InputError(f"{path}: cannot be opened: {first_line(error)}") from error


def has_file(path: str) -> bool:
    """Tell whether a file or an address is there; raise InputError for a store that can't be asked."""
    if not is_address(path):
        return Path(path).is_file()
    system, place = open_store(path)
    try:
        return ask(path, lambda: system.info(place)["type"]) == "file"  # isfile would take any fault for a no
    except FileNotFoundError:
        return False
    except FINAL as error:
        raise InputError(f"{path}: cannot be opened: {first_line(error)}") from error


def send_folder(folder: Path, address: str, last: str) -> None:
    """Copy a folder to an address, one file after the other.

    Args:
        last: the file that makes it whole: what stands there of it is deleted first, and it is sent last.
    Raises InputError where nothing may be written there, RunError where the store fails to the end.
    """
    system, place = open_store(address.rstrip("/"))
    names = sorted(str(file.relative_to(folder).as_posix()) for file in folder.rglob("*") if file.is_file())
    names = [*(name for name in names if name != last and not name.startswith(".")), last]
    try:
        if has_file(f"{address.rstrip('/')}/{last}"):
            ask(address, lambda: system.rm_file(f"{place}/{last}"))
        for name in tqdm(names, f"to {address}", unit=" files", disable=None):
            there = f"{place}/{name}"
            ask(address, lambda name=name, there=there: system.put_file(str(folder / name), there))
            size = ask(address, lambda there=there: system.size(there))
            if size not in (None, (folder / name).stat().st_size):
                raise RunError(f"{address}/{name}: arrived with {size} bytes; the same command sends it again")
    except FINAL as error:
        raise InputError(
            f"{address}: cannot be written: {first_line(error)}; all is kept in {folder}, and the same command sends it"
        ) from error


class ByteStream(io.RawIOBase):
    """A stream of the bytes that `take(most)` returns, as io's buffers read it."""

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def take(self, most: int) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        raise NotImplementedError

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with what comes next."""
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class PatientFile(ByteStream):
    """The bytes at an address; after a fault it is opened anew where reading stopped."""

    def __init__(self, path: str) -> None:
        self.path, self.place, self.file = path, 0, None
        ask(path, self.open)

    def open(self) -> None:
        """Open the file, or open it anew."""
        if self.file is not None:
            self.file.close()
        self.file: Any = fsspec.open(self.path, "rb", compression=None).open()

    def seekable(self) -> bool:
        """Tell that places in it can be gone to."""
        return True

    def tell(self) -> int:
        """Return the place."""
        return self.place

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        if whence == 2:
            self.place = ask(self.path, lambda: self.file.seek(offset, 2))
        else:
            self.place = offset + (self.place if whence == 1 else 0)
        return self.place

    def take(self, most: int) -> bytes:
        """Return what comes next."""
        before = repeated[self.path]

        def read() -> bytes:
            if repeated[self.path] > before:
                self.open()
            self.file.seek(self.place)
            return self.file.read(most)

        data = ask(self.path, read)
        self.place += len(data)
        return data

    def close(self) -> None:
        """Close it, and say how often it was asked again."""
        if not self.closed and self.file is not None:
            self.file.close()
            if repeated[self.path]:
                say_note(f"{self.path}: asked {repeated[self.path]} times again, since the store failed to answer")
        super().close()
