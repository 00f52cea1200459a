"""In which order rows are trained on: computed from a row's number, whatever the number of processes, in no memory."""

from math import prod

import numpy as np
import torch

from data_utils.rows.streams import TokenStream

ROUNDS = 6  # of the Feistel network; four are enough for order, two more cost a microsecond
MASK = 2**64 - 1


def scramble(value: int) -> int:
    """Return 64 bits that look random, the same for the same value (splitmix64: Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def permute_index(index: int, size: int, key: int) -> int:
    """Return where `index` of 0 to `size` - 1 goes in the permutation of that `key`, without making the others.

    A Feistel network over the next power of four, walked again while it falls outside (Black and Rogaway 2002, "Ciphers
    with arbitrary finite domains"): under four walks on average, at any size.

    >>> sorted(permute_index(i, 10, key=7) for i in range(10)) == list(range(10))
    True
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for step in range(ROUNDS):
            left, right = right, left ^ (scramble(key + (right << 8) + step) & mask)
        index = (left << half) | right
        if index < size:
            return index


def find_draw(row: int, weights: list[int]) -> tuple[int, int]:
    """Return (source, number of the draw from it) for a row of an endless mix of sources by weight.

    The k-th draw from a source of weight w stands at (k + 1/2) / w, so every stretch of rows holds the sources in their
    shares, and the first sum(weights) rows hold `weights` draws exactly.

    >>> [find_draw(row, [2, 1])[0] for row in range(6)]
    [0, 1, 0, 0, 1, 0]
    """
    total = sum(weights)
    counts = [(2 * weight * row + total) // (2 * total) for weight in weights]
    unit = prod(weights)  # places as whole numbers, so that nothing is rounded
    while sum(counts) > row:  # off by half the number of sources at most
        drawn = [s for s, count in enumerate(counts) if count]
        counts[max(drawn, key=lambda s: ((2 * counts[s] - 1) * unit // weights[s], s))] -= 1
    while True:
        source = min(range(len(weights)), key=lambda s: ((2 * counts[s] + 1) * unit // weights[s], s))
        if sum(counts) == row:
            return source, counts[source]
        counts[source] += 1


class Mixture(torch.utils.data.Dataset):
    """Rows of T tokens from several token streams, mixed by weight and shuffled over all of each; read as needed.

    A row is determined by its number and the seed alone: neither by the number of processes, nor by what was read
    before. A source begins anew, in another order, when each of its blocks has been drawn once.
    """

    def __init__(
        self,
        streams: list[TokenStream],
        block_tokens: int,
        seed: int,
        times: list[float] | None = None,
        weights: list[float] | None = None,
        step_rows: int = 1,
    ) -> None:
        """Mix streams by size, each repeated so many `times` in an epoch, or in the shares of `weights`.

        `step_rows` are the rows of an optimizer step: an epoch ends with a whole step, at any number of processes, and
        the next one goes on where it ended.
        """
        self.streams, self.block_tokens, self.seed = streams, block_tokens, seed
        self.blocks = [len(stream) // block_tokens for stream in streams]
        if weights:
            self.weights, rows = [max(1, round(weight * 10**6)) for weight in weights], sum(self.blocks)
        else:
            times = times or [1] * len(streams)
            self.weights = [max(1, round(n * repeat)) for n, repeat in zip(self.blocks, times, strict=True)]
            rows = sum(self.weights)
        self.rows = rows if rows < step_rows else rows // step_rows * step_rows
        self.first_row = 0

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; Trainer calls it."""
        self.first_row = epoch * self.rows

    def locate(self, row: int) -> tuple[int, int]:
        """Return (source, block of that source) of a row of the whole run."""
        source, draw = find_draw(row, self.weights)
        epoch, index = divmod(draw, self.blocks[source])
        key = scramble(scramble(self.seed) + (source << 32) + epoch)
        return source, permute_index(index, self.blocks[source], key)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.rows:
            raise IndexError(index)
        source, block = self.locate(self.first_row + index)
        return {"input_ids": self.streams[source].read(block * self.block_tokens, self.block_tokens).astype(np.int32)}

    def count_epochs(self, rows: float) -> list[float]:
        """Return how often each source is read through in a run of so many rows."""
        total = sum(self.weights)
        return [rows * weight / total / blocks for weight, blocks in zip(self.weights, self.blocks, strict=True)]
