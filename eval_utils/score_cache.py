"""Keeps the figures of a checkpoint, so that nothing is computed twice: by its files, the items and this code."""

from dataclasses import asdict
from pathlib import Path

from data_utils.caching import cache_folder, cache_key, find_json, hash_code, keep_json
from data_utils.sources import builtin
from eval_utils.figures import Figure

KEPT = (".safetensors", ".json", ".jinja", ".gguf")  # files of a checkpoint that its figures depend on


def find_scores(path: str, part: str, items: list, limit: int | None) -> Path:
    """Return the file that keeps the figures of a part for a checkpoint, the user's items and a limit."""
    folder = Path(path)
    found = [folder] if folder.is_file() else sorted(file for file in folder.glob("*") if file.suffix in KEPT)
    stats = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in found]
    versions = [builtin.source_version(name) for name in builtin.DIALOGUE_SOURCES]
    key = cache_key(folder.resolve(), *stats, limit, hash_code("eval_utils"), part, items, *versions)
    return cache_folder() / "scores" / f"{key}.json"


def read_scores(place: Path) -> list[Figure] | None:
    """Return the figures of a file, None where they are not there."""
    found = find_json(place)
    return None if found is None else [Figure(**record) for record in found]


def keep_scores(place: Path, figures: list[Figure]) -> None:
    """Write figures to a file."""
    keep_json(place, [asdict(figure) for figure in figures])
