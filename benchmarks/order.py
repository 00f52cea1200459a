"""Simulates the order of data at scale, with no model: 1,000 processes, 10 sources, 10^9 rows in their index form.

python -m benchmarks.order        # a minute of one core

Checked: each row once an epoch (all rows of a small mixture of the same shape; at 10^9 a sample of rows that must all
differ, and each source's share); the rows of a step are the same after a restart on another number of processes; what a
process holds and how long it takes to start don't grow with the number of rows.
"""

import argparse
import random
import sys
import time
import tracemalloc
from collections import Counter

from data_utils.rows.mixture import Mixture

SOURCES = (400, 200, 120, 80, 60, 50, 40, 25, 15, 10)  # thousandths of all rows


class Index:
    """A token stream of which only the length is known."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows


def mix(rows: int, step_rows: int) -> Mixture:
    """Return a mixture by size of ten sources of so many rows of one token in all."""
    return Mixture([Index(rows * share // 1000) for share in SOURCES], 1, seed=7, step_rows=step_rows)


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


def measure(rows: int, step_rows: int) -> tuple[float, int, float]:
    """Return seconds to start, bytes that a process holds, and microseconds a row."""
    tracemalloc.start()
    begin = time.perf_counter()
    mixture = mix(rows, step_rows)
    start = time.perf_counter() - begin
    begin = time.perf_counter()
    for row in range(0, len(mixture), len(mixture) // 2000):
        mixture.locate(row)
    pace = (time.perf_counter() - begin) / 2000
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return start, held, 1e6 * pace


def main() -> int:
    """Check and measure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10**9)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--drawn", type=int, default=50_000)
    args = parser.parse_args()
    step_rows = 8000
    large = mix(args.rows, step_rows)
    print(check_epoch(args.small))
    print(check_large(large, args.drawn))
    print(check_restart(large, step_rows))
    for rows in (10**6, args.rows):
        start, held, pace = measure(rows, step_rows)
        print(f"{rows:,} rows: {1e3 * start:.2f} ms to start, {held / 1e3:.1f} kB held, {pace:.0f} µs a row")
    return 0


if __name__ == "__main__":
    sys.exit(main())
