"""Keeps what is known of each document: keys under which alike ones meet, sketches by which they are compared."""

from pathlib import Path

import numpy as np

from data_utils.preparation.shingles import (
    BANDS,
    HASHES,
    Shingles,
    find_shingles,
    find_tokens,
    hash_bands,
    hash_texts,
    read_characters,
    sign_shingles,
)
from files import whole

ROWS = 1 + BANDS  # of the keys of a document: the exact hash, then the bands


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file whole or not at all."""
    with whole(path) as aside:
        np.save(aside, array)


class Signatures:
    """What is known of the documents of a reading task, collected batch by batch, then written for the next stage."""

    def __init__(self, near: bool) -> None:
        self.near = near
        self.keys: list[np.ndarray] = []
        self.sketches: list[np.ndarray] = []

    def add(self, texts: list[str]) -> Shingles | None:
        """Take the next D texts; return their shingles where near duplicates are looked for."""
        characters = read_characters(texts)
        exact = hash_texts(characters, texts)
        if not self.near:
            self.keys.append(exact[None])
            return None
        shingles = find_shingles(find_tokens(texts, characters))
        signatures = sign_shingles(shingles)
        # A text without a shingle meets its equals alone.
        bands = np.where(np.diff(shingles.bounds) > 0, hash_bands(signatures), exact)
        self.keys.append(np.concatenate([exact[None], bands]))
        self.sketches.append(
            signatures.astype(np.uint8)
        )  # 8 bits of each hash: a chance of 1/256 that others are equal
        return shingles

    def write(self, folder: Path, rank: int) -> None:
        """Write the keys of each row in order, with the documents' numbers, and the sketches."""
        keys = np.concatenate(self.keys, axis=1) if self.keys else np.zeros((ROWS if self.near else 1, 0), np.uint64)
        order = np.argsort(keys, axis=1, kind="stable").astype(np.uint32)
        sketches = np.concatenate(self.sketches) if self.sketches else np.zeros((keys.shape[1], 0), np.uint8)
        write_array(folder / f"{rank:05d}.keys.npy", np.take_along_axis(keys, order.astype(np.int64), axis=1))
        write_array(folder / f"{rank:05d}.order.npy", order)
        write_array(folder / f"{rank:05d}.sketches.npy", sketches)


class SignatureFolder:
    """The signatures of all reading tasks, opened without reading them; documents are numbered through all tasks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks = sorted(int(path.name.partition(".")[0]) for path in folder.glob("*.keys.npy"))
        sizes = [self.open(rank, "sketches").shape[0] for rank in self.ranks]
        self.offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    def open(self, rank: int, name: str) -> np.ndarray:
        """Return an array of a reading task, mapped from its file."""
        path = self.folder / f"{rank:05d}.{name}.npy"
        try:
            return np.load(path, mmap_mode="r")
        except ValueError:  # an empty array cannot be mapped
            return np.load(path)

    def range_of(self, row: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of a row that lie in [low, high], and their documents, task by task."""
        keys, ids = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for rank, offset in zip(self.ranks, self.offsets[:-1], strict=True):
            row_keys = self.open(rank, "keys")[row]
            start = np.searchsorted(row_keys, np.uint64(low))
            end = np.searchsorted(row_keys, np.uint64(high), side="right")
            keys.append(np.array(row_keys[start:end]))
            ids.append(self.open(rank, "order")[row, start:end].astype(np.int64) + offset)
        return np.concatenate(keys), np.concatenate(ids)

    def sketches_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the sketches of documents, (len(ids), HASHES) uint8."""
        sketches = np.zeros((len(ids), HASHES), np.uint8)
        places = np.searchsorted(self.offsets, ids, side="right") - 1
        for place in np.unique(places):
            chosen = places == place
            sketches[chosen] = self.open(self.ranks[place], "sketches")[ids[chosen] - self.offsets[place]]
        return sketches

    def similarity(self, first: np.ndarray, second: np.ndarray, batch: int = 50_000) -> np.ndarray:
        """Return the estimated share of common shingles of each pair of documents."""
        shares = np.zeros(len(first))
        for start in range(0, len(first), batch):
            part = slice(start, start + batch)
            equal = (self.sketches_of(first[part]) == self.sketches_of(second[part])).mean(axis=1)
            shares[part] = (equal - 1 / 256) / (1 - 1 / 256)
        return shares
