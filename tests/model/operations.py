"""What a process of the model may do: one operation a step.

A process is a generator that yields operations and is sent each one's result. Between two operations it runs alone;
whatever else can happen, happens at the operations.
"""

from typing import Generator, NamedTuple, TypeVar

__all__ = ["Op", "Process", "Steps", "bind", "choose", "clear", "consume", "fence", "load", "notify", "release", "room",
           "store", "unmask", "wait"]

LOAD, STORE, RELEASE, FENCE, CHOOSE, ROOM, CONSUME, NOTIFY, WAIT, UNMASK, BIND, CLEAR = range(12)


class Op(NamedTuple):
    """One operation: `kind` and up to four numbers whose meaning is the constructor's below."""

    kind: int
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = -1

    def __str__(self) -> str:
        return _NAMES[self.kind] + "".join(f" {n:#x}" if n > 0xffff else f" {n}" for n in self[1:5] if n != -1)


_NAMES = ("load", "store", "store-release", "fence", "choose", "room", "consume", "notify", "wait", "unmask",
          "bind", "clear")

Result = TypeVar("Result")
Steps = Generator[Op, int, Result]
Process = Generator[Op, int, None]


def load(address: int) -> Op:
    """Read a cell: the process's own newest buffered store to it, else memory."""
    return Op(LOAD, address)


def store(address: int, value: int) -> Op:
    """Put a store into the process's buffer; it reaches memory some time later."""
    return Op(STORE, address, value)


def release(address: int, value: int) -> Op:
    """A store that reaches memory after every earlier store of this process, also where plain stores may overtake."""
    return Op(RELEASE, address, value)


def fence() -> Op:
    """A full fence: cannot pass before the process's buffer is empty."""
    return Op(FENCE)


def choose(count: int) -> Op:
    """A free choice; the result is any of 0 .. count - 1."""
    return Op(CHOOSE, count)


def room(address: int, produced: int, entries: int) -> Op:
    """Blocks until fewer than `entries` lie between the cell's index and `produced`. Orders nothing, costs no event."""
    return Op(ROOM, address, produced, entries)


def consume(stream: int, index: int, value: int, journal: int = -1) -> Op:
    """Hand a message over, for the properties to judge, and note it in the journal's cell in the same step."""
    return Op(CONSUME, stream, index, value, journal)


def bind(port: int) -> Op:
    """Bind a port, as a new process: what a predecessor stored has landed before."""
    return Op(BIND, port)


def notify(port: int) -> Op:
    """Send an event to a port. Not a fence."""
    return Op(NOTIFY, port)


def wait(port: int) -> Op:
    """Sleep until an event is delivered (result 1; the port is masked then) or for no reason at all (result 0)."""
    return Op(WAIT, port)


def unmask(port: int) -> Op:
    """Write the port back; a pending event can be delivered again."""
    return Op(UNMASK, port)


def clear(port: int) -> Op:
    """Throw away what is pending or delivered. The algorithm never does this; a mutant does."""
    return Op(CLEAR, port)
