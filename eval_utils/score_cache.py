"""Measures a checkpoint part by part and keeps the figures: by its files, the items and this code, none twice."""

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_utils.caching import cache_folder, cache_key, find_json, hash_code, keep_json
from eval_utils.figures import Figure
from eval_utils.held_out import builtin_versions
from eval_utils.parts import PARTS, Subject

KEPT = (".safetensors", ".json", ".jinja", ".gguf")  # files of a checkpoint that its figures depend on


def measure_checkpoint(
    path: str,
    load: Callable[[str], Subject],
    parts: list[str],
    *,
    items: dict[str, list],
    limit: int | None,
    overwrite: bool,
) -> list[Figure]:
    """Return the figures of the parts of a checkpoint, which is loaded only for those that are not in the cache.

    Args:
        items: the user's own of each part, if any. limit: items at most. overwrite: measure what was measured before.
    """
    subject, figures = None, []
    for number, part in enumerate(parts, 1):
        given = items.get(part, [])
        place = find_scores(path, part, given, limit)
        kept = None if overwrite else find_json(place)
        if kept is None:
            subject = subject or load(path)
            subject.reader.open_bar = partial(open_bar, f"{Path(path).name}, {part} ({number} of {len(parts)})")
            kept = [asdict(figure) for figure in PARTS[part](subject, given, limit)]
            keep_json(place, kept)
        figures += [Figure(**record) for record in kept]
    return figures


def find_scores(path: str, part: str, items: list, limit: int | None) -> Path:
    """Return the file that keeps the figures of a part for a checkpoint, the user's items and a limit."""
    folder = Path(path)
    own = {file for file in folder.glob("*") if file.suffix in KEPT} - {folder / "score.json"}  # that may lie there
    found = [folder] if folder.is_file() else sorted(own)
    stats = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in found]
    key = cache_key(folder.resolve(), *stats, limit, hash_code("eval_utils"), part, items, *builtin_versions())
    return cache_folder() / "scores" / f"{key}.json"


def open_bar(label: str, total: int) -> tqdm:
    """Return a bar of so many texts, with the time left, where there is a terminal; else tell how many there are."""
    if not sys.stderr.isatty():
        print(f"{label}: {total:,} texts", file=sys.stderr)
    return tqdm(total=total, desc=label, unit="text", leave=False, disable=None)
