"""Figures of checkpoints with their uncertainty: what each item adds, intervals by bootstrap, differences by pairs."""

from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache

import numpy as np

RESAMPLES = 1000
TOGETHER = 50  # resamples that are computed at once: one of BLiMP's pairs has half a megabyte
CONFIDENCE = (2.5, 97.5)  # percentiles of the resamples
SEED = 0


@dataclass
class Figure:
    """A figure of one checkpoint: the sum of its items' `values` by the sum of their `weights`.

    An item is what varies by chance: a document, a pair, a prompt. One of no weight was given, and left out of this
    figure alone. `unit` is "bits/byte", "%" or a plain number's.
    """

    name: str
    values: list[float]
    weights: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)  # of each item, for shares by phenomenon
    _: KW_ONLY
    part: str
    unit: str = "%"
    lower_is_better: bool = False

    def __post_init__(self) -> None:
        self.weights = self.weights or [1.0] * len(self.values)

    @property
    def value(self) -> float:
        """The figure itself."""
        return float(self.find_ratios(np.ones((1, len(self.values))), np.arange(len(self.values)))[0])

    @property
    def measured(self) -> np.ndarray:
        """The numbers of the items that have a weight."""
        return np.flatnonzero(self.weights)

    def find_ratios(self, counts: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the figure (R) where each of the numbered items (N) counts so often (R, N)."""
        pair = np.array([self.values, self.weights], dtype=np.float64)[:, items].T
        parts = [counts[i : i + TOGETHER].astype(np.float64) @ pair for i in range(0, len(counts), TOGETHER)]
        values, weights = np.concatenate(parts).T
        return values / np.maximum(weights, 1e-12)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of the figure; None where a single item says nothing of chance."""
        items = self.measured
        if len(items) < 2:
            return None
        low, high = np.percentile(self.find_ratios(resample(len(items)), items), CONFIDENCE)
        if self.unit == "%" and low == high and low in (0, 1):
            # All alike: a bootstrap would be certain. As far off as leaves what was seen a chance of 2.5%.
            rest = 1 - 0.025 ** (1 / len(items))
            low, high = (0.0, rest) if low == 0 else (1 - rest, 1.0)
        return float(low), float(high)

    def as_record(self) -> dict:
        """Return the figure, its interval and the number of its items, for a file."""
        record = {name: getattr(self, name) for name in ("name", "part", "unit", "lower_is_better", "value")}
        record |= {"interval": self.interval(), "items": len(self.measured)}
        members: dict[str, list[float]] = {}
        for group, value in zip(self.groups, self.values, strict=False):
            members.setdefault(group, []).append(value)
        groups = {group: sum(values) / len(values) for group, values in sorted(members.items())}
        return record | ({"groups": groups} if groups else {})


@lru_cache(maxsize=32)  # of BLiMP's 67,000 pairs it takes five seconds
def resample(items: int) -> np.ndarray:
    """Return how often each of N items is drawn in each of R resamples of N, (R, N), the same for the same N."""
    draw, even = np.random.default_rng(SEED), np.full(items, 1 / items)
    parts = [draw.multinomial(items, even, size=TOGETHER).astype(np.uint8) for _ in range(0, RESAMPLES, TOGETHER)]
    return np.concatenate(parts)


def compare_figures(figure: Figure, other: Figure) -> int:
    """Return 1 where a figure is better than another's, -1 where it is worse, 0 where the difference may be chance.

    It is that of the items which both have, drawn together: chance is what the 95% interval holds.

    >>> a, b = (Figure("pairs", [*values, 1.0], part="pairs") for values in ([0, 1, 0, 1] * 30, [1] * 120))
    >>> compare_figures(b, a), compare_figures(a, b), compare_figures(a, a)
    (1, -1, 0)
    """
    items = np.intersect1d(figure.measured, other.measured)
    if len(items) < 2:
        return 0
    counts = resample(len(items))
    differences = figure.find_ratios(counts, items) - other.find_ratios(counts, items)
    low, high = np.percentile(differences, CONFIDENCE)
    sign = int(low > 0) - int(high < 0)
    return -sign if figure.lower_is_better else sign
