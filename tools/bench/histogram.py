"""A histogram of times: exact below 128 ns, then 64 steps to a power of two, so within 1.6 %. fio's is built alike."""

from __future__ import annotations

from collections import Counter

_BITS = 6
_STEPS = 1 << _BITS


def bucket(ns: int) -> int:
    """The number of the bucket that `ns` falls into. Negative times count as zero."""
    if ns < _STEPS:
        return max(ns, 0)
    shift = ns.bit_length() - 1 - _BITS
    return (shift << _BITS) + (ns >> shift)


def middle(number: int) -> float:
    """The middle of bucket `number`, ns."""
    if number < 2 * _STEPS:
        return float(number)
    shift = (number >> _BITS) - 1
    return ((number - (shift << _BITS)) << shift) + ((1 << shift) - 1) / 2


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
