"""I/Os in flight on one ring of a disk, and who waits for them. A disk with several has one of these for each (reapers.py).

RULES
- There is no thread here. Of those who wait, one leads: it waits in the core and takes what is done for all; the others
  wait for it. A leader that has its own hands the lead on.
- Who sets `led` to True is inside a `try` whose `finally` sets it to False, in its first statement, and then calls
  tell(): the exception of a signal's handler comes between calls, and nothing may be led for ever by nobody.
- `led` is set to False without the lock. So who sets it to True reads it in the same statement, in which no other thread
  runs (CPython changes threads at calls and at jumps back).
- Whoever submits while another leads does not wait in the core; the queue interrupts the leader for it.
- Pages are given back only when no I/O on them is in flight: an I/O whose waiter went away is kept until it is done.
- A queue may be taken away and another put in its place: what was not answered is submitted there again.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from time import monotonic

from xenpv.errors import ClosedError, DeviceError, LocalProtocolError, RemoteProtocolError, XenpvError
from xenpv.latency import DiskLatency

from .books import Books
from .buffers import Pool, Run
from .pieces import CONTROL_IOS, NONE, Moved, Owner, Piece
from .queue import IO_BYTES, IoArray, Queue, Sample
from .stats import Counters


def added(now: DiskLatency | None, past: DiskLatency | None) -> DiskLatency | None:
    """Both together; by another clock or without one, `past` says nothing beside `now`."""
    return now + past if now is not None and past is not None and now.is_like(past) else now or past


class MayFail:
    """Has an error once there is no I/O any more."""

    def __init__(self) -> None:
        self._failure: XenpvError | None = None

    @property
    def failure(self) -> XenpvError | None:
        return self._failure

    def check(self) -> None:
        """Raises the failure, if there is one; a fresh copy, since many threads may raise it."""
        if self._failure is not None:
            raise type(self._failure)(str(self._failure))


class Reaper(MayFail):
    """The I/Os of one ring. `on_broken` is called when the backend broke the ring's rules, after fail().

    `beside`: another one of the same disk, whose lock and owners' numbers are this one's too; so I/Os can go from one's
    books into the other's. `on_failed` is called with the error when it fails for the first time, without the lock.
    """

    def __init__(self, beside: Reaper | None = None) -> None:
        super().__init__()
        # Not the Condition, whose __exit__ a signal may keep from releasing it.
        self.lock: threading.RLock = threading.RLock() if beside is None else beside.lock
        self.changed = threading.Condition(self.lock)
        self.controls = threading.BoundedSemaphore(CONTROL_IOS)
        self.pool: Pool | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self.on_failed: Callable[[XenpvError], None] = lambda error: None
        self._queue: Queue | None = None
        self._paused = False
        self.led = False
        self._waiting = 0  # at least so many as do: one that was interrupted may count on
        self._cookies = 0
        self._pieces: dict[int, Piece] = {}
        self._owners: dict[int, Owner] = {}
        self._numbers: Iterator[int] = itertools.count(1) if beside is None else beside._numbers
        self._done = IoArray(64)
        self._singles: list[IoArray] = []
        self._past = Counters()
        self._past_latency: DiskLatency | None = None

    # The device's side: which queue there is.

    def attach(self, queues: Sequence[Queue], pool: Pool) -> None:
        """I/O goes to the one of `queues` from now on, first what its predecessor left unanswered."""
        (queue,) = queues
        with self.lock, contextlib.ExitStack() as undo:
            undo.callback(queue.close)
            while self.led:  # who leads may have answers of the old queue in its hands
                self._wait(None)
            self.pool = pool
            left = b"".join(owner.unanswered() for owner in self._owners.values())
            count = len(self._pieces) + len(left) // IO_BYTES
            if count:
                array = IoArray(count)
                for index, piece in enumerate(self._pieces.values()):
                    piece.put(array, index)
                array.raw[len(self._pieces) * IO_BYTES:] = left
                queue.exchange(array, 0, count, NONE)
            undo.pop_all()
            self._queue = queue
            self._paused = False
            self.changed.notify_all()

    def detach(self) -> None:
        """Close the queue, whoever waits in it. Its I/Os wait for the next one, or for fail()."""
        with self.lock:
            queue, self._queue = self._queue, None
        if queue is not None:
            self._past += Counters.of(queue.stats())
            self._past_latency = self._since(queue)
            queue.close()

    def pause(self) -> None:
        """Submit nothing new: whoever wants to waits until attach() or fail()."""
        with self.lock:
            self._paused = True

    def fail(self, error: XenpvError) -> None:
        """No I/O any more: everybody who waits or comes gets `error`'s words. The first error stays."""
        with self.lock:
            first = self._failure is None
            if first:
                self._failure = error
            self.changed.notify_all()
            queue = self._queue
        if queue is not None:
            try:
                queue.exchange(NONE, 0, 0, NONE)  # whoever waits in the core comes out
            except (ClosedError, RemoteProtocolError):
                pass  # it is out already
        if first:
            self.on_failed(error)

    def drain(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until nothing is in flight. False: the time is over, or the queue is gone."""
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            with self.lock:
                queue = self._queue
                if queue is None or self._failure is not None:
                    return False
                lead, self.led = not self.led, True
                if not lead:
                    self._wait(min(left, 0.05))
            if lead:
                try:
                    if not queue.pending:
                        return True
                    self.turn(queue, NONE, 0, self._done, at_least=1, timeout=left)
                except XenpvError:
                    return False  # turn() has told everybody
                finally:
                    self.led = False
                    self.tell()
        return False

    def counters(self) -> Counters:
        """Of this queue and of all its predecessors."""
        with self.lock:
            queue, past = self._queue, self._past
        if queue is None:
            return past
        try:
            return past + Counters.of(queue.stats())
        except ClosedError:
            return self._past

    def _since(self, queue: Queue) -> DiskLatency | None:
        """Of `queue` and of its predecessors by the same clock."""
        return added(queue.latency(), self._past_latency)

    def latency(self) -> DiskLatency | None:
        """How long requests took; None when they are not measured."""
        with self.lock:
            queue = self._queue
        if queue is not None:
            with contextlib.suppress(ClosedError):
                return self._since(queue)
        return self._past_latency

    def samples(self) -> list[Sample]:
        """What the queue has of stamped requests."""
        with self.lock:
            queue = self._queue
        if queue is None:
            return []
        with contextlib.suppress(ClosedError):
            return queue.samples()
        return []

    def set_ahead(self, time_ahead_ns: int | None) -> None:
        """The clock of stamps was tied anew; None: there is no time for now."""
        with self.lock:
            queue = self._queue
        if queue is not None:
            queue.set_ahead(time_ahead_ns)

    def set_time_page(self, address: int) -> None:
        """Stamps come from another page of dom0's."""
        with self.lock:
            queue = self._queue
        if queue is not None:
            queue.set_time_page(address)

    def the_pool(self) -> Pool:
        """The pool, which a disk that was opened has. Raises the failure."""
        self.check()
        if self.pool is None:
            raise DeviceError("the disk was never connected")
        return self.pool

    # What only a disk with several of these needs.

    def one(self) -> Reaper:
        """The one for an owner to stay with."""
        return self

    def each(self) -> list[Reaper]:
        """All of them."""
        return [self]

    def retire(self, heir: Reaper) -> None:
        """There is no queue for this one any more: all its books go into `heir`'s, which is beside it.

        Whoever comes, or waits for a queue, gets Moved; a queue that it had was detached before.
        """
        with self.lock:
            while self.led:
                self._wait(None)
            for piece in self._pieces.values():
                heir.book(piece)
                piece.home = heir
            for number, owner in self._owners.items():
                heir._owners[number] = owner
                owner.moved(heir)
            heir._past += self._past
            heir._past_latency = added(heir._past_latency, self._past_latency)
            self._pieces, self._owners = {}, {}
            self._failure = Moved("this queue is gone")
            self.changed.notify_all()

    # Single I/Os.

    def perform(self, piece: Piece) -> int:
        """Send it and wait until it is done: its status. One call of the core's when nobody else waits."""
        lead = False
        try:
            with self.lock:
                queue = self._usable()
                array = self._singles.pop() if self._singles else IoArray(1)
                self.book(piece)
                piece.put(array, 0)
                lead, self.led = not self.led, True
            self.turn(queue, array, 1, self._done if lead else NONE, at_least=int(lead))
        finally:
            if lead:
                self.led = False
                self.tell()
        self._singles.append(array)
        return self.wait(piece)

    def submit(self, pieces: Sequence[Piece]) -> None:
        """Send them. Raises the failure, and then none was sent."""
        array = IoArray(len(pieces))
        with self.lock:
            queue = self._usable()
            for index, piece in enumerate(pieces):
                self.book(piece)
                piece.put(array, index)
        self.turn(queue, array, len(pieces), NONE)

    def wait(self, piece: Piece) -> int:
        """Until it is done: its status. Raises the failure."""
        while True:
            lead = False
            try:
                with self.lock:
                    while piece.status is None and (self.led or self._queue is None):
                        self.check()
                        self._wait(None)
                    if piece.status is not None:
                        return piece.status
                    self.check()
                    lead = self.led = True
                while piece.status is None and (queue := self._queue) is not None and self._failure is None:
                    self.turn(queue, NONE, 0, self._done, at_least=1)
            finally:
                if lead:
                    self.led = False
                    self.tell()

    def leave(self, piece: Piece) -> None:
        """Its waiter goes: the run is given back now if it is done, else when it is."""
        with self.lock:
            if piece.status is None and self._pieces.get(piece.cookie) is piece:
                piece.abandoned = True
                return
        self._give(piece)

    def abandoned(self) -> Piece | None:
        """One in flight whose waiter has gone, if there is one."""
        with self.lock:
            return next((piece for piece in self._pieces.values() if piece.abandoned), None)

    def give(self, run: Run) -> None:
        """Give a run back on which nothing is in flight; also when the disk has failed."""
        if self.pool is not None:
            self.pool.give(run)

    # Owners, which bring their own arrays.

    def join(self, owner: Owner) -> int:
        """The number for the high half of the owner's cookies."""
        with self.lock:
            number = next(self._numbers)
            self._owners[number] = owner
            return number

    def part(self, number: int) -> None:
        """The pair of join(): it has nothing in flight any more, or its queue is gone."""
        with self.lock:
            self._owners.pop(number, None)

    def lead(self, owner: Owner, count: int) -> tuple[Queue, bool]:
        """The queue for `owner` to submit `count` I/Os to, and whether it leads now: then it ends that as RULES say.

        Who does not lead has them in its books from this moment on, who does when it submits them. Raises the failure.
        """
        lead = False
        try:
            with self.lock:
                queue = self._queue
                if queue is None or self._paused or self._failure is not None:
                    queue = self._usable()
                lead, self.led = not self.led, True
                if count and not lead:
                    owner.submitting(count)
            return queue, lead
        except BaseException:
            if lead:
                self.led = False
            raise

    def tell(self) -> None:
        """Something changed for those who wait: nobody leads any more."""
        with self.lock:
            if self._waiting:
                self.changed.notify_all()

    def follow(self, enough: Callable[[], bool], timeout: float | None) -> None:
        """Wait until something changed, at most `timeout` seconds, while somebody else leads or there is no queue."""
        with self.lock:
            self.check()
            if (self.led or self._queue is None) and not enough():
                self._wait(timeout)

    def turn(self, queue: Queue, array: IoArray, count: int, done: IoArray, *, at_least: int = 0,
             timeout: float | None = None) -> None:
        """One exchange; what is done goes to whom it belongs. With `done` other than NONE the caller leads."""
        try:
            self.route(done, self.exchange(queue, array, count, done, at_least=at_least, timeout=timeout))
        except XenpvError:
            raise
        except BaseException:
            self.audit()
            raise

    def audit(self) -> None:
        """An exception of a signal's handler came between: the disk fails if the books and the ring differ by that."""
        with self.lock:
            queue = self._queue
            if queue is None:
                return
            known = len(self._pieces) + sum(owner.outstanding for owner in self._owners.values())
        if known != queue.pending:
            self.fail(DeviceError("the disk was interrupted while it sent I/Os or took answers: open it again"))

    def exchange(self, queue: Queue, array: IoArray, count: int, done: IoArray, *, at_least: int = 0,
                 timeout: float | None = None) -> int:
        """The queue's exchange: how many are done. On a signal, and when the queue was taken away meanwhile, none.

        What the queue's rules say of its errors is done here, for all. Raises RemoteProtocolError.
        """
        try:
            accepted, n = queue.exchange(array, 0, count, done, at_least=at_least, timeout=timeout)
        except (InterruptedError, ClosedError):
            return 0  # submitted; or in the books, from which the next queue takes it
        except RemoteProtocolError as error:
            self._broken(error)
            raise
        if accepted != count:
            excess = LocalProtocolError(f"the queue took {accepted} of {count} I/Os, fewer than it was made for")
            self.fail(excess)
            raise excess
        return n

    def exchange_batch(self, queue: Queue, books: Books, op: int, count: int, at: int, *, at_least: int,
                       timeout: float | None) -> int:
        """The same for a leader's batch, whose books are kept on the way."""
        try:
            return queue.exchange_batch(books.batch, op, count, at, at_least=at_least, timeout=timeout)
        except InterruptedError:
            return 0
        except ClosedError:
            books.submit(op, count)
            return 0
        except RemoteProtocolError as error:
            self._broken(error)
            raise
        except LocalProtocolError as error:
            self.fail(error)
            raise

    def _broken(self, error: RemoteProtocolError) -> None:
        self.fail(error)
        self.on_broken()

    def route(self, done: IoArray, count: int, at: int = 0) -> None:
        """Give `count` records of `done` from `at` to those whom they belong to."""
        if not count:
            return
        finished: list[Piece] = []
        with self.lock:
            for index in range(at, at + count):
                number = done.cookie_high[index]
                if number:
                    owner = self._owners.get(number)
                    if owner is not None:
                        owner.arrived(bytes(done.raw[index * IO_BYTES:(index + 1) * IO_BYTES]))
                    continue
                piece = self._pieces.pop(done.cookie_low[index])
                piece.status = done.status[index]
                if piece.abandoned:
                    finished.append(piece)
            if self._waiting:
                self.changed.notify_all()
        for piece in finished:
            self._give(piece)

    def book(self, piece: Piece) -> None:
        """It is in flight, or about to be, and has its cookie. `lock` is held."""
        self._cookies = (self._cookies + 1) & 0xffffffff
        while self._cookies in self._pieces:
            self._cookies = (self._cookies + 1) & 0xffffffff
        piece.cookie = self._cookies
        self._pieces[piece.cookie] = piece

    def _give(self, piece: Piece) -> None:
        run, piece.run = piece.run, None
        if run is not None:
            self.give(run)

    def _usable(self) -> Queue:
        """The queue, after waiting for it. `lock` is held."""
        while True:
            self.check()
            if self._queue is not None and not self._paused:
                return self._queue
            self._wait(None)

    def _wait(self, timeout: float | None) -> None:
        self._waiting += 1
        try:
            self.changed.wait(timeout)
        finally:
            # A Condition that an exception of a signal's handler strikes as it lets go of the lock comes back without it.
            if not self.lock._is_owned():  # type: ignore[attr-defined]
                self.lock.acquire()
            self._waiting -= 1
