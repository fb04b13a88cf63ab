"""The I/Os of a disk with several queues: a Reaper for each, and which queue an I/O takes.

RULES
- A read of up to PIECE_PAGES, a flush and a discard take their thread's queue. Threads are given the queues in turn: the
  first is the opener's, others get theirs at their first such I/O.
- The pieces of a longer read, of any write and of a stream take the queues in turn. So does each new batch, which stays
  on its queue.
- I/Os in flight have no order, on one queue or on two. What was answered on any queue is done before what is sent on any
  other one afterwards: so a flush, whichever queue it takes, covers every write that has returned.
- Queues are led one by one, by those who wait in them. The lock and the pool are common to all.
- A new connection may have fewer queues than the last: what was in flight on those that are gone goes to the others.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic

from xenpv.errors import XenpvError
from xenpv.latency import DiskLatency

from .buffers import Pool, Run
from .pieces import CONTROL_IOS, Moved, Piece
from .queue import Queue, Sample
from .reaper import MayFail, Reaper, added
from .stats import Counters


class _OfThread(threading.local):
    """This thread's turn."""

    def __init__(self, turns: Iterator[int]) -> None:
        self.turn = next(turns)


class Reapers(MayFail):
    """As Reaper, for a disk with several queues; how many there are is known when they are attached."""

    def __init__(self) -> None:
        super().__init__()
        self.on_broken: Callable[[], None] = lambda: None
        self.controls = threading.BoundedSemaphore(CONTROL_IOS)
        self._turns = itertools.count()
        self._mine = _OfThread(itertools.count())
        first = Reaper()
        self.lock = first.lock
        self._reapers = [self._ours(first)]

    def _ours(self, reaper: Reaper) -> Reaper:
        reaper.on_broken = lambda: self.on_broken()
        reaper.on_failed = self.fail
        return reaper

    # The device's side.

    def attach(self, queues: Sequence[Queue], pool: Pool) -> None:
        """I/O goes to `queues` from now on, first what their predecessors left unanswered."""
        left = list(queues)
        try:
            kept = self._reapers[:len(queues)]
            gone = self._reapers[len(queues):]
            while len(kept) < len(queues):
                kept.append(self._ours(Reaper(beside=kept[0])))
            self._reapers = kept  # before those that go say that they do
            for number, reaper in enumerate(gone):
                reaper.retire(kept[number % len(kept)])
            for reaper in kept:
                reaper.attach([left.pop(0)], pool)
        finally:
            for queue in left:
                queue.close()
        if self._failure is not None:
            for reaper in kept:
                reaper.fail(self._failure)  # also those that came

    def detach(self) -> None:
        """Close the queues, whoever waits in them. Their I/Os wait for the next ones, or for fail()."""
        for reaper in self._reapers:
            reaper.detach()

    def pause(self) -> None:
        """Submit nothing new: whoever wants to waits until attach() or fail()."""
        for reaper in self._reapers:
            reaper.pause()

    def fail(self, error: XenpvError) -> None:
        """No I/O any more, on any queue. The first error stays."""
        with self.lock:
            if self._failure is not None:
                return
            self._failure = error
        for reaper in self._reapers:
            reaper.fail(error)

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is in flight. False: the time is over, or a queue is gone."""
        deadline = monotonic() + timeout
        return all([reaper.drain(deadline - monotonic()) for reaper in self._reapers])

    # What is counted.

    def each(self) -> list[Reaper]:
        """All of them, in the queues' order."""
        return list(self._reapers)

    def counters(self) -> Counters:
        """Of these queues and of all their predecessors."""
        return sum((reaper.counters() for reaper in self._reapers), Counters())

    def latency(self) -> DiskLatency | None:
        """How long requests took, on all queues together; None when they are not measured."""
        total: DiskLatency | None = None
        for reaper in self._reapers:
            total = added(reaper.latency(), total)
        return total

    def samples(self) -> list[Sample]:
        """What the queues have of stamped requests, one after the other."""
        return [sample for reaper in self._reapers for sample in reaper.samples()]

    def set_ahead(self, time_ahead_ns: int | None) -> None:
        """The clock of stamps was tied anew; None: there is no time for now."""
        for reaper in self._reapers:
            reaper.set_ahead(time_ahead_ns)

    def set_time_page(self, address: int) -> None:
        """Stamps come from another page of dom0's: every queue reads it when this returns."""
        for reaper in self._reapers:
            reaper.set_time_page(address)

    # I/Os.

    def the_pool(self) -> Pool:
        """The pool, which is one for all. Raises the failure."""
        self.check()
        return self._reapers[0].the_pool()

    def one(self) -> Reaper:
        """The one for an owner to stay with: each in turn."""
        return self._in_turn(next(self._turns))

    def perform(self, piece: Piece) -> int:
        """Send it on this thread's queue and wait until it is done: its status."""
        while True:
            reaper = piece.home = self._in_turn(self._mine.turn)
            try:
                return reaper.perform(piece)
            except Moved:
                if piece.home is not reaper:
                    return self.wait(piece)  # sent, before its queue went

    def submit(self, pieces: Sequence[Piece]) -> None:
        """Send them, each on the next queue. Raises the failure; those that were sent are given up then, as all are."""
        for piece in pieces:
            while True:
                reaper = piece.home = self._in_turn(next(self._turns))
                try:
                    reaper.submit([piece])
                    break
                except Moved:
                    continue  # not sent: submit() does not wait

    def wait(self, piece: Piece) -> int:
        """Until it is done: its status. Raises the failure."""
        while True:
            try:
                return (piece.home or self._reapers[0]).wait(piece)
            except Moved:
                continue

    def leave(self, piece: Piece) -> None:
        """Its waiter goes: the run is given back now if it is done, else when it is."""
        with self.lock:  # so that it does not move meanwhile
            (piece.home or self._reapers[0]).leave(piece)

    def abandoned(self) -> Piece | None:
        """One in flight on any queue whose waiter has gone, if there is one."""
        return next((piece for reaper in self._reapers if (piece := reaper.abandoned()) is not None), None)

    def give(self, run: Run) -> None:
        """Give a run back on which nothing is in flight; also when the disk has failed."""
        self._reapers[0].give(run)

    def _in_turn(self, turn: int) -> Reaper:
        reapers = self._reapers
        return reapers[turn % len(reapers)]
