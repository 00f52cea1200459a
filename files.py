"""Writes a file or a folder whole or not at all: a kill or a power cut leaves the old one or the new one, never half.

Written aside, synced, renamed, and the folder synced: the order that SQLite and git follow. Damage that comes later is
found by hashes.
"""

import atexit
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import xxhash
from filelock import FileLock, Timeout

from errors import InputError

LOCK_FILE = ".lock"
COMPLETE_FILE = "complete.json"

UNSYNCABLE = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # a file system that can't sync a folder, or a pipe


def write_whole(path: Path, data: str | bytes, mode: int | None = None) -> None:
    """Write a file whole or not at all, its folder made if need be; text in UTF-8, its line ends as they are.

    Bytes of a name that is no UTF-8, as Python holds them in texts, are written as JSON escapes.

    Args:
        mode: permissions, which the file has before it holds anything; by default those of any new file.
    """
    with whole(path) as aside:
        aside.touch(mode or 0o666)
        aside.write_bytes(data.encode(errors="backslashreplace") if isinstance(data, str) else data)


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """Give a path beside `path` for a file or folder to be written; it takes the place of `path` at the end.

    On an error it is gone, and `path` is as it was.
    """
    # In a folder of its own: libraries go by a file's suffix, and so does who looks for files in this folder.
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    make_folder(path.parent)
    remove(aside)
    aside.mkdir()
    try:
        yield aside / path.name
        move_whole(aside / path.name, path)
    finally:
        remove(aside)


def move_whole(source: Path, target: Path) -> None:
    """Sync a file or folder and put it in the place of another one on the same file system.

    Between a folder that goes and the one that takes its place there is a moment without either.
    """
    sync_tree(source)
    if source.is_dir() and target.is_dir():  # no system replaces a folder that holds something
        old = target.with_name(f".{target.name}.{os.getpid()}.old.tmp")
        remove(old)
        target.rename(old)
        try:
            source.rename(target)
        except OSError:
            old.rename(target)
            raise
        remove(old)
    else:
        source.replace(target)
    sync(target.parent)


def move_content(source: Path, folder: Path) -> None:
    """Sync what a folder holds, move it into another one, the weights last, and delete the empty folder."""
    sync_tree(source)
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(folder / path.name)
    source.rmdir()
    sync(folder)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where there is none, so that a power cut doesn't take it away again.

    Raises InputError where a file has its name, or /proc and the like make none; and for a name that is no UTF-8:
    pyarrow, safetensors and torch open no such path.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{folder}: the name is no UTF-8; choose another folder to write in") from error
    if not folder.is_dir():
        make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except (FileExistsError, FileNotFoundError) as error:
            reason = "is a file, not a folder" if folder.exists() else "no folder can be made there"
            raise InputError(f"{folder}: {reason}; choose another folder to write in") from error
        sync(folder.parent)


def remove(path: Path) -> None:
    """Delete a file, link or folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_cut_off(folder: Path) -> None:
    """Delete what a killed `whole` left in a folder that no other process writes in."""
    for path in folder.glob(".*.tmp"):
        remove(path)


def sync_tree(path: Path) -> None:
    """Sync a file, or a folder with all that is in it."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for file in (Path(folder, name) for name in names):
                if not file.is_symlink():
                    sync(file)
            sync(Path(folder))
    else:
        sync(path)


def sync(path: Path) -> None:
    """Have the system write a file's content, or a folder's list of names, to the disk itself."""
    is_windows = os.name == "nt"
    if is_windows and path.is_dir():  # which Windows keeps by itself, and can't sync
        return
    handle = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise
    finally:
        os.close(handle)


def check_link(folder: Path) -> None:
    """Raise InputError for a folder that is a link to nowhere."""
    if folder.is_symlink() and not folder.exists():
        raise InputError(f"{folder}: is a link to {folder.readlink()}, which is not there; make it, or choose another")


def mark_complete(folder: Path) -> None:
    """Sync a folder, and write size and hash of every file beside them, last of all: what lacks it was cut off."""
    sync_tree(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / COMPLETE_FILE)
    files = {path.relative_to(folder).as_posix(): [path.stat().st_size, hash_file(path)] for path in paths}
    write_whole(folder / COMPLETE_FILE, json.dumps(files))
    sync(folder.parent)


def hash_file(path: Path) -> str:
    """Return a hash of a file's content, by which damage is noticed; 5 GB/s of what the system holds in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def find_damage(folder: Path) -> str | None:
    """Return in words what a folder lacks that was marked complete; None where every file is as it was written."""
    try:
        files = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))
        for name, written in files.items():
            size, digest = written if isinstance(written, list) else (written, None)  # sizes alone, as once
            path = folder / name
            if path.stat().st_size != size or (digest and hash_file(path) != digest):
                return f"{name} is damaged"
    except FileNotFoundError as error:
        name = Path(error.filename).name
        return "was cut off while being written" if name == COMPLETE_FILE else f"{name} is missing"
    except OSError as error:
        return f"{error.filename} can't be read: {error.strerror}"
    except (ValueError, AttributeError):
        return f"{COMPLETE_FILE} is damaged"
    return None


@contextmanager
def one_writer(folder: Path) -> Generator[None]:
    """Hold a folder, made if need be, for this process alone; raise InputError where another one holds it.

    The lock is the system's: it is free as soon as the process is gone, however it went.
    """
    check_link(folder)
    is_new = not folder.exists()
    make_folder(folder)
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        owner = "another process"
        with suppress(OSError):  # as Windows locks it for readers too
            owner = path.read_text(encoding="utf-8", errors="replace") or owner
        raise InputError(f"{folder}: {owner} writes in it; wait until it ends, or choose another folder") from None
    try:
        with suppress(OSError):
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        if os.name != "nt":  # where an open file can't go
            path.unlink(missing_ok=True)  # while it is held: who waits at it sees that it is gone
        lock.release()
        with suppress(OSError):
            if is_new:
                folder.rmdir()  # as long as nothing was written in it


_held: dict[Path, ExitStack] = {}


def hold(folder: Path) -> None:
    """Hold a folder as `one_writer` does, until `release` or the end of the process; a second time changes nothing."""
    if folder.resolve() not in _held:
        stack = ExitStack()
        stack.enter_context(one_writer(folder))
        _held[folder.resolve()] = stack


def release(folder: Path) -> None:
    """Let go of a folder that is held."""
    _held.pop(folder.resolve(), ExitStack()).close()


@atexit.register
def release_all() -> None:
    """Let go of all folders that are held."""
    for folder in list(_held):
        release(folder)
