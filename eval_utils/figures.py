"""Figures of checkpoints with their uncertainty: what each item adds, intervals by bootstrap, differences by pairs."""

from dataclasses import KW_ONLY, dataclass, field

import numpy as np

RESAMPLES = 1000
CONFIDENCE = (2.5, 97.5)  # percentiles of the resamples
SEED = 0


@dataclass
class Figure:
    """A figure of one checkpoint: the sum of its items' `values` by the sum of their `weights`.

    An item is what varies by chance: a document, a pair, a prompt. `unit` is "bits/byte", "%" or a plain number's.
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
        return float(self.find_ratios(np.ones((1, len(self.values))))[0])

    def find_ratios(self, counts: np.ndarray, items: int | None = None) -> np.ndarray:
        """Return the figure (R) where each of the first `items` counts so often (R, N)."""
        values, weights = (np.asarray(part, dtype=np.float64)[:items] for part in (self.values, self.weights))
        return (counts @ values) / np.maximum(counts @ weights, 1e-12)

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of the figure; None where a single item says nothing of chance."""
        if len(self.values) < 2:
            return None
        low, high = np.percentile(self.find_ratios(resample(len(self.values))), CONFIDENCE)
        if self.unit == "%" and low == high and low in (0, 1):
            # All alike: a bootstrap would be certain. As far off as leaves what was seen a chance of 2.5%.
            rest = 1 - 0.025 ** (1 / len(self.values))
            low, high = (0.0, rest) if low == 0 else (1 - rest, 1.0)
        return float(low), float(high)

    def as_record(self) -> dict:
        """Return the figure, its interval and the number of its items, for a file."""
        record = {name: getattr(self, name) for name in ("name", "part", "unit", "lower_is_better", "value")}
        record |= {"interval": self.interval(), "items": len(self.values)}
        members: dict[str, list[float]] = {}
        for group, value in zip(self.groups, self.values, strict=False):
            members.setdefault(group, []).append(value)
        groups = {group: sum(values) / len(values) for group, values in sorted(members.items())}
        return record | ({"groups": groups} if groups else {})


def resample(items: int) -> np.ndarray:
    """Return how often each of N items is drawn in each of R resamples of N, (R, N), the same for the same N."""
    draw = np.random.default_rng(SEED)
    return draw.multinomial(items, np.full(items, 1 / items), size=RESAMPLES).astype(np.float64)


@dataclass(frozen=True)
class Difference:
    """How a figure differs from another checkpoint's on the same items, with its 95% interval."""

    value: float
    low: float
    high: float
    is_better: bool

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def compare_figures(figure: Figure, other: Figure) -> Difference | None:
    """Return how a figure differs from another's on the items that both have, drawn together; None where none do.

    >>> a, b = (Figure("pairs", [*values, 1.0], part="pairs") for values in ([0, 1, 0, 1] * 30, [1] * 120))
    >>> difference = compare_figures(b, a)
    >>> round(difference.value, 2), difference.is_better, difference.beyond_chance
    (0.5, True, True)
    """
    items = min(len(figure.values), len(other.values))
    if items < 2:
        return None
    counts, whole = resample(items), np.ones((1, items))
    found = figure.find_ratios(counts, items) - other.find_ratios(counts, items)
    value = float((figure.find_ratios(whole, items) - other.find_ratios(whole, items))[0])
    low, high = np.percentile(found, CONFIDENCE)
    return Difference(value, float(low), float(high), (value < 0) == figure.lower_is_better and value != 0)
