"""Simulates the order of data at scale, with no model: 1,000 processes, 10 sources, 10^9 rows in their index form.

python -m benchmarks.order          # a minute of one core, 200 MB
python -m benchmarks.order --all    # each of the 10^9 rows too: some 15 minutes of one core, 1 GB

The sources are token streams as train.py reads them: their index, and shards of which only the size is there. Checked:
each row once an epoch (all rows of a small mixture of the same shape; at 10^9 a sample of rows that must all differ,
each source's share and, with --all, every place of each source's permutation); the rows of a step are the same after
a restart on another number of processes. Measured: what a process, a new one each time, takes to start and holds.
"""

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

from data_utils.caching import keep_json
from data_utils.rows.mixture import ROUNDS, Mixture, find_draw, permute_index, scramble
from data_utils.rows.shards import INDEX, SHARD_TOKENS, is_whole
from data_utils.rows.streams import TokenStream

SOURCES = (400, 200, 120, 80, 60, 50, 40, 25, 15, 10)  # thousandths of all rows
ROW_TOKENS, STEP_ROWS = 256, 8000
CHUNK = 2**17  # places of a permutation at once: they stay in the processor's cache


class Index:
    """A token stream of which only the length is known."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


def mix(rows: int, step_rows: int) -> Mixture:
    """Return a mixture by size of ten sources of so many rows of one token in all."""
    return Mixture([Index(rows * share // 1000) for share in SOURCES], 1, seed=7, step_rows=step_rows)


def write_streams(folder: Path, rows: int) -> None:
    """Write the ten sources as tokenized shards of so many rows in all: files that take no place on the disk."""
    for source, share in enumerate(SOURCES):
        place, left, shards = folder / str(source), rows * share // 1000 * ROW_TOKENS, []
        place.mkdir(parents=True)
        while left:
            tokens = min(left, SHARD_TOKENS)
            with (place / f"{len(shards):05d}.bin").open("wb") as file:
                file.truncate(2 * tokens)
            counts = {"documents": tokens // ROW_TOKENS, "bytes": 4 * tokens, "tokens": tokens}
            shards.append({"tokens": tokens, "next": [len(shards), 0], "languages": {"en": counts}})
            left -= tokens
        keep_json(place / INDEX, {"format": 3, "dtype": "uint16", "shards": shards})


def start_process(folder: str, process: int) -> tuple[float, int, float]:
    """Open the mixture and find the rows of 200 steps, as a process does; return seconds to start, bytes, µs a row.

    Only the first step's rows are read: how fast files of holes are is the disk's business.
    """
    before, begin = own_bytes(), time.perf_counter()
    places = [Path(folder) / str(source) for source in range(len(SOURCES))]
    assert all(map(is_whole, places))
    mixture = Mixture([TokenStream(place) for place in places], ROW_TOKENS, seed=7, step_rows=STEP_ROWS)
    start = time.perf_counter() - begin
    stride = max(1, len(mixture) // STEP_ROWS // 200)
    rows = [row for step in range(200) for row in rows_of(process, 1000, step * stride, STEP_ROWS)]
    rows = [row for row in rows if row < len(mixture)]
    assert all(mixture[row]["input_ids"].shape == (ROW_TOKENS,) for row in rows[:8])
    begin = time.perf_counter()
    for row in rows:
        mixture.locate(row)
    pace = (time.perf_counter() - begin) / len(rows)
    return start, own_bytes() - before, 1e6 * pace


def own_bytes() -> int:
    """Return the memory of this process alone: pages of files are the system's, which drops them as it likes."""
    held = psutil.Process().memory_info()
    return held.rss - held.shared


def rows_of(process: int, processes: int, step: int, step_rows: int) -> list[int]:
    """Return the numbers of the rows that a process gets in a step: batch after batch, as accelerate deals them."""
    passes = 4000 // processes  # of accumulation, so that a step has the same rows
    batch = step_rows // (processes * passes)
    starts = (step * step_rows + (number * processes + process) * batch for number in range(passes))
    return [row for start in starts for row in range(start, start + batch)]


def check_epoch(rows: int) -> str:
    """Raise AssertionError where a row of a small mixture comes twice or never; return what was seen."""
    small = mix(rows, 1)
    for epoch in range(2):
        seen = Counter(small.locate(row) for row in range(epoch * len(small), (epoch + 1) * len(small)))
        assert len(seen) == len(small) == sum(small.blocks), "a row is missing"
        assert set(seen.values()) == {1}, "a row came twice"
    return f"all {len(small):,} rows of a small mixture once in each of two epochs"


def check_large(mixture: Mixture, count: int) -> str:
    """Raise AssertionError where rows drawn from a large epoch meet, or sources have other shares."""
    drawn = random.Random(0).sample(range(len(mixture)), count)
    places = [mixture.locate(row) for row in drawn]
    assert len(set(places)) == count, "two rows are one document"
    shares = Counter(source for source, _ in places)
    worst = max(abs(shares[source] / count - share / 1000) for source, share in enumerate(SOURCES))
    assert worst < 0.01, "a source has another share"
    return f"{count:,} rows of {len(mixture):,} all differ; shares of the sources within {worst:.4f}"


def check_draws(mixture: Mixture, stretches: int, length: int = 1000) -> str:
    """Raise AssertionError where a source's draws leave a number out or repeat it, in stretches of the epoch."""
    chance, last = random.Random(1), {}
    for begin in [chance.randrange(len(mixture) - length) for _ in range(stretches)]:
        last = {}
        for row in range(begin, begin + length):
            source, draw = find_draw(row, mixture.weights)
            assert last.get(source, draw - 1) == draw - 1, "a draw is left out, or comes twice"
            last[source] = draw
    ends = dict(find_draw(row, mixture.weights) for row in range(sum(mixture.weights) - length, sum(mixture.weights)))
    assert ends == {source: blocks - 1 for source, blocks in enumerate(mixture.blocks)}, "an epoch ends elsewhere"
    return f"draws of each source one after the other in {stretches:,} stretches of {length:,} rows, all at the end"


def permute_all(size: int, key: int) -> np.ndarray:
    """Return whether each place of a permutation is gone to, as a count: `permute_index` of many places at once."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, seen = np.uint64((1 << half) - 1), np.zeros(size, np.uint8)
    for begin in range(0, size, CHUNK):
        index = np.arange(begin, min(begin + CHUNK, size), dtype=np.uint64)
        where = np.arange(len(index))
        found = np.empty_like(index)
        while len(where):
            left, right = index >> np.uint64(half), index & mask
            for step in range(ROUNDS):
                mixed = scramble(np.uint64(key % 2**64) + (right << np.uint64(8)) + np.uint64(step))
                left, right = right, left ^ (mixed & mask)
            index = (left << np.uint64(half)) | right
            inside = index < size
            found[where[inside]] = index[inside]
            index, where = index[~inside], where[~inside]
        sample = random.Random(begin).sample(range(len(found)), min(20, len(found)))
        assert all(found[i] == permute_index(begin + i, size, key) for i in sample), "not the product's permutation"
        seen[found] += 1  # one that comes twice among these leaves another one out
    return seen


def check_permutations(mixture: Mixture) -> str:
    """Raise AssertionError where a permutation of a source goes to a place twice or never."""
    with np.errstate(over="ignore"):
        for source, size in enumerate(mixture.blocks):
            seen = permute_all(size, scramble(scramble(mixture.seed) + (source << 32)))
            assert seen.min() == seen.max() == 1, "a place is gone to twice or never"
    return f"all {sum(mixture.blocks):,} places of the sources' permutations once"


def check_restart(mixture: Mixture, step_rows: int) -> str:
    """Raise AssertionError where a step has other rows on another number of processes; return what was seen."""
    for step in (0, 12_345, len(mixture) // step_rows - 1):
        sets = []
        for processes in (1000, 250, 8):
            sets.append(
                sorted(row for process in range(processes) for row in rows_of(process, processes, step, step_rows))
            )
        assert sets[0] == sets[1] == sets[2] == list(range(step * step_rows, (step + 1) * step_rows))
        own = rows_of(999, 1000, step, step_rows)
        assert [mixture.locate(row) for row in own] == [mix(len(mixture), step_rows).locate(row) for row in own]
    return "the rows of three steps are the same on 1,000, 250 and 8 processes, and after a restart"


def measure(rows: int) -> None:
    """Print what the first, the middle and the last of 1,000 processes take to start and hold, each a new one."""
    with tempfile.TemporaryDirectory() as folder:
        write_streams(Path(folder), rows)
        shards = sum(1 for _ in Path(folder).glob("*/*.bin"))
        for process in (0, 500, 999):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                start, held, pace = pool.apply(start_process, (folder, process))
            print(
                f"{rows:,} rows in {shards:,} shards, process {process} of 1,000: {1e3 * start:.0f} ms to start, "
                f"{held / 1e6:.1f} MB held, {pace:.0f} µs to find a row",
                flush=True,
            )


def main() -> int:
    """Check and measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--drawn", type=int, default=50_000)
    parser.add_argument("--all", action="store_true", help="every place of the permutations of --rows")
    args = parser.parse_args()
    large = mix(args.rows, STEP_ROWS)
    print(check_epoch(args.small))
    print(check_large(large, args.drawn))
    print(check_draws(large, 50))
    print(check_restart(large, STEP_ROWS), flush=True)
    for rows in sorted({10**6, args.rows // 10, args.rows}):
        measure(rows)
    if args.all:
        print(check_permutations(large))
    return 0


if __name__ == "__main__":
    sys.exit(main())
