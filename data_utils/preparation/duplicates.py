"""Signatures of documents in, documents to drop out: equal ones by hash, alike ones by MinHash (blocks for datatrove).

Three stages, each on files, so that memory is the same for any corpus. Each reading task writes the signatures of its
documents; each task of the second stage takes one band and one range of its hashes and finds which documents meet
there; the third joins what was found to clusters, of which the first document stays. datatrove's own MinHash blocks cut
words with tokenizers that are fetched or know no Chinese, take a Python object for each hash, and don't compare what
meets; so these are written anew, for its executors.
"""

from collections.abc import Iterator
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
        return np.load(self.folder / f"{rank:05d}.{name}.npy", mmap_mode="r")

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

    def similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the estimated share of common shingles of each pair of documents."""
        shares = np.zeros(len(first))
        for part in slices(len(first), 50_000):
            equal = (self.sketches_of(first[part]) == self.sketches_of(second[part])).mean(axis=1)
            shares[part] = (equal - 1 / 256) / (1 - 1 / 256)
        return shares


KEPT, EXACT, NEAR = range(3)  # what becomes of a document
PART_BYTES = 2**30  # of text, for each part of a row: some million documents, 150 MB of memory


def find_pairs(signatures: SignatureFolder, row: int, part: int, parts: int, least_similarity: float) -> np.ndarray:
    """Return pairs of documents, (K, 2) int64, the first one first, whose keys of a row are equal and who are alike.

    Of those that meet under one key all are compared with the first, then those that aren't like it among themselves.
    """
    keys, ids = signatures.range_of(row, part * 2**64 // parts, (part + 1) * 2**64 // parts - 1)
    order = np.argsort(keys, kind="stable")
    keys, ids = keys[order], ids[order]
    pairs = [np.zeros((0, 2), np.int64)]
    while len(keys):
        begins = np.concatenate([[True], keys[1:] != keys[:-1]])
        leaders = ids[begins][np.cumsum(begins) - 1][~begins]
        keys, others = keys[~begins], ids[~begins]
        alike = np.ones(len(others), bool)
        if row:
            alike = signatures.similarity(leaders, others) >= least_similarity
        pairs.append(np.stack([leaders[alike], others[alike]], axis=1))
        keys, ids = keys[~alike], others[~alike]
    return np.concatenate(pairs)


def find_firsts(firsts: np.ndarray, ids: np.ndarray | slice) -> np.ndarray:
    """Return the first document of each one's cluster, which `firsts` names itself from then on."""
    found = firsts[ids]
    while (found != (nearer := firsts[found])).any():
        found = nearer
    firsts[ids] = found
    return found


def join_pairs(firsts: np.ndarray, pairs: np.ndarray) -> None:
    """Join the clusters of each pair in `firsts`, which holds for each document one that is before it, or itself."""
    while len(pairs):
        roots = np.stack([find_firsts(firsts, pairs[:, 0]), find_firsts(firsts, pairs[:, 1])], axis=1)
        pairs = np.unique(np.sort(roots[roots[:, 0] != roots[:, 1]], axis=1), axis=0)
        np.minimum.at(firsts, pairs[:, 1], pairs[:, 0])


def write_pairs(rank: int, work: Path, parts: int, least_similarity: float) -> None:
    """Second stage: a task for each row and part of it, 00000 being the first part of the exact hashes."""
    row, part = divmod(rank, parts)
    pairs = find_pairs(SignatureFolder(work / "signatures"), row, part, parts, least_similarity)
    write_array(work / "pairs" / f"{rank:05d}.npy", pairs)


def write_clusters(work: Path, parts: int) -> None:
    """Third stage, one task: `firsts.npy` and `fates.npy`, an entry for each document of all reading tasks."""
    output = work / "clusters"
    output.mkdir(exist_ok=True)
    documents = int(SignatureFolder(work / "signatures").offsets[-1])
    # Mapped from files: memory that the system may take back.
    firsts = np.lib.format.open_memmap(output / "firsts.npy", "w+", np.int64, (documents,))
    fates = np.lib.format.open_memmap(output / "fates.npy", "w+", np.uint8, (documents,))
    for part in slices(documents):
        firsts[part] = np.arange(part.start, part.stop)
    paths = sorted((work / "pairs").glob("*.npy"))
    for fate, chosen in ((EXACT, paths[:parts]), (NEAR, paths[parts:])):
        for path in chosen:
            found = np.load(path)
            for part in slices(len(found)):
                join_pairs(firsts, found[part])
        for part in slices(documents):
            dropped = (find_firsts(firsts, part) != np.arange(part.start, part.stop)) & (fates[part] == KEPT)
            fates[part][dropped] = fate
    firsts.flush()
    fates.flush()


def slices(length: int, batch: int = 1 << 20) -> Iterator[slice]:
    """Yield the parts of a long array."""
    for start in range(0, length, batch):
        yield slice(start, min(start + batch, length))
