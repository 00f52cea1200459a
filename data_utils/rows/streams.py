"""Shards of token ids (data_utils.rows.shards) read as one long stream: opened by their index, read where asked."""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from data_utils.caching import find_json
from data_utils.rows.shards import INDEX
from errors import InputError

HELD_OUT_SHARDS = 64  # at most so many are looked into for held-out documents


class TokenStream:
    """The joined tokens of a folder of shards; opening it reads the index alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = find_json(folder / INDEX)
        self.dtype, self.shards = np.dtype(index["dtype"]), index["shards"]
        self.ends = np.cumsum([shard["tokens"] for shard in self.shards], dtype=np.int64)
        self.open_shard = lru_cache(64)(self._open_shard)  # a mapped file holds a file descriptor

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def _open_shard(self, number: int) -> np.ndarray:
        return np.memmap(self.folder / f"{number:05d}.bin", self.dtype, mode="r")

    def read(self, start: int, count: int) -> np.ndarray:
        """Return `count` ids from token `start` on, across shards."""
        parts = []
        shard = int(np.searchsorted(self.ends, start, side="right"))
        while count > 0 and shard < len(self.ends):
            offset = start - (int(self.ends[shard - 1]) if shard else 0)
            parts.append(self.open_shard(shard)[offset : offset + count])
            start, count, shard = start + len(parts[-1]), count - len(parts[-1]), shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, self.dtype)])

    def count_languages(self) -> dict[str, dict[str, int]]:
        """Return documents, bytes and tokens of each language."""
        total: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            for language, counts in shard["languages"].items():
                sums = total.setdefault(language, dict.fromkeys(counts, 0))
                for name, value in counts.items():
                    sums[name] += value
        return total

    def read_held_out(self, max_bytes: int) -> Iterator[dict[str, str]]:
        """Yield held-out documents of up to `max_bytes` of each language, from shards spread over all."""
        found: dict[str, list[list[str]]] = {}  # of a language, the texts of each shard
        for shard in sorted(set(np.linspace(0, len(self.shards) - 1, HELD_OUT_SHARDS).astype(int))):
            left: dict[str, int] = {}
            for text, language in read_texts(self.folder / f"{shard:05d}.eval.jsonl"):
                if language not in left:
                    left[language] = max_bytes
                    found.setdefault(language, []).append([])
                if left[language] > 0:
                    left[language] -= len(text.encode())
                    found[language][-1].append(text)
        for language, shards in found.items():
            bytes_left = max_bytes
            for text in chain.from_iterable(zip_longest(*shards)):
                if text is not None and bytes_left > 0:
                    bytes_left -= len(text.encode())
                    yield {"text": text, "language": language}


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (text, language) of the held-out documents of a shard; raise InputError where they are damaged."""
    try:
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                yield str(row["text"]), str(row["language"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged; delete {path.parent}, and it is made anew") from error
