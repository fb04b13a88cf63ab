"""The sequence word's algorithm with one fault each, and the property that must catch it."""

from __future__ import annotations

from .memory import Order
from .operations import Steps, consume, fence, load, release, store
from .properties import MASK
from .seqlock_model import (FORWARD, NS, QUIET, SEQUENCE, TICK, TRIES, UNTORN, UPDATES, Found, Reader, Writer,
                            ns_of)

__all__ = ["MUTANTS"]


class NeverOdd(Writer):
    """The word changes only after the fields."""

    def begin(self, odd: int) -> Steps[None]:
        yield from ()


class OddAfterAField(Writer):
    """The word becomes odd when a field is new already."""

    def update(self, tick: int) -> Steps[None]:
        word = yield load(SEQUENCE)
        odd = word | 1
        yield store(TICK, tick)
        yield store(SEQUENCE, odd)
        yield fence()
        yield store(NS, ns_of(tick))
        yield release(SEQUENCE, odd + 1 & MASK)


class EvenBeforeAField(Writer):
    """The word is even again before the last field."""

    def update(self, tick: int) -> Steps[None]:
        word = yield load(SEQUENCE)
        odd = word | 1
        yield store(SEQUENCE, odd)
        yield fence()
        yield store(TICK, tick)
        yield release(SEQUENCE, odd + 1 & MASK)
        yield store(NS, ns_of(tick))


class NoFenceBehindOdd(Writer):
    """Fields may overtake the odd word where stores are not ordered."""

    def begin(self, odd: int) -> Steps[None]:
        yield store(SEQUENCE, odd)


class OddReleased(Writer):
    """A store-release in place of the fence: it orders what comes before it, not what comes after."""

    def begin(self, odd: int) -> Steps[None]:
        yield release(SEQUENCE, odd)


class EvenNotReleased(Writer):
    """The even word may overtake the fields where stores are not ordered."""

    def end(self, even: int) -> Steps[None]:
        yield store(SEQUENCE, even)


class StaysOdd(Writer):
    """The word is never even again."""

    def end(self, even: int) -> Steps[None]:
        yield from ()


class BackToTheSameWord(Writer):
    """The word is a lock and no counter: even again, it is what it was."""

    def end(self, even: int) -> Steps[None]:
        yield release(SEQUENCE, even - 2 & MASK)


class EarlierTick(Writer):
    """The clock was set back, and the page follows it."""

    def fields(self, tick: int) -> Steps[None]:
        yield store(TICK, UPDATES + 1 - tick)
        yield store(NS, ns_of(UPDATES + 1 - tick))


class NoSecondLook(Reader):
    """The fields are believed because the word was even before."""

    def attempt(self) -> Steps[Found]:
        before = yield load(SEQUENCE)
        if before & 1:
            return None
        tick = yield load(TICK)
        ns = yield load(NS)
        return tick, ns


class SecondLookTooEarly(Reader):
    """The word is looked at again before the last field."""

    def attempt(self) -> Steps[Found]:
        before = yield load(SEQUENCE)
        if before & 1:
            return None
        tick = yield load(TICK)
        after = yield load(SEQUENCE)
        ns = yield load(NS)
        return (tick, ns) if after == before else None


class FieldBeforeTheWord(Reader):
    """A field is read before the first look."""

    def attempt(self) -> Steps[Found]:
        tick = yield load(TICK)
        before = yield load(SEQUENCE)
        if before & 1:
            return None
        ns = yield load(NS)
        after = yield load(SEQUENCE)
        return (tick, ns) if after == before else None


class OddIsTakenToo(Reader):
    """Only that the word is the same is asked for."""

    def attempt(self) -> Steps[Found]:
        before = yield load(SEQUENCE)
        tick = yield load(TICK)
        ns = yield load(NS)
        after = yield load(SEQUENCE)
        return (tick, ns) if after == before else None


class EvenIsEnough(Reader):
    """Only that the word is even both times is asked for."""

    def attempt(self) -> Steps[Found]:
        before = yield load(SEQUENCE)
        if before & 1:
            return None
        tick = yield load(TICK)
        ns = yield load(NS)
        after = yield load(SEQUENCE)
        return None if after & 1 else (tick, ns)


class HandsOverWhatIsLeft(Reader):
    """After the last try the fields are handed over as they were found."""

    def read(self) -> Steps[None]:
        tries = 0
        tick = ns = 0
        while tries < TRIES:
            tries += 1
            before = yield load(SEQUENCE)
            tick = yield load(TICK)
            ns = yield load(NS)
            after = yield load(SEQUENCE)
            if after == before and not before & 1:
                break
        yield consume(0, tick, ns)


MUTANTS: list[tuple[type[Writer] | type[Reader], Order, str]] = [
    (NeverOdd, Order.TSO, UNTORN),
    (OddAfterAField, Order.TSO, UNTORN),
    (EvenBeforeAField, Order.TSO, UNTORN),
    (NoFenceBehindOdd, Order.PSO, UNTORN),
    (OddReleased, Order.PSO, UNTORN),
    (EvenNotReleased, Order.PSO, UNTORN),
    (StaysOdd, Order.TSO, QUIET),
    (BackToTheSameWord, Order.TSO, UNTORN),
    (NoSecondLook, Order.TSO, UNTORN),
    (SecondLookTooEarly, Order.TSO, UNTORN),
    (FieldBeforeTheWord, Order.TSO, UNTORN),
    (OddIsTakenToo, Order.TSO, UNTORN),
    (EvenIsEnough, Order.TSO, UNTORN),
    (HandsOverWhatIsLeft, Order.TSO, UNTORN),
    (EarlierTick, Order.TSO, FORWARD),
]
"""The fault, the memory where it shows, and the property that it breaks there."""
