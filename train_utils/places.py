"""Finds what the options of a run name, its folder, base and data; light to import, so that faults come at once."""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data_utils.sources.source import Source
from errors import InputError, first_line
from files import LOCK_FILE, check_link
from model_utils.finding import check_checkpoint
from options import YAML_FAULTS
from train_utils.run_options import RunOptions

ROOT = Path(__file__).parents[1]
RUN_FILE = "run.yaml"


def check_places(args: RunOptions, sources: Sequence[Source], base: str | None, tokenizer: str | None = None) -> None:
    """Raise InputError for files, a base or a tokenizer that are not there, and for a folder that a run can't have."""
    for source in sources:
        source.parts()
    for path, weights in ((base, True), (tokenizer, False)):
        if path:
            check_checkpoint(path, weights)
    if not args.plan_only:
        check_output(Path(args.output_dir), base, args.resume_from_checkpoint)


def check_output(output_dir: Path, base: str | None, resume: str | None = None) -> None:
    """Raise InputError where a run's folder is none, or holds something else that would be lost, such as the base."""
    if base and Path(base).resolve() == output_dir.resolve():
        raise InputError(f"{output_dir}: is the --base too, which would be lost; choose another --output_dir")
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir}: is a file; choose another --output_dir")
    check_link(output_dir)
    if read_record(output_dir) is None and (resume or "true").lower() in ("true", "false"):
        others = {path.name for path in output_dir.iterdir()} - {LOCK_FILE} if output_dir.is_dir() else set()
        if others:
            raise InputError(
                f"{output_dir}: holds {min(others)} and no run, which --overwrite true alone would replace; choose "
                "another --output_dir"
            )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return a run's record, or None where the folder holds none."""
    try:
        record = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, *YAML_FAULTS):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("settings"), dict) and "status" in record
    return record if is_record else None


def find_shape(path: str) -> Path:
    """Return the user's own shape file, or the shipped one of that path; raise InputError where there is none."""
    for place in (Path(path), ROOT / path):
        if place.is_file():
            return place
    known = ", ".join(sorted(str(place.relative_to(ROOT)) for place in ROOT.glob("configs/models/*.json")))
    raise InputError(f"{path}: no such model shape; there are: {known}")


def find_reward(name: str) -> tuple[str, str]:
    """Return the file and the function that `FILE.py:FUNCTION` names; raise InputError where there is none.

    The file is read and not run: its names are those of functions, values and imports.
    """
    path, _, function = name.rpartition(":")
    if not path or not Path(path).is_file():
        raise InputError(f"--reward {name}: FILE.py:FUNCTION is expected, of a file that is there")
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(f"--reward {path}: cannot be loaded: {first_line(error)}") from error
    words = {getattr(node, key, None) for node in ast.walk(tree) for key in ("name", "asname", "id")}
    if function not in words and "*" not in words:
        raise InputError(f"--reward {name}: {path} has no function {function}")
    return path, function
