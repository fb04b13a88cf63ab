"""The time page's sequence word, once more, over load, store and fence.

RULES (docs/time-page.md; xenpv/core/timepage.c has the same steps)
1. Writer: the word becomes odd; a fence; the fields; the word becomes even by store-release. It starts from the word as
   it stands, made odd.
2. Reader: the word; the fields if it is even; the word again. Only if it is the same are the fields handed over. At most
   TRIES times, then the read has failed.

One writer that makes UPDATES updates, one reader that reads twice. The writer may stand still for ever at any step,
which is how it dies: what the reader does then is among the states searched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

from . import operations as ops
from .memory import Buffer, Cells, Order, drain, drainable, read
from .operations import Process, Steps, consume, fence, load, release, store
from .properties import MASK
from .scheduler import Program, State, Step

__all__ = ["FORWARD", "Found", "NS", "QUIET", "Reader", "SEQUENCE", "SeqlockMachine", "TICK", "TRIES", "UNTORN",
           "UPDATES", "Writer", "ns_of"]

Found = tuple[int, int] | None
"""Tick and nanoseconds, or nothing to be believed."""
SEQUENCE, TICK, NS = range(3)
UPDATES, TRIES, READS = 2, 2, 2
UNTORN = "untorn: tick and nanoseconds that are handed over belong together"
FORWARD = "forward: a later read hands over no earlier tick"
QUIET = "quiet: when the writer rests the word is even and the fields are its last"


def ns_of(tick: int) -> int:
    """The nanoseconds that belong to a tick, unlike every other number here."""
    return 100 + tick


class Writer:
    """Writes ticks 1 .. UPDATES, or dies on the way."""

    def __init__(self) -> None:
        self.tick = 0

    def snapshot(self) -> int:
        """What can change, for the scheduler to compare."""
        return self.tick

    def update(self, tick: int) -> Steps[None]:
        """One write of the page."""
        word = yield load(SEQUENCE)
        odd = word | 1
        yield from self.begin(odd)
        yield from self.fields(tick)
        yield from self.end(odd + 1 & MASK)

    def begin(self, odd: int) -> Steps[None]:
        """Before the fields."""
        yield store(SEQUENCE, odd)
        yield fence()

    def fields(self, tick: int) -> Steps[None]:
        """Both of them."""
        yield store(TICK, tick)
        yield store(NS, ns_of(tick))

    def end(self, even: int) -> Steps[None]:
        """Behind the fields."""
        yield release(SEQUENCE, even)

    def run(self) -> Process:
        """All of them."""
        while self.tick < UPDATES:
            self.tick += 1
            yield from self.update(self.tick)


class Reader:
    """Reads twice and hands over what it believes."""

    def __init__(self) -> None:
        self.reads = 0

    def snapshot(self) -> int:
        """What can change, for the scheduler to compare."""
        return self.reads

    def read(self) -> Steps[None]:
        """One read of the page."""
        tries = 0
        while tries < TRIES:
            tries += 1
            found = yield from self.attempt()
            if found:
                yield consume(0, *found)
                return

    def attempt(self) -> Steps[Found]:
        """One try."""
        before = yield load(SEQUENCE)
        if before & 1:
            return None
        tick = yield load(TICK)
        ns = yield load(NS)
        after = yield load(SEQUENCE)
        return (tick, ns) if after == before else None

    def run(self) -> Process:
        """Both of them."""
        while self.reads < READS:
            self.reads += 1
            yield from self.read()


class _State(NamedTuple):
    cells: Cells
    buffer: Buffer
    at: tuple[int, int]
    handed: int


class SeqlockMachine:
    """One writer, with a store buffer, and one reader, which stores nothing."""

    def __init__(self, order: Order, start: int = 0, writer: type[Writer] = Writer, reader: type[Reader] = Reader) -> None:
        self.order = order
        self.start = start
        self.programs = (Program(lambda: writer().run()), Program(lambda: reader().run()))

    def initial(self) -> State:
        """A valid page of tick 0."""
        return _State((self.start, 0, ns_of(0)), (), (0, 0), 0)

    def steps(self, state: State) -> Iterable[Step]:
        """Every step of either, and every store that may land."""
        now = cast(_State, state)
        for position in drainable(now.buffer, self.order):
            address, value, _ = now.buffer[position]
            cells, buffer = drain(now.cells, now.buffer, position)
            yield Step(("store lands:", address, value), now._replace(cells=cells, buffer=buffer))
        op = self.programs[0].op(now.at[0])
        if op is not None and not (op.kind == ops.FENCE and now.buffer):
            result, buffer = 0, now.buffer
            if op.kind == ops.LOAD:
                result = read(now.cells, buffer, op.a)
            elif op.kind in (ops.STORE, ops.RELEASE):
                buffer = (*buffer, (op.a, op.b, op.kind == ops.RELEASE))
            at = self.programs[0].step(now.at[0], result)
            yield Step(("writer", op), now._replace(buffer=buffer, at=(at, now.at[1])))
        op = self.programs[1].op(now.at[1])
        if op is not None:
            broken, handed, result = None, now.handed, 0
            if op.kind == ops.CONSUME:
                broken = UNTORN if op.c != ns_of(op.b) else FORWARD if op.b < handed else None
                handed = op.b
            else:
                result = now.cells[op.a]
            at = self.programs[1].step(now.at[1], result)
            yield Step(("reader", op, "->", result), now._replace(at=(now.at[0], at), handed=handed), broken)

    def judge_end(self, state: State) -> str | None:
        """All stores have landed and both have ended."""
        cells = cast(_State, state).cells
        return QUIET if cells[SEQUENCE] & 1 or cells[TICK:] != (UPDATES, ns_of(UPDATES)) else None
