"""Signatures of documents in, documents to drop out: equal ones by hash, alike ones by MinHash (blocks for datatrove).

Three stages, each on files, so that memory is the same for any corpus. Each reading task writes the signatures of its
documents; each task of the second stage takes one band and one range of its hashes and finds which documents meet
there; the third joins what was found to clusters, of which the first document stays. datatrove's own MinHash blocks cut
words with tokenizers that are fetched or know no Chinese, take a Python object for each hash, and don't compare what
meets; so these are written anew, for its executors.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep

from data_utils.preparation.signatures import SignatureFolder, write_array

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


def join_pairs(firsts: np.ndarray, pairs: np.ndarray) -> None:
    """Join the clusters of each pair in `firsts`, which holds for each document one that is before it, or itself."""

    def root(ids: np.ndarray) -> np.ndarray:
        found = firsts[ids]
        while (found != (nearer := firsts[found])).any():
            found = nearer
        firsts[ids] = found
        return found

    while len(pairs):
        roots = np.stack([root(pairs[:, 0]), root(pairs[:, 1])], axis=1)
        pairs = np.unique(np.sort(roots[roots[:, 0] != roots[:, 1]], axis=1), axis=0)
        np.minimum.at(firsts, pairs[:, 1], pairs[:, 0])


def flatten_clusters(firsts: np.ndarray, batch: int = 1 << 20) -> None:
    """Let each document name the first of its cluster itself; what is before it does so already."""
    for start in range(0, len(firsts), batch):
        part = firsts[start : start + batch]
        while (part != (nearer := firsts[part])).any():
            part = nearer
        firsts[start : start + batch] = part


class FindPairs(PipelineStep):
    """Second stage: a task for each row and part of it, 00000 being the first part of the exact hashes."""

    type, name = "DUPLICATES", "pairs"

    def __init__(self, work: str, parts: int, least_similarity: float) -> None:
        super().__init__()
        self.work, self.parts, self.least_similarity = Path(work), parts, least_similarity

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Write the pairs of this task."""
        row, part = divmod(rank, self.parts)
        with self.track_time():
            signatures = SignatureFolder(self.work / "signatures")
            pairs = find_pairs(signatures, row, part, self.parts, self.least_similarity)
            write_array(self.work / "pairs" / f"{rank:05d}.npy", pairs)


class JoinPairs(PipelineStep):
    """Third stage, one task: clusters, and what becomes of each document."""

    type, name = "DUPLICATES", "clusters"

    def __init__(self, work: str, parts: int) -> None:
        super().__init__()
        self.work, self.parts = Path(work), parts

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        """Write `firsts.npy` and `fates.npy`, an entry for each document of all reading tasks."""
        output = self.work / "clusters"
        output.mkdir(exist_ok=True)
        documents = int(SignatureFolder(self.work / "signatures").offsets[-1])
        with self.track_time():
            # Mapped from files: memory that the system may take back.
            firsts = np.lib.format.open_memmap(output / "firsts.npy", "w+", np.int64, (documents,))
            fates = np.lib.format.open_memmap(output / "fates.npy", "w+", np.uint8, (documents,))
            for part in slices(documents):
                firsts[part] = np.arange(part.start, part.stop)
            paths = sorted((self.work / "pairs").glob("*.npy"))
            for fate, chosen in ((EXACT, paths[: self.parts]), (NEAR, paths[self.parts :])):
                for path in chosen:
                    found = np.load(path)
                    for part in slices(len(found)):
                        join_pairs(firsts, found[part])
                flatten_clusters(firsts)
                for part in slices(documents):
                    dropped = (firsts[part] != np.arange(part.start, part.stop)) & (fates[part] == KEPT)
                    fates[part][dropped] = fate
            firsts.flush()
            fates.flush()


def slices(length: int, batch: int = 1 << 20) -> Iterator[slice]:
    """Yield the parts of a long array."""
    for start in range(0, length, batch):
        yield slice(start, min(start + batch, length))
