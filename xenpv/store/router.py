"""One connection to xenstored, shared by every thread: requests find their answers, events their watches.

RULES
1. One thread, started here and ended by terminate(), reads. Nobody else receives.
2. Whoever waits, waits with a limit; and whatever ends the connection (it broke, an answer nobody asked for, an unknown
   type, a malformed event, an error in this file) reaches every request that is under way as a StoreConnectionError.
3. An answer belongs to a request by `rq_id` and type alone, an event to a watch by its token alone: Linux leaves the
   rest of an event's header unset.
4. The send lock is taken before the state's lock, never after it. A transport is replaced under the send lock.
5. A lost connection is made again, every watch is registered anew, and only then do new requests go out. What was under
   way is not repeated: nobody knows whether it was carried out.

States: CONNECTED <-> LOST -> GONE. A request waits while LOST, and fails at once when GONE.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from time import monotonic

from ..errors import ClosedError, StoreConnectionError, StoreError, StoreTimeoutError
from ..waiting import Changes, Latch
from .connection import Connection, Op, Packet
from .rules import late, lost, parse_event, parse_ok
from .rvar import RVar
from .watch import StoreWatch

UNANSWERED_MAX = 64
"""So many requests given up as late, and still without an answer: the connection is no good."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two attempts to connect: doubled from the first to the longest."""

SOUND_AFTER = 1.0
"""Seconds after which a connection that has not answered anything counts as sound."""


class State(enum.Enum):
    CONNECTED = enum.auto()
    LOST = enum.auto()
    GONE = enum.auto()


class Router:
    """Requests and watches over `connection`, which it owns from start() to terminate().

    `timeout`: seconds that each request may take. `reconnect`: seconds that a lost connection is tried again; 0 never,
    None for ever. `first_id`: the first request's id.
    """

    def __init__(self, connection: Connection, *, timeout: float, reconnect: float | None, first_id: int = 1) -> None:
        self.connection = connection
        self.timeout = timeout
        self._reconnect_for = reconnect
        self._next_id = first_id
        self._send_lock = threading.RLock()
        self._lock = threading.RLock()
        self._changes = Changes()
        self._state = State.LOST
        self._generation = 0
        self._ending = Latch()
        self._gone: Exception = ClosedError("the store is not open")
        self._rvars: dict[int, RVar] = {}
        self._unanswered = 0
        self._watches: dict[str, StoreWatch] = {}
        self._proved = False
        self._connected_at = 0.0
        self._lost_at = 0.0
        self._pause = 0.0
        self._thread = threading.Thread(target=self._run, name="xenstore", daemon=True)

    def start(self) -> None:
        """Connect, and start reading. Raises StoreConnectionError."""
        self.connection.connect()
        self._connected_at = monotonic()
        self._state = State.CONNECTED
        try:
            self._thread.start()
        except BaseException:
            self._ending.open()
            self.connection.interrupt()
            if not self._thread.is_alive():  # else it is the thread that closes it (connection.py, 1)
                self.connection.close()
            raise

    def terminate(self) -> None:
        """End the thread and the connection. Requests under way fail with ClosedError, watches are closed."""
        with self._lock:
            self._ending.open()
            self._changes.tell()
        self.connection.interrupt()
        self._thread.join()
        with self._lock:
            watches = list(self._watches.values())
            self._watches.clear()
        for watch in watches:
            watch.shut()

    def connected(self, subject: str) -> int:
        """Wait for the connection, and say which one it is: a transaction lives on one."""
        return self._when_connected(subject, monotonic() + self.timeout, None, lambda: self._generation)

    # Requests

    def call(self, op: int, payload: bytes, subject: str, *, tx_id: int = 0, generation: int | None = None,
             watch: StoreWatch | None = None, on_late: Callable[[bytes], None] | None = None) -> bytes:
        """Send one request and return its answer's payload. `subject` names operation and path in every error.

        `generation`: fail unless it is still this connection. `watch` gets its events from the moment of sending.
        `on_late` is given, by the router's thread, an answer that came after the caller had left.
        """
        deadline = monotonic() + self.timeout
        rvar = RVar(op, subject, on_late)
        rq_id = self._register(rvar, deadline, generation, watch)
        try:
            self._send(Packet(op, payload, rq_id, tx_id), rvar, deadline)
            rvar.settled.wait(max(0.0, deadline - monotonic()))
        finally:
            with self._lock:
                if not rvar.settled.is_open:
                    rvar.abandoned = True
                    self._unanswered += 1
                silent = self._unanswered > UNANSWERED_MAX
            if silent:
                self.connection.interrupt()
        if rvar.abandoned:
            raise late(subject, self.timeout)
        return rvar.get()

    def post(self, op: int, payload: bytes, *, tx_id: int = 0) -> None:
        """Send a request whose answer does not matter, if there is a connection."""
        rvar = RVar(op, "")
        rvar.abandoned = True
        with self._lock:
            if self._state is not State.CONNECTED:
                return
            rq_id = self._assign(rvar)
            self._unanswered += 1
        try:
            self._send(Packet(op, payload, rq_id, tx_id), rvar, monotonic() + self.timeout)
        except StoreError:
            pass  # whatever it was to undo on the server ends with the connection

    def _register(self, rvar: RVar, deadline: float, generation: int | None, watch: StoreWatch | None) -> int:
        def enter() -> int:
            if watch is not None:
                self._watches[watch.token] = watch
            return self._assign(rvar)

        return self._when_connected(rvar.subject, deadline, generation, enter)

    def _when_connected(self, subject: str, deadline: float, generation: int | None, act: Callable[[], int]) -> int:
        """`act`, under the lock, as soon as a request may go out: on this very connection if `generation` says so."""
        while True:
            with self._lock:
                if self._ending.is_open:
                    raise ClosedError(f"xenstore {subject}: the store is closed")
                if self._state is State.GONE:
                    raise lost(subject, str(self._gone))
                if generation is not None and generation != self._generation:
                    raise lost(subject, "the connection that it belongs to was lost; start again")
                if self._state is State.CONNECTED:
                    return act()
                change = self._changes.next()
            if not change.wait(deadline - monotonic()):
                raise lost(subject, f"no connection to xenstored at {self.connection.path} within {self.timeout:g} s")

    def _assign(self, rvar: RVar) -> int:
        """An id that no request under way has. 32 bits, so it wraps. The lock is held."""
        while (rq_id := self._next_id) in self._rvars:
            self._next_id = (rq_id + 1) & 0xffffffff
        self._next_id = (rq_id + 1) & 0xffffffff
        self._rvars[rq_id] = rvar
        return rq_id

    def _send(self, packet: Packet, rvar: RVar, deadline: float) -> None:
        """Send, unless the request failed while it waited for its turn."""
        try:
            if not self._send_lock.acquire(timeout=max(0.0, deadline - monotonic())):
                self._withdraw(packet)
                raise late(rvar.subject, self.timeout)
            if not rvar.settled.is_open:
                self.connection.send(packet, deadline)
        except StoreTimeoutError:
            self._withdraw(packet)
            raise late(rvar.subject, self.timeout) from None
        except StoreConnectionError as error:
            self._withdraw(packet)
            raise lost(rvar.subject, str(error)) from error
        finally:
            try:
                self._send_lock.release()
            except RuntimeError:
                pass  # we did not get it; what acquire() said may be lost, for a signal may come just behind it

    def _withdraw(self, packet: Packet) -> None:
        """Forget a request that was not sent."""
        with self._lock:
            if (rvar := self._rvars.pop(packet.rq_id, None)) is not None:
                self._unanswered -= rvar.abandoned
                rvar.settled.open()

    # Watches

    def subscribe(self, watch: StoreWatch) -> None:
        """Register `watch` with xenstored. Raises StoreError."""
        subject = f"watch {watch.path}"
        try:
            try:
                answer = self.call(Op.WATCH, watch.watch_payload, subject, watch=watch)
            except StoreError as error:
                if error.code != "EINVAL" or watch.wire_depth is None:
                    raise
                with self._lock:
                    self._watches.pop(watch.token, None)
                    watch.wire_depth = None
                answer = self.call(Op.WATCH, watch.watch_payload, subject, watch=watch)
            parse_ok(subject, answer)
        except BaseException as error:
            with self._lock:
                self._watches.pop(watch.token, None)
            if not isinstance(error, StoreError) or isinstance(error, StoreTimeoutError | StoreConnectionError):
                self.post(Op.UNWATCH, watch.unwatch_payload)
            raise

    def unsubscribe(self, watch: StoreWatch) -> None:
        """Unregister `watch`. Events that are on their way find nobody. Raises StoreError."""
        subject = f"unwatch {watch.path}"
        with self._lock:
            known = self._watches.pop(watch.token, None)
            if known is None or known.failed or self._ending.is_open or self._state is not State.CONNECTED:
                return
            generation = self._generation
        try:
            parse_ok(subject, self.call(Op.UNWATCH, watch.unwatch_payload, subject, generation=generation))
        except (ClosedError, StoreConnectionError):
            pass  # xenstored forgets the watches of a connection that ends
        except StoreError as error:
            if error.code != "ENOENT":
                raise

    def resubscribe(self) -> None:
        """Register every watch again, after xenstored was told to forget them all."""
        with self._lock:
            watches = [watch for watch in self._watches.values() if not watch.failed]
        for watch in watches:
            subject = f"watch {watch.path}"
            try:
                parse_ok(subject, self.call(Op.WATCH, watch.watch_payload, subject))
            except StoreConnectionError:
                raise
            except StoreError as error:
                if error.code != "EEXIST":
                    raise

    # The router's thread

    def _run(self) -> None:
        end: Exception = StoreConnectionError("the router of the store ended", "EIO")
        try:
            while True:
                try:
                    self._restore_watches()
                    while True:
                        self._dispatch(self.connection.recv())
                except StoreConnectionError as error:
                    if (reason := self._reconnect(error)) is not None:
                        end = reason
                        return
        except BaseException as error:
            end = StoreConnectionError(f"the router of the store failed: {error!r}", "EIO")
            raise
        finally:
            self._end(end)

    def _dispatch(self, packet: Packet) -> None:
        """Hand one message to whom it is for. Raises StoreConnectionError when it is for nobody."""
        if packet.op == Op.WATCH_EVENT:
            if (event := parse_event(packet.payload)) is None:
                raise StoreConnectionError("xenstored sent a malformed watch event", "EPROTO")
            with self._lock:
                self._proved = True
                watch = self._watches.get(event[1])
            if watch is not None:  # else it was closed while the event was on its way
                watch.put(event[0])
            return
        with self._lock:
            rvar = self._rvars.get(packet.rq_id)
            if rvar is None:
                raise StoreConnectionError(f"xenstored answered request {packet.rq_id}, which was never made", "EPROTO")
            if packet.op not in (rvar.op, Op.ERROR):
                raise StoreConnectionError(f"xenstored answered a request of type {rvar.op} with type {packet.op}",
                                           "EPROTO")
            self._proved = True
            del self._rvars[packet.rq_id]
            self._unanswered -= rvar.abandoned
            rvar.set(packet)
        if rvar.abandoned and rvar.on_late is not None and rvar.error is None:
            rvar.on_late(rvar.payload)

    def _restore_watches(self) -> None:
        """Make xenstored's watches equal to ours, which may change meanwhile; then let requests go on."""
        restored: dict[str, StoreWatch] = {}
        while True:
            with self._lock:
                if self._state is State.CONNECTED:
                    return
                missing = [watch for watch in self._watches.values()
                           if watch.token not in restored and not watch.failed]
                stale = [watch for token, watch in restored.items() if token not in self._watches]
                if not missing and not stale:
                    self._state = State.CONNECTED
                    self._changes.tell()
                    return
            for watch in missing:
                self._restore(watch)
                restored[watch.token] = watch
            for watch in stale:
                del restored[watch.token]
                self._exchange(Op.UNWATCH, watch.unwatch_payload, f"unwatch {watch.path}")

    def _restore(self, watch: StoreWatch) -> None:
        """Register one watch on the new connection. Refused, it ends with that error."""
        subject = f"watch {watch.path} again"
        error = self._exchange(Op.WATCH, watch.watch_payload, subject)
        if error is not None and error.code == "EINVAL" and watch.wire_depth is not None:
            watch.wire_depth = None
            error = self._exchange(Op.WATCH, watch.watch_payload, subject)
        if error is not None:
            watch.fail(error)

    def _exchange(self, op: int, payload: bytes, subject: str) -> StoreError | None:
        """One request of the router's thread itself, which reads on until the answer is there."""
        deadline = monotonic() + self.timeout
        rvar = RVar(op, subject)
        with self._lock:
            packet = Packet(op, payload, self._assign(rvar))
        try:
            with self._send_lock:
                self.connection.send(packet, deadline)
            while not rvar.settled.is_open:
                self._dispatch(self.connection.recv(deadline))
        except StoreTimeoutError as error:
            raise StoreConnectionError(f"{subject}: no answer within {self.timeout:g} s", "ETIMEDOUT") from error
        return rvar.error if isinstance(rvar.error, StoreError) else None

    def _reconnect(self, cause: StoreConnectionError) -> Exception | None:
        """After a loss: fail what is under way, and connect again. Not None: why that is over."""
        now = monotonic()
        if self._proved or not self._generation or now - self._connected_at >= SOUND_AFTER:
            self._lost_at, self._pause = now, 0.0
        else:
            self._lengthen_pause()  # a connection that broke at once is as good as none
        self._proved = False
        with self._lock:
            self._state = State.LOST
            self._generation += 1
            ended: Exception = ClosedError("the store is closed") if self._ending.is_open else cause
            self._fail_requests(ended)
        with self._send_lock:
            self.connection.close()
        while True:
            if self._ending.wait(self._pause):
                return ClosedError("the store is closed")
            if self._reconnect_for is not None and monotonic() - self._lost_at >= self._reconnect_for:
                return cause
            try:
                with self._send_lock:
                    self.connection.connect()
            except StoreConnectionError as error:
                cause = error
                self._lengthen_pause()
                continue
            self._connected_at = monotonic()
            with self._lock:
                if not self._ending.is_open:
                    return None

    def _lengthen_pause(self) -> None:
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)

    def _fail_requests(self, error: Exception) -> None:
        """Every request under way fails. The lock is held."""
        for rvar in self._rvars.values():
            if isinstance(error, ClosedError):
                rvar.fail(ClosedError(f"xenstore {rvar.subject}: {error}"))
            else:
                rvar.fail(lost(rvar.subject, f"{error}; it may or may not have been carried out"))
        self._rvars.clear()
        self._unanswered = 0

    def _end(self, error: Exception) -> None:
        """No connection any more, for good."""
        with self._send_lock:
            self.connection.close()
        with self._lock:
            self._gone = error
            self._state = State.GONE
            self._fail_requests(error)
            watches = list(self._watches.values())
            self._changes.tell()
        for watch in watches:
            if not isinstance(error, ClosedError):  # else terminate() shuts them
                watch.fail(lost(f"watch {watch.path}", str(error)))
