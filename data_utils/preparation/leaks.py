"""Finds documents that hold evaluation text, which must not be trained on (blocks for datatrove).

Near copies are the business of `duplicates`. This finds a text inside of a larger one: an index of the shingles of all
evaluation text, with which each training document is compared. Two rules, after the overlap of 13 words of GPT-3 (Brown
et al. 2020, appendix C) and containment (Broder 1997):
- a document that has half of the shingles of an evaluation text, at least 20, holds a copy of it, edited or not;
- a passage of 13 words or 26 characters of Chinese, word for word, is a leak of an evaluation file. Not so of the
  held-out share of the corpus itself: there it would take all that quotes a proverb or a licence.
A document that holds text of an evaluation file is dropped. Where training holds a held-out text it is the held-out one
that goes: the smaller of the two, and one instead of all that quote it.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_utils.preparation.duplicates import KEPT, SignatureFolder, write_array
from data_utils.preparation.shingles import SHINGLE_TOKENS, WORD, Shingles, Tokens, find_shingles, find_tokens
from errors import InputError

LEAST_CONTAINMENT = 0.5
LEAST_SHINGLES = 20
PASSAGE = 13 * WORD
COMMON_TEXTS = 16  # a shingle of more evaluation texts than this is a turn of phrase
MAX_ENTRIES = 2**24  # 200 MB; of more held-out text every second, third... shingle is taken
BITS = 27  # of a bitmap of 16 MB, that says of most shingles at once that they are not in the index
ENTRY = np.dtype([("hash", "<u8"), ("text", "<i8")])


def make_entries(shingles: Shingles, chosen: np.ndarray, first_text: int) -> np.ndarray:
    """Return an ENTRY for each shingle of the chosen texts of a batch, whose texts are numbered from `first_text`."""
    texts = np.repeat(np.arange(len(shingles.bounds) - 1), np.diff(shingles.bounds))
    wanted = np.isin(texts, chosen)
    entries: Any = np.zeros(int(wanted.sum()), ENTRY)
    entries["hash"], entries["text"] = shingles.hashes[wanted], texts[wanted] + first_text
    return entries


def build_index(evaluation: np.ndarray, held_out: np.ndarray, evaluation_texts: int) -> "LeakIndex":
    """Return the index: evaluation texts are numbered from 0, held-out ones after them."""
    hashes, texts = (np.concatenate([evaluation[name], held_out[name]]) for name in ("hash", "text"))
    order = np.lexsort((texts, hashes))
    hashes, texts = hashes[order], texts[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
    hashes, texts = hashes[new], texts[new]
    first = np.ones(len(hashes), bool)
    first[1:] = hashes[1:] != hashes[:-1]
    counts = np.diff(np.append(np.flatnonzero(first), len(hashes)))
    rare = np.repeat(counts <= COMMON_TEXTS, counts)
    hashes, texts = hashes[rare], texts[rare]
    bitmap = np.zeros(2 ** (BITS - 3), np.uint8)
    slots = hashes >> np.uint64(64 - BITS)
    np.bitwise_or.at(bitmap, slots >> np.uint64(3), (1 << (slots & np.uint64(7))).astype(np.uint8))
    sizes = np.bincount(texts, minlength=evaluation_texts)
    hashes, starts = np.unique(hashes, return_index=True)
    bounds = np.append(starts, len(texts))
    return LeakIndex(hashes, bounds, texts, sizes, bitmap, np.array(evaluation_texts))


class Hits(NamedTuple):
    """The shingles of a batch that are in an index, (K,) each: document, number in the batch, range of its texts."""

    documents: np.ndarray
    shingles: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def choose(self, places: np.ndarray) -> "Hits":
        """Return those at some places."""
        return Hits(*(part[places] for part in self))


class LeakIndex(NamedTuple):
    """The shingles of all evaluation text; mapped from files where `load` opens it."""

    hashes: np.ndarray
    bounds: np.ndarray
    texts: np.ndarray
    sizes: np.ndarray
    bitmap: np.ndarray
    evaluation_texts: np.ndarray  # a number: how many of the texts are those of evaluation files

    @classmethod
    def load(cls, folder: Path) -> "LeakIndex":
        """Open an index that `write_index` wrote."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls._fields))

    def find(self, tokens: Tokens, shingles: Shingles) -> np.ndarray:
        """Return (document of the batch, evaluation text that it holds), (K, 2) int64 in order."""
        slots = (shingles.hashes >> np.uint64(64 - BITS)).astype(np.int64)
        hits = np.flatnonzero((self.bitmap.take(slots >> 3) >> (slots & 7).astype(np.uint8)) & 1)
        places = np.searchsorted(self.hashes, shingles.hashes[hits])
        is_found = self.hashes.take(places, mode="clip") == shingles.hashes[hits]
        hits, places = hits[is_found], places[is_found]
        documents = np.searchsorted(shingles.bounds, hits, side="right") - 1
        known = Hits(documents, hits, self.bounds[places], self.bounds[places + 1])
        found = np.union1d(self._contained(known), self._quoted(known, tokens, shingles))
        return np.stack([found // max(len(self.sizes), 1), found % max(len(self.sizes), 1)], axis=1)

    def _pair(self, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """Return a key for each hit and each text that has its shingle, (K,) document * texts + text, and the hit."""
        counts = hits.ends - hits.starts
        rows = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return hits.documents[rows] * len(self.sizes) + np.asarray(self.texts[hits.starts[rows] + within]), rows

    def _contained(self, hits: Hits) -> np.ndarray:
        # Each shingle counts once for a document; of one with few of them nothing can be contained.
        _, first = np.unique(hits.documents * (len(self.hashes) + 1) + hits.starts, return_index=True)
        many = np.bincount(hits.documents[first]) >= LEAST_CONTAINMENT * LEAST_SHINGLES
        first = first[many[hits.documents[first]]]
        keys, counts = np.unique(self._pair(hits.choose(first))[0], return_counts=True)
        sizes = self.sizes[keys % max(len(self.sizes), 1)]
        return keys[(sizes >= LEAST_SHINGLES) & (counts >= LEAST_CONTAINMENT * sizes)]

    def _quoted(self, hits: Hits, tokens: Tokens, shingles: Shingles) -> np.ndarray:
        # The texts of a shingle are in order, those of evaluation files first.
        chosen = hits.choose(np.flatnonzero(np.asarray(self.texts[hits.starts]) < self.evaluation_texts))
        keys, rows = self._pair(chosen)
        is_evaluation = keys % max(len(self.sizes), 1) < self.evaluation_texts
        keys, places = keys[is_evaluation], chosen.shingles[rows[is_evaluation]]
        order = np.lexsort((places, keys))
        keys, places = keys[order], shingles.places[places[order]]
        if not len(keys):
            return keys
        breaks = np.flatnonzero((keys[1:] != keys[:-1]) | (places[1:] != places[:-1] + 1)) + 1
        first, last = np.concatenate([[0], breaks]), np.concatenate([breaks - 1, [len(keys) - 1]])
        weights = np.concatenate([[0], np.cumsum(tokens.weights, dtype=np.int64)])
        lengths = weights[places[last] + SHINGLE_TOKENS] - weights[places[first]]
        return keys[first[lengths >= PASSAGE]]


def read_held_out_entries(folder: Path, signatures: SignatureFolder, fates: np.ndarray) -> np.ndarray:
    """Return the entries of all held-out documents that are kept, thinned where they would be too many."""
    paths = {rank: folder / f"{rank:05d}.npy" for rank in signatures.ranks}
    step = 1 + sum(path.stat().st_size for path in paths.values()) // (ENTRY.itemsize * MAX_ENTRIES)
    parts = [np.zeros(0, ENTRY)]
    for rank, offset in zip(signatures.ranks, signatures.offsets[:-1], strict=True):
        entries = np.load(paths[rank])
        entries["text"] += offset
        parts.append(entries[(entries["hash"] % np.uint64(step) == 0) & (fates[entries["text"]] == KEPT)])
    return np.concatenate(parts)


def write_index(work: Path, texts: list[tuple[str, str]]) -> None:
    """One task: the index of the evaluation `texts`, (place, text), and of what the corpus itself holds out."""
    signatures = SignatureFolder(work / "signatures")
    shingles = find_shingles(find_tokens([text for _, text in texts]))
    if len(shingles.hashes) > MAX_ENTRIES:
        raise InputError(f"--eval_files hold {len(shingles.hashes):,} words; at most {MAX_ENTRIES:,} can be watched")
    evaluation = make_entries(shingles, np.arange(len(texts)), 0)
    fates = np.load(work / "clusters" / "fates.npy", mmap_mode="r")
    held_out = read_held_out_entries(work / "held_out", signatures, fates)
    # Numbered without gaps, after the evaluation texts.
    documents, numbers = np.unique(held_out["text"], return_inverse=True)
    held_out["text"] = numbers + len(texts)
    write_array(work / "index" / "documents.npy", documents)
    for name, array in build_index(evaluation, held_out, len(texts))._asdict().items():
        write_array(work / "index" / f"{name}.npy", array)
    (work / "index" / "places.json").write_text(json.dumps([place for place, _ in texts]))


def write_leaks(rank: int, work: Path) -> None:
    """A task for each reading task: which of its documents hold evaluation text, and which held-out ones they hold.

    `leaks/RANK.npy` has (document, evaluation text or -1) of what is to be dropped.
    """
    index = LeakIndex.load(work / "index")
    held_out = np.load(work / "index" / "documents.npy", mmap_mode="r")
    offset = int(SignatureFolder(work / "signatures").offsets[rank])
    fates = np.load(work / "clusters" / "fates.npy", mmap_mode="r")
    leaks = [np.zeros((0, 2), np.int64)]
    file = pq.ParquetFile(work / "clean" / f"{rank:05d}.parquet", page_checksum_verification=True)
    for batch in file.iter_batches(64, columns=["text", "held_out"], use_threads=False):
        kept = fates[offset : offset + len(batch)] == KEPT
        documents = np.flatnonzero(kept) + offset
        offset += len(batch)
        texts = batch["text"].filter(pa.array(kept)).to_pylist()
        tokens = find_tokens(texts)
        holders, found = index.find(tokens, find_shingles(tokens)).T
        quotes = found < index.evaluation_texts
        leaks.append(np.stack([documents[holders[quotes]], found[quotes]], axis=1))
        # What is held out holds its own text.
        holds = ~quotes & ~np.asarray(batch["held_out"])[kept][holders]
        taken = np.unique(held_out[found[holds] - index.evaluation_texts])
        leaks.append(np.stack([taken, np.full(len(taken), -1)], axis=1))
    write_array(work / "leaks" / f"{rank:05d}.npy", np.concatenate(leaks))


def read_leaks(work: Path, first: int, last: int) -> dict[int, int]:
    """Return what is to be dropped of the documents from `first` to `last` - 1: document -> evaluation text or -1."""
    leaks: dict[int, int] = {}
    for path in sorted((work / "leaks").glob("*.npy")):
        found = np.load(path)
        leaks.update(found[(found[:, 0] >= first) & (found[:, 0] < last)].tolist())
    return leaks
