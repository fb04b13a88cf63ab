"""A disk's counters, for people: added up over every ring that the disk has had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Counters:
    """What `struct xenpv_front_stats` (core/api.h) counts; requests are those of the ring, all operations together."""

    requests: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    errors: int = 0
    events: int = 0
    """Event channel events taken."""
    notifications: int = 0
    """Sent to the backend."""
    notifications_saved: int = 0
    """Publishes that needed none."""
    sleeps: int = 0
    spins: int = 0
    spins_futile: int = 0
    """Spins that ended in sleep."""
    indirect: int = 0
    """Of the requests, those whose segments stood in pages of their own."""
    rescues: int = 0
    """A second without progress, mended by one more notification: 0 unless something is wrong."""
    stages: int = 0
    """Stamped requests whose stages are all known: of the sums below, in the unit of the stamps."""
    stages_unknown: int = 0
    """No time was to be had, or it was disrupted in between."""
    stages_wrong: int = 0
    """What the backend says of its stages cannot be."""
    time_queued: int = 0
    """Submit to fetch."""
    time_waited: int = 0
    """Fetch to the storage's start."""
    time_stored: int = 0
    time_answered: int = 0
    """The storage's end to the response."""
    time_reaped: int = 0
    """Response to reap."""
    time_total: int = 0
    """Submit to reap, by this end's own two stamps."""

    @classmethod
    def of(cls, counters: Mapping[str, Any]) -> Self:
        """From what `Queue.stats` gives."""
        values = dict(counters)
        values["requests"] = sum(values["requests"].values())
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def notifications_per_1000(self) -> float:
        """Notifications sent per 1,000 requests; 0 before the first request."""
        return 1000 * self.notifications / self.requests if self.requests else 0.0

    def lines(self) -> list[str]:
        """A few lines for people."""
        return [
            f"{self.requests} requests, {self.bytes_read} bytes read, {self.bytes_written} written, "
            f"{self.errors} errors",
            f"{self.notifications} notifications sent ({self.notifications_per_1000:.1f} per 1,000 requests), "
            f"{self.notifications_saved} saved, {self.rescues} rescues",
            f"{self.events} events taken, {self.sleeps} sleeps, {self.spins} spins, {self.spins_futile} in vain",
        ]
