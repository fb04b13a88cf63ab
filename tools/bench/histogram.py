"""A histogram of times in the buckets of xenpv.latency: exact below 128 ns, then 64 steps to a power of two, so within 1.6 %.
fio's is built alike. Unlike the one there it has no limit: of nanoseconds that would be a tenth of a second.
"""

from __future__ import annotations

from collections import Counter

from xenpv.latency.histogram import bounds_of, bucket_of


def bucket(ns: int) -> int:
    """The number of the bucket that `ns` falls into. Negative times count as zero."""
    return bucket_of(max(ns, 0))


def middle(number: int) -> float:
    """The middle of bucket `number`, ns."""
    return sum(bounds_of(number)) / 2


class Histogram:
    """Counts of times in ns."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.total = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count `ns` `count` times."""
        self._counts[bucket(ns)] += count
        self.total += count

    def percentile(self, percent: float) -> float | None:
        """The time in ns that `percent` of a hundred did not exceed (nearest rank); None when nothing was counted."""
        rank, seen = self.total * percent / 100, 0
        for number in sorted(self._counts):
            seen += self._counts[number]
            if seen >= rank:
                return middle(number)
        return None
