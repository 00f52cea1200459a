"""Hides parts of documents, so that an encoder reads what is left and a decoder writes what was hidden.

A row of tokens is cut to its documents; of each some tokens go from the source to the target. Joined again, source and
target are the document: nothing is lost.
"""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from data_utils.caching import cache_key, generate_rows
from data_utils.rows.encoder_decoder import ROW_FEATURES, join_sides
from data_utils.rows.packing import VariedRows

SHORTEST = 2  # tokens of a piece: one is read and one is written
STEPS = 12  # of the search for a row's shares


@dataclass(frozen=True)
class Kind:
    """One way to hide tokens: a share of each document, drawn from `low` to `high`, in spans of `span` tokens.

    Where a row's total asks for more than that share, the spans are longer, so that no row has many sentinels.
    Without `span` the end is hidden, and no sentinel stands for it: the document is gone on with.
    """

    low: float
    high: float
    span: int | None = None


SEQUENTIAL, REGULAR, EXTREME = Kind(0.0, 1.0), Kind(0.15, 0.15, 3), Kind(0.5, 0.5, 16)
# What --denoise chooses: its kinds, one drawn for each document, and the share of a row that is hidden. Sources: Raffel
# et al. 2020, section 3.3 (spans); Tay et al. 2022, section 3.1 (the mixture, UL2).
DENOISERS = {
    "prefix": ((SEQUENTIAL,), 0.5),
    "spans": ((REGULAR,), 0.15),
    "mixed": ((SEQUENTIAL, REGULAR, EXTREME), 0.4),
}


def cut_documents(ids: np.ndarray, end_id: int) -> list[np.ndarray]:
    """Cut the ids of a row after each end token; a piece of one token stays with the next one, the last with its own.

    >>> [piece.tolist() for piece in cut_documents(np.array([0, 5, 6, 0, 7, 8, 9]), 0)]
    [[0, 5, 6, 0], [7, 8, 9]]
    """
    cuts, start = [], 0
    for place in np.flatnonzero(ids == end_id) + 1:
        if place - start >= SHORTEST and len(ids) - place >= SHORTEST:
            cuts.append(place)
            start = place
    return np.split(ids, cuts)


def cut_long(pieces: list[np.ndarray], longest: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut pieces of more than `longest` tokens in two at a random place, so that sources of any length are seen."""
    cut = []
    for piece in pieces:
        is_long = len(piece) > longest and len(piece) >= 2 * SHORTEST
        cut += np.split(piece, [rng.integers(SHORTEST, len(piece) - SHORTEST + 1)]) if is_long else [piece]
    return cut


def share_out(wanted: np.ndarray, lengths: np.ndarray, total: int) -> np.ndarray:
    """Return how many tokens of each piece are hidden: near its wanted share, together `total`, each less one at most.

    >>> share_out(np.array([0.2, 0.9]), np.array([10, 10]), 10).tolist()
    [2, 8]
    """
    room = lengths - 1
    low, high = -1.0, 1.0
    for _ in range(STEPS):  # what is added to all shares
        shift = (low + high) / 2
        counts = np.floor(np.clip(wanted + shift, 0, 1) * room + 0.5).astype(int)
        low, high = (shift, high) if counts.sum() < total else (low, shift)
    counts = np.floor(np.clip(wanted + high, 0, 1) * room + 0.5).astype(int)
    while excess := counts.sum() - total:  # pieces whose shares round at the same place
        free = np.flatnonzero(counts > 0 if excess > 0 else counts < room)
        if not len(free):
            break
        counts[free[: abs(excess)]] -= np.sign(excess)
    return counts


def split_randomly(total: int, rng: np.random.Generator, *, parts: int, least: int) -> np.ndarray:
    """Return `parts` random numbers of at least `least` that are `total` together."""
    cuts = np.sort(rng.integers(0, total - parts * least + 1, parts - 1)) if parts > 1 else np.empty(0, int)
    return np.diff(np.concatenate([[0], cuts, [total - parts * least]])) + least


def hide_spans(
    ids: np.ndarray, hidden: int, spans: int, sentinels: list[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide so many tokens of ids in so many spans; return the source with sentinels, and them with what they hide.

    Between two spans a token stays. Source: Raffel et al. 2020, figure 2.
    """
    hidden_lengths = split_randomly(hidden, rng, parts=spans, least=1)
    kept = split_randomly(len(ids) - hidden - (spans - 1), rng, parts=spans + 1, least=0)
    kept[1:-1] += 1
    source, target, place = [], [], 0
    for sentinel, before, length in zip(sentinels, kept, hidden_lengths, strict=False):
        start, place = place + before, place + before + length
        source += [ids[start - before : start], [sentinel]]
        target += [[sentinel], ids[start:place]]
    return np.concatenate([*source, ids[place:]]), np.concatenate(target)


def denoise(
    ids: np.ndarray,
    how: str,
    *,
    end_id: int,
    sentinels: list[int],
    rng: np.random.Generator,
    share: float | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (source, target) of each document, or piece of one, in a row of ids.

    `how` is one of DENOISERS; `share` of the ids are hidden, where it is None as many as that says, and one at least.
    """
    kinds, usual = DENOISERS[how]
    total = max(round((usual if share is None else share) * len(ids)), 1)
    pieces = cut_long(cut_documents(ids, end_id), len(ids) // 2, rng)
    lengths = np.array([len(piece) for piece in pieces])
    chosen = [kinds[number] for number in rng.integers(len(kinds), size=len(pieces))]
    wanted = np.array([rng.uniform(kind.low, kind.high) for kind in chosen])
    pairs = []
    for piece, kind, hidden in zip(pieces, chosen, share_out(wanted, lengths, total), strict=True):
        if kind.span is None or hidden == 0:
            pairs.append((piece[: len(piece) - hidden], piece[len(piece) - hidden :]))
        else:
            most = min(len(sentinels), hidden, len(piece) - hidden + 1)
            spans = min(max(1, round(kind.high * len(piece) / kind.span)), most)
            pairs.append(hide_spans(piece, hidden, spans, sentinels, rng))
    return pairs


class DenoisedRows(VariedRows):
    """Rows of text of which parts are hidden."""

    def __init__(
        self, blocks, how: str, *, end_id: int, start_id: int, sentinels: list[int], share: float | None = None
    ) -> None:
        super().__init__(blocks)
        self.how, self.share = how, share
        self.end_id, self.start_id, self.sentinels = end_id, start_id, sentinels

    def vary_row(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the row as sources and targets."""
        pairs = denoise(ids, self.how, end_id=self.end_id, sentinels=self.sentinels, rng=rng, share=self.share)
        return join_sides(pairs, self.start_id)


def denoise_blocks(blocks: Dataset, how: str, **settings) -> Dataset:
    """Return held-out rows of text with parts hidden, the same at each evaluation; `settings` as DenoisedRows."""
    rows = DenoisedRows(blocks, how, **settings)
    key = cache_key("denoise_blocks", blocks._fingerprint, how, *settings.values())
    return generate_rows(lambda: iter(rows), ROW_FEATURES, key, "hiding parts")
