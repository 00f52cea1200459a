"""Tells what a folder holds before a corpus is prepared in it: another one, this one begun, this one finished."""

import json
import shutil
from pathlib import Path

from data_utils.readers.remote import has_file, is_address
from data_utils.sources.source import MANIFEST, name_file, read_manifest
from errors import InputError
from files import LOCK_FILE


def is_finished(output_dir: str, output: Path, settings: dict, overwrite: bool) -> bool:
    """Tell whether the corpus is there; clear the folder with --overwrite; raise InputError for what isn't ours."""
    if is_address(output_dir) and not overwrite and has_file(name_file(output_dir, MANIFEST)):
        check_same(output_dir, settings)
        return True
    held = {path.name for path in output.iterdir()} - {LOCK_FILE} if output.exists() else set()
    if not held:
        return False
    if ".work" not in held and not is_manifest(output / MANIFEST):
        raise InputError(f"{output}: the folder holds other files, {min(held)} first; choose another --output_dir")
    if overwrite:
        for name in (MANIFEST, "report.json", "report.md", "report.png"):
            (output / name).unlink(missing_ok=True)
        for name in ("data", ".work"):
            shutil.rmtree(output / name, ignore_errors=True)
    if (output / MANIFEST).exists() and is_address(output_dir):  # a sending that was cut off
        shutil.rmtree(output)
        return False
    if (output / MANIFEST).exists():
        check_same(str(output), settings)
        shutil.rmtree(output / ".work", ignore_errors=True)
        return True
    return False


def is_manifest(path: Path) -> bool:
    """Tell whether a file is the manifest of a corpus, and not a text of that name."""
    try:
        return "shards" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def check_same(corpus: str, settings: dict) -> None:
    """Raise InputError where a corpus that is there was prepared with other settings."""
    before = settings | read_manifest(corpus)["settings"]
    advice = "choose another --output_dir or --overwrite true"
    refuse_change(f"{corpus}: prepared with", before, settings, advice=advice)


def begin_work(work: Path, plan: dict) -> dict:
    """Return the plan of this preparation as it was begun; raise InputError where it isn't the same."""
    path = work / "plan.json"
    if not path.exists():
        return plan
    plan = json.loads(json.dumps(plan))
    before = json.loads(path.read_text(encoding="utf-8"))
    if before["files"] != plan["files"]:
        raise InputError(
            f"{work.parent}: the sources have changed since this preparation began; --overwrite true begins anew"
        )
    if before["code"] != plan["code"]:
        raise InputError(f"{work.parent}: begun by another version of this code; --overwrite true begins anew")
    advice = "set it as before to go on, or use --overwrite true"
    refuse_change(f"{work.parent}: begun with", before["settings"], plan["settings"], advice=advice)
    return before


def refuse_change(what: str, before: dict, now: dict, *, advice: str) -> None:
    """Raise InputError for the first setting that is not as before."""
    for name, value in now.items():
        if before.get(name) != value:
            raise InputError(f"{what} {describe_change(name, before, now)}; {advice}")


def describe_change(name: str, before: dict, now: dict) -> str:
    """Return in words how a setting differs.

    >>> describe_change("sources", {"sources": ["a.txt"]}, {"sources": ["b", "c"]})
    '--sources a.txt, not b c'
    """
    words = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in (before.get(name, "unset"), now[name])]
    return f"--{name} {words[0] or 'empty'}, not {words[1] or 'empty'}"
