"""Counts the seconds of a run: all of them, from the start of the process on, each in one part."""

from train_utils.clock import process_seconds

OVERHEAD = ("evaluation", "samples", "saving")  # what a run pays beside its training


class Stopwatch:
    """Seconds by part; `lap` ends a part, which began where the one before ended."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = 0.0

    def lap(self, part: str) -> None:
        """Count the time since the last lap to a part."""
        now = process_seconds()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def describe(self) -> str:
        """Return the parts with their shares of the whole, largest first.

        >>> watch = Stopwatch()
        >>> watch.seconds = {"start": 5.0, "steps": 90.0, "evaluation": 3.0, "saving": 2.0}
        >>> watch.describe()
        'steps 90 s (90%), start 5 s (5%), evaluation 3 s (3%), saving 2 s (2%)'
        """
        total = max(sum(self.seconds.values()), 1e-9)
        parts = sorted(self.seconds.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {seconds:.0f} s ({seconds / total:.0%})" for name, seconds in parts)

    def overhead(self) -> float:
        """Return the share of evaluation, samples and saving in the whole."""
        total = max(sum(self.seconds.values()), 1e-9)
        return sum(self.seconds.get(part, 0.0) for part in OVERHEAD) / total
