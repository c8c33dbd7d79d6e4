"""Percentiles of millions of durations, in a few hundred counters."""

import math

from collections import Counter


#: Each bucket is so much wider than the one before: percentiles are right to 5 %.
_STEP = math.log(1.05)
_SMALLEST = 1e-6


class Spread:
    """Durations in seconds; ``largest`` is exact. One thread adds."""

    def __init__(self) -> None:
        self.largest = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self.largest = max(self.largest, seconds)
        self._counts[int(math.log(max(seconds, _SMALLEST)) / _STEP)] += 1

    def percentile(self, share: float) -> float | None:
        """Return what *share* of all are not longer than; None without any."""
        wanted = math.ceil(self._counts.total() * share)
        seen = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(self.largest, math.exp(bucket * _STEP))
        return None

    def include(self, other: "Spread") -> None:
        """Count all of another one's too."""
        self.largest = max(self.largest, other.largest)
        self._counts.update(other._counts)  # noqa: SLF001 - one of us
