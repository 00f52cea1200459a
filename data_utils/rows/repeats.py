"""Lets a passage of some rows stand in them twice, so that a small model learns to copy what it has read.

A second reading can be told from the first alone, which text of a few million tokens rarely lets a model learn: names
and topics are copied so. Source: Olsson et al. 2022, of models that learn it from repeated sequences. Measured:
benchmarks/LOG.md.
"""

import numpy as np

from data_utils.rows.packing import VariedRows

SHORTEST = 8  # tokens of a passage; the longest has 0.4 of a row


class RepeatedRows(VariedRows):
    """Rows of text, in a share of which a passage stands again later."""

    kind = 1

    def __init__(self, blocks, share: float) -> None:
        super().__init__(blocks)
        self.share = share

    def vary_row(self, ids: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return the row as it is, or with a passage that stands twice."""
        return {"input_ids": repeat_passage(ids, rng) if rng.random() < self.share else ids}


def repeat_passage(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ids (T) of which a passage, wherever it stands, replaces a later one of its length.

    >>> repeat_passage(np.arange(24), np.random.default_rng(0)).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 4, 5, 6, 7, 8, 9, 10, 11, 12, 23]
    """
    longest = len(ids) * 2 // 5
    if longest < SHORTEST:
        return ids
    size = int(rng.integers(SHORTEST, longest + 1))
    start = int(rng.integers(len(ids) - 2 * size + 1))
    place = int(rng.integers(start + size, len(ids) - size + 1))
    return np.concatenate([ids[:place], ids[start : start + size], ids[place + size :]])
