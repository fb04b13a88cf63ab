"""What must hold, and the ledger that watches it during a run."""

from typing import NamedTuple

__all__ = ["ENDS", "EXACTLY_ONCE", "INTACT", "Ledger", "NO_DEADLOCK", "NO_LOST_WAKE_UP", "ONE_NOTIFICATION", "Stream",
           "value_of"]

NO_LOST_WAKE_UP = "no lost wake-up: nobody sleeps without an event pending while messages are published for him"
NO_DEADLOCK = "no deadlock: a run stops only when every message is consumed"
EXACTLY_ONCE = "exactly once: messages are consumed in order, none twice, none left out"
INTACT = "intact: an entry holds its message by the time the index says so, and until it is consumed"
ONE_NOTIFICATION = "one sleep costs at most one notification"
ENDS = "every run ends: nobody goes round without progress"

MASK = 0xffffffff


def value_of(stream: int, start: int, index: int) -> int:
    """The message that belongs at an index: never 0, which fresh memory holds, and never equal in two streams."""
    return 100 * stream + (index - start & MASK) + 1


class Stream(NamedTuple):
    """One direction. `credit`: how many more notifications its producer may send, one a sleep of its consumer."""

    taken: int = 0
    credit: int = 1

    def consume(self, stream: int, start: int, index: int, value: int, again: bool) -> "tuple[Stream, str | None]":
        """The stream after a message was consumed, and the property that this breaks.

        `again` allows what was taken before to be taken once more (a backend's successor executes a request again).
        """
        position = index - start & MASK
        if value != value_of(stream, start, index):
            return self, INTACT
        if position > self.taken or (position < self.taken and not again):
            return self, EXACTLY_ONCE
        return self._replace(taken=max(self.taken, position + 1)), None


Ledger = tuple[Stream, Stream]
