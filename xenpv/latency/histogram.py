"""A histogram of whole steps of a clock, log-linear: exact below 128 steps, then 64 buckets to a power of two.

RULES
- The middle of a bucket is within 0.79 % of every value in it. The sum is exact, and so are the least and the greatest
  value of a histogram that nothing was subtracted from.
- Nothing is dropped and nothing saturates unseen: what is negative is in `underflow`, what is LIMIT or more in
  `overflow`, and both are in `count` and in `total`.
- A value is the difference of two readings of a clock that stands still between its steps: a difference of v steps is a
  time of more than v - 1 and less than v + 1. So a quantile is an interval, and of a coarse clock a wide one.

core/latency.h counts into the same buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

__all__ = ["BITS", "BUCKETS", "LIMIT", "Bucket", "Histogram", "bounds_of", "bucket_of"]

BITS = 6
"""log2 of the buckets to a power of two."""
LIMIT = 1 << 27
"""The first value that has no bucket: 134 s of microseconds."""
_STEPS = 1 << BITS
BUCKETS = (LIMIT.bit_length() - 1 - BITS + 1) << BITS
"""How many there are: 1408."""


def bucket_of(value: int) -> int:
    """The number of the bucket of `value`, which is not negative; a Histogram has those of values below LIMIT."""
    shift = max(value.bit_length() - 1 - BITS, 0)
    return (shift << BITS) + (value >> shift)


def bounds_of(number: int) -> tuple[int, int]:
    """The least and the greatest value of bucket `number`."""
    shift = max((number >> BITS) - 1, 0)
    low = (number - (shift << BITS)) << shift
    return low, low + (1 << shift) - 1


class Bucket(NamedTuple):
    """`counted` values from `low` to `high`, both included."""

    low: int
    high: int
    counted: int


class Histogram:
    """Counts of values, which are whole steps of a clock."""

    __slots__ = ("_buckets", "_greatest", "_least", "overflow", "total", "underflow")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._least: int | None = None
        self._greatest: int | None = None
        self.total = 0
        """The sum of all values."""
        self.underflow = 0
        """Values below 0: the clocks of the two ends differ by so much."""
        self.overflow = 0
        """Values of LIMIT and more."""

    @classmethod
    def of(cls, buckets: Mapping[int, int], *, total: int, underflow: int = 0, overflow: int = 0, least: int = -1,
           greatest: int = LIMIT) -> Self:
        """From counts by the number of the bucket. `least` counts where there is underflow alone; no value is above
        `greatest`, as far as the buckets allow it.
        """
        made = cls()
        made._buckets = {number: count for number, count in buckets.items() if count}
        made.total, made.underflow, made.overflow = total, underflow, overflow
        if made.count:
            first = bounds_of(min(made._buckets)) if made._buckets else (LIMIT, LIMIT)
            last = bounds_of(max(made._buckets)) if made._buckets else (-1, -1)
            made._least = min(least, -1) if underflow else first[0]
            made._greatest = max(greatest, LIMIT) if overflow else min(max(greatest, last[0]), last[1])
        return made

    def record(self, value: int, count: int = 1) -> None:
        """Count `value` `count` times."""
        if count <= 0:
            return
        if value < 0:
            self.underflow += count
        elif value >= LIMIT:
            self.overflow += count
        else:
            number = bucket_of(value)
            self._buckets[number] = self._buckets.get(number, 0) + count
        self.total += value * count
        self._least = value if self._least is None else min(self._least, value)
        self._greatest = value if self._greatest is None else max(self._greatest, value)

    @property
    def count(self) -> int:
        """Of all values, those of under- and overflow too."""
        return sum(self._buckets.values()) + self.underflow + self.overflow

    @property
    def zeros(self) -> int:
        """Values of 0: less than one step."""
        return self._buckets.get(0, 0)

    @property
    def zero_share(self) -> float | None:
        """`zeros` of all, 0 to 1; None when nothing was counted. Near 1 the clock is too coarse for a median."""
        return self.zeros / self.count if self.count else None

    @property
    def mean(self) -> float | None:
        """Exact, and of a coarse clock still honest; None when nothing was counted."""
        return self.total / self.count if self.count else None

    @property
    def max(self) -> int | None:
        """The greatest value; after a subtraction at the most its bucket's greatest, and -1 where all are below 0."""
        return self._greatest

    @property
    def min(self) -> int | None:
        """The least value's bucket's least; exact below 128 and below 0, where it has not been subtracted from."""
        return self._least

    def merge(self, other: Histogram) -> None:
        """Count all that `other` counted."""
        for number, count in other._buckets.items():
            self._buckets[number] = self._buckets.get(number, 0) + count
        self.total += other.total
        self.underflow += other.underflow
        self.overflow += other.overflow
        leasts = [value for value in (self._least, other._least) if value is not None]
        greatests = [value for value in (self._greatest, other._greatest) if value is not None]
        self._least, self._greatest = min(leasts, default=None), max(greatests, default=None)

    def __add__(self, other: Histogram) -> Self:
        made = type(self)()
        made.merge(self)
        made.merge(other)
        return made

    def __sub__(self, earlier: Histogram) -> Self:
        """What was counted since `earlier`, a snapshot of the same histogram; of another one, all of it."""
        grown = {number: count - earlier._buckets.get(number, 0) for number, count in self._buckets.items()}
        under, over = self.underflow - earlier.underflow, self.overflow - earlier.overflow
        if under < 0 or over < 0 or min(grown.values(), default=0) < 0 or earlier._buckets.keys() - grown.keys():
            return self + type(self)()  # it began anew
        return self.of(grown, total=self.total - earlier.total, underflow=under, overflow=over,
                       least=-1 if self._least is None else self._least,
                       greatest=LIMIT if self._greatest is None else self._greatest)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self._buckets, self.total, self.underflow, self.overflow, self._greatest) == (
            other._buckets, other.total, other.underflow, other.overflow, other._greatest)

    __hash__ = None  # type: ignore[assignment]

    def quantile(self, q: float) -> tuple[int, int] | None:
        """The steps between which the time lies that the share `q` (0 to 1) did not exceed (nearest rank).

        None when nothing was counted. What is in `underflow` has its interval below zero, what is in `overflow` between
        LIMIT and the greatest.
        """
        if self._least is None or self._greatest is None:
            return None
        rank = max(1, math.ceil(round(q * self.count, 6)))
        for low, high, count in self.intervals():
            rank -= count
            if rank <= 0:
                break
        low, high = max(low, self._least), min(high, self._greatest)
        return (max(low - 1, 0) if low >= 0 else low - 1), high + 1

    def buckets(self) -> Iterator[Bucket]:
        """Those that have counts, in order. What has none is in `underflow` and `overflow`."""
        for number in sorted(self._buckets):
            yield Bucket(*bounds_of(number), self._buckets[number])

    def intervals(self) -> Iterator[Bucket]:
        """The same with under- and overflow before and behind, as far as values go."""
        if self.underflow:
            yield Bucket(self._least or -1, -1, self.underflow)
        yield from self.buckets()
        if self.overflow:
            yield Bucket(LIMIT, self._greatest or LIMIT, self.overflow)

    def to_json(self) -> dict[str, Any]:
        """In steps; `buckets` are [least, greatest, count]."""
        quantiles = {f"p{100 * q:g}": self.quantile(q) for q in (0.5, 0.9, 0.99, 0.999)}
        return {"count": self.count, "total": self.total, "mean": self.mean, "min": self.min, "max": self.max,
                **quantiles, "zero_share": self.zero_share, "underflow": self.underflow, "overflow": self.overflow,
                "buckets": [list(bucket) for bucket in self.buckets()]}
