"""Keeps the figures of a checkpoint, so that nothing is computed twice: by its files, the items and this code."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

import xxhash

from data_utils.caching import cache_folder, cache_key
from data_utils.sources import builtin
from eval_utils.figures import Figure
from eval_utils.parts import Files
from files import write_whole

KEPT = (".safetensors", ".json", ".jinja", ".gguf")  # files of a checkpoint that its figures depend on


class ScoreCache:
    """The figures of one checkpoint, a file for each part."""

    def __init__(self, path: str, files: Files, limit: int | None) -> None:
        folder = Path(path)
        found = [folder] if folder.is_file() else sorted(file for file in folder.glob("*") if file.suffix in KEPT)
        stats = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in found]
        self._key = (folder.resolve(), *stats, limit, code_version())
        self._files = asdict(files)

    def _place(self, part: str) -> Path:
        names = {"text": ["documents"], "replies": [], "speed": []}.get(part, [part])
        items = json.dumps([self._files[name] for name in names], ensure_ascii=False)
        versions = [builtin.source_version(name) for name in builtin.DIALOGUE_SOURCES]
        return cache_folder() / "scores" / f"{cache_key(*self._key, part, items, *versions)}.json"

    def read(self, part: str) -> list[Figure] | None:
        """Return the figures of a part, None where they are not there."""
        try:
            return [Figure(**record) for record in json.loads(self._place(part).read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return None

    def write(self, part: str, figures: list[Figure]) -> None:
        """Keep the figures of a part."""
        write_whole(self._place(part), json.dumps([asdict(figure) for figure in figures], ensure_ascii=False))


@cache
def code_version() -> str:
    """Return a hash of this package, data included: an upgrade makes no stale hit."""
    files = sorted(file for file in Path(__file__).parent.rglob("*") if file.suffix in (".py", ".yaml"))
    return xxhash.xxh64(b"".join(file.read_bytes() for file in files)).hexdigest()
