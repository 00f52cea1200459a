"""Fits a script to where it runs: any console, a home that can't be written, variables of an earlier launch."""

import io
import os
import stat
import sys
import tempfile
from pathlib import Path

from errors import InputError, run_guarded, say_interrupts, say_note

LAUNCHED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # what every launcher sets


def begin_script() -> None:
    """Make a script's surroundings fit for it, before its slow imports; leave the process where that can't be."""
    say_interrupts()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the console can't show ends no run
        sys.stdout.reconfigure(errors="replace")
    code = run_guarded(lambda: forget_launcher() or settle_caches())
    if code:
        sys.exit(code)


def forget_launcher() -> None:
    """Remove the variables of a launcher that didn't start this process: with some of them alone it waits or fails."""
    left = sorted(name for name in (*LAUNCHED, "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name in os.environ)
    if any(name.endswith(("RANK", "SIZE")) for name in left) and not set(left) >= LAUNCHED:
        for name in left:
            del os.environ[name]
        say_note(f"{', '.join(left)} of an earlier launch, without {min(LAUNCHED - set(left))}, is passed over")


def settle_caches() -> None:
    """Name the folders of the libraries' caches: this user's own, and ones that can be written where the home can't.

    Raises InputError where there is none.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface")
    if not can_write(hub):
        os.environ.setdefault("HF_HUB_CACHE", str(hub / "hub"))  # which can still be read
        home = make_private_folder()
        os.environ["HF_HOME"] = str(home / "huggingface")
        os.environ.setdefault("MPLCONFIGDIR", str(home / "matplotlib"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(home / "triton"))
        say_note(f"{hub} can't be written; caches are in {home}, and HF_HOME names another place")
    # By default in /tmp, under a name that another user could take first.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((home / "torchinductor").expanduser()))


def can_write(folder: Path) -> bool:
    """Tell whether files can be written in a folder, which is made."""
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # the second: of a user without a home
        return False


def make_private_folder() -> Path:
    """Return this user's own folder among the temporary ones; raise InputError where it is another user's."""
    user = os.getuid() if hasattr(os, "getuid") else ""
    try:
        folder = Path(tempfile.gettempdir()) / f"language-model-cache-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError("no cache can be written; set HF_HOME to a folder that can") from error
    found = folder.lstat()
    is_mine = os.name == "nt" or (found.st_uid == user and not found.st_mode & 0o022)
    if not (stat.S_ISDIR(found.st_mode) and is_mine):
        raise InputError(f"{folder}: belongs to another user; set HF_HOME to a folder of your own")
    return folder
