"""One ring of a disk, from the guest's side: the only wrapper of the core's submit.c.

An I/O goes in as a 32-byte record and comes out as one, in arrays that the core reads and writes: so a caller that
keeps many I/Os in flight pays Python once a batch. `IoArray` is such an array, with its columns as memoryviews.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.domain import PAGE_SIZE, CoreHandle, EventChannel, SharedPages
from xenpv.errors import ClosedError, LocalProtocolError, RemoteProtocolError
from xenpv.latency import DiskLatency, decode
from xenpv.ring import DEFAULT_SPIN_NS
from xenpv.stats import decode_front

T = TypeVar("T")

IO_BYTES = 32
SECURE = int(lib.XENPV_SECURE)
"""Flag of a discard that leaves no copy of the data."""
NOTHING = memoryview(bytearray())
STAMPS = {None: 0, "tick": 1, "us": 2}
"""XENPV_STAMP_*."""


class Sample(NamedTuple):
    """One request by its stamps, each the low 32 bits of a tick or a microsecond, 0 for no time.

    `known`: they are in order and of one epoch. The backend's four are its claim.
    """

    submit: int
    fetch: int
    start: int
    end: int
    response: int
    reap: int
    op: int
    status: int
    known: bool


class IoArray:
    """`length` I/O records, as columns that may be read and written in strides; `raw` is all of them as bytes.

    Columns: `cookie` (the caller's; `cookie_low` and `cookie_high` are its halves), `sector` (of 512 bytes), `bytes` (a
    multiple of 512), `page` (where in the pool the data begins), `op` (BLKIF_OP_*), `flags` (SECURE),
    `status` (BLKIF_RSP_*, of what is done). With `length` 0 an exchange submits nothing, or leaves what is done for the
    next one.
    """

    def __init__(self, length: int) -> None:
        self.records: Any = ffi.new("struct xenpv_io[]", max(1, length))
        self.raw = raw = memoryview(ffi.buffer(self.records)).cast("B")
        self.cookie = raw.cast("Q")[0::4]
        self.cookie_low = raw.cast("I")[0::8]
        self.cookie_high = raw.cast("I")[1::8]
        self.sector = raw.cast("Q")[1::4]
        self.bytes = raw.cast("Q")[2::4]
        self.page = raw.cast("I")[6::8]
        self.op = raw[28::32]
        self.flags = raw[29::32]
        self.status = raw.cast("h")[15::16]
        self._length = length

    def __len__(self) -> int:
        return self._length


def _raise(error: int, what: str) -> NoReturn:
    """The exception for an `error` of an exchange, in which `what` was to be submitted."""
    if error == -errno.EINTR:
        raise InterruptedError
    if error == -errno.EINVAL:
        raise LocalProtocolError(f"{what} cannot be: its operation, length or page is impossible")
    if error == -errno.ENOBUFS:
        raise LocalProtocolError(f"{what} is more than the queue was made for")
    raise RemoteProtocolError("the backend broke the ring's rules: the disk is disconnected")


class Queue(Closing):
    """A frontend's end of one ring over pages that are shared already.

    Any thread may call exchange(); one is in the core at a time. A call that does not wait itself (`at_least` 0) wakes
    the one that waits there, so a submission is never held up by another thread's slow I/O.
    """

    def __init__(self, core: CoreHandle, channel: EventChannel, *, ring: memoryview,
                 pool: memoryview | Sequence[memoryview], pool_refs: Sequence[int], abi: int = 64, flag: bool = False,
                 handle: int = 0, max_ios: int = 1024, spin_ns: int = DEFAULT_SPIN_NS, stamp: str | None = None,
                 indirect: SharedPages | None = None, max_segments: int = 0,
                 time_page: int = 0, time_ahead_ns: int | None = 0, clock: str | None = None) -> None:
        """Owns `core` from now on. `ring` was initialised before it was granted. `pool_refs` names a grant for each
        page of `pool`, which may be in parts (the core sends references; only its caller touches data): ring and pool
        stay held until close(). `indirect`: pages for the segments of requests that have up to `max_segments`. `handle` is the
        virtual device's number. `stamp`: the unit of the requests' stamps, ``tick`` by the page at the address `time_page`,
        which outlives the queue or set_time_page(), or ``us`` by a clock that is `time_ahead_ns` before dom0's; when that is
        None, in either unit, there is no time: requests are sent as without stamps, and counted as unknown. `clock`:
        what requests are measured by without stamps, ``tick`` (this kernel's) or ``us``; None: they are not. Raises
        LocalProtocolError.
        """
        parts = [pool] if isinstance(pool, memoryview) else list(pool)
        if sum(part.nbytes for part in parts) != len(pool_refs) * PAGE_SIZE:
            core.close()
            raise LocalProtocolError("the pool's pages and its grant references differ in number")
        segments = NOTHING if indirect is None else indirect.memory
        self._memory = [ffi.from_buffer("uint8_t[]", part, require_writable=True) for part in (ring, segments, *parts)]
        indirect_refs = ffi.new("uint32_t[]", [] if indirect is None else list(indirect.refs))
        refs = ffi.new("uint32_t[]", list(pool_refs))
        settings = ffi.new("struct xenpv_front_config *", {
            "abi": abi, "flag": flag, "port": channel.port, "wait_fd": channel.wait_fileno(),
            "notify_fd": channel.notify_fileno(), "ring": self._memory[0], "ring_pages": ring.nbytes // PAGE_SIZE,
            "indirect": self._memory[1], "indirect_refs": indirect_refs, "indirect_pages": len(indirect_refs),
            "max_segments": max_segments, "pool": self._memory[2] if parts else ffi.NULL, "pool_refs": refs,
            "pool_pages": len(pool_refs), "handle": handle & 0xffff, "max_ios": max_ios, "spin_ns": spin_ns,
            "stamp": STAMPS[stamp], "time_page": ffi.cast("void *", time_page), "time_ahead_ns": time_ahead_ns or 0,
            "time_unknown": time_ahead_ns is None, "latency": bool(stamp or clock), "clock": STAMPS[clock],
        })
        error = ffi.new("int *")
        self._front: Any = lib.xenpv_front_open(ffi.cast("struct xenpv_hypervisor *", core.detach()), settings, error)
        if self._front == ffi.NULL:
            self._front = None
            self._release()
            raise LocalProtocolError(f"the ring cannot be used: {os.strerror(error[0])}")
        self._accepted: Any = ffi.new("uint32_t *")
        self._lock = threading.Lock()
        self._wake_lock = threading.Lock()  # the wake descriptor is not closed under a writer
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wanting: set[int] = set()

    def close(self) -> None:
        """Let go of the ring and the pool. I/Os in flight are given up: end the device's connection first."""
        self._go_in(self._close)

    def _close(self) -> None:
        front, self._front = self._front, None
        if front is not None:
            lib.xenpv_front_close(front)
            with self._wake_lock:
                os.close(self._wake_fd)
            self._release()

    def _release(self) -> None:
        for memory in self._memory:
            ffi.release(memory)
        self._memory = []

    def exchange(self, submit: IoArray, first: int, count: int, done: IoArray, *, at_least: int = 0,
                 timeout: float | None = None) -> tuple[int, int]:
        """Submit `count` records of `submit` from `first`, and wait until `at_least` I/Os are done.

        Returns how many were accepted and how many stand in `done`, from its start. Fewer than `at_least` are done when
        `timeout` seconds (None: for ever) are over, another thread wants in, or nothing is in flight. Raises
        RemoteProtocolError when the backend broke the ring's rules, LocalProtocolError for a record that cannot be
        (those before it are accepted), InterruptedError on a signal (what was submitted is accepted).
        """
        if first < 0 or count < 0 or first + count > len(submit):
            raise LocalProtocolError("exchange: records outside the array")
        wait = -1 if timeout is None else max(0, int(timeout * 1e9))
        if at_least:
            with self._lock:
                accepted, n = self._turn(submit, first, count, done, 0 if self._wanting else at_least, wait)
                if n < at_least:
                    self._sleep_again()
        else:
            accepted, n = self._go_in(lambda: self._turn(submit, first, count, done, 0, wait))
        if n < 0:
            _raise(n, f"I/O {first + accepted}")
        return accepted, n

    def exchange_batch(self, batch: Any, op: int, count: int, at: int, *, at_least: int, timeout: float | None) -> int:
        """The same for `count` I/Os of `batch` (Books.batch), whose books are kept: how many stand in its `done` from `at`.
        For the one thread that waits here. Raises LocalProtocolError also when not all were accepted.
        """
        wait = -1 if timeout is None else max(0, int(timeout * 1e9))
        with self._lock:
            if self._front is None:
                raise ClosedError("the queue is closed")
            n = int(lib.xenpv_batch_exchange(batch, self._front, op, count, at, 0 if self._wanting else at_least, wait,
                                             self._wake_fd))
            if n < at_least:
                self._sleep_again()
        if n < 0:
            _raise(n, f"one of {count} I/Os")
        return n

    def _turn(self, submit: IoArray, first: int, count: int, done: IoArray, at_least: int, wait: int) -> tuple[int, int]:
        if self._front is None:
            raise ClosedError("the queue is closed")
        n = lib.xenpv_front_exchange(self._front, submit.records + first, count, self._accepted,
                                     done.records, len(done), at_least, wait, self._wake_fd)
        return int(self._accepted[0]), int(n)

    @property
    def pending(self) -> int:
        """I/Os accepted and not yet returned by exchange()."""
        return self._go_in(lambda: int(lib.xenpv_front_pending(self._front)) if self._front is not None else 0)

    def samples(self) -> list[Sample]:
        """The newest stamped requests answered since the last call, at most 1024, oldest first."""
        def read() -> list[Sample]:
            if self._front is None:
                raise ClosedError("the queue is closed")
            found = ffi.new("struct xenpv_sample[]", lib.XENPV_SAMPLES)
            count = lib.xenpv_front_samples(self._front, found, lib.XENPV_SAMPLES)
            return [Sample(each.submit, each.fetch, each.start, each.end, each.response, each.reap, each.op, each.status,
                           bool(each.known)) for each in found[0:count]]

        return self._go_in(read)

    def time(self, submit: IoArray, count: int) -> list[int]:
        """Do the I/O that is the first of `submit` so often, one at a time, and nothing else: by CLOCK_MONOTONIC, read by the
        core around each, nanoseconds. Raises RemoteProtocolError, also if one fails, and InterruptedError.
        """
        def run() -> list[int]:
            if self._front is None:
                raise ClosedError("the queue is closed")
            found = ffi.new("uint64_t[]", count)
            error = int(lib.xenpv_front_time(self._front, submit.records, found, count))
            if error == -errno.EINTR:
                raise InterruptedError
            if error:
                raise RemoteProtocolError(f"the disk does not do what is timed: {os.strerror(-error)}")
            return list(found)

        return self._go_in(run)

    def set_ahead(self, time_ahead_ns: int | None) -> None:
        """The clock was tied to dom0's anew; None: there is no time for now."""
        def put() -> None:
            if self._front is not None:
                lib.xenpv_front_set_ahead(self._front, time_ahead_ns or 0, time_ahead_ns is None)

        self._go_in(put)

    def set_time_page(self, address: int) -> None:
        """Stamps in ticks come from the page at `address` from now on. The one before is read no more after this."""
        def put() -> None:
            if self._front is not None:
                lib.xenpv_front_set_time_page(self._front, ffi.cast("void *", address))

        self._go_in(put)

    def stats(self) -> dict[str, Any]:
        """The queue's counters; see `struct xenpv_front_stats` in core/api.h."""
        def read() -> dict[str, Any]:
            if self._front is None:
                raise ClosedError("the queue is closed")
            return decode_front(bytes(ffi.buffer(lib.xenpv_front_stats(self._front))))

        return self._go_in(read)

    def latency(self) -> DiskLatency | None:
        """How long requests took; None when they are not measured."""
        def read() -> bytes | None:
            if self._front is None:
                raise ClosedError("the queue is closed")
            area = lib.xenpv_front_latency(self._front)
            return None if area == ffi.NULL else bytes(ffi.buffer(area, lib.xenpv_latency_bytes(lib.XENPV_LATENCY_FRONT)))

        area = self._go_in(read)
        return None if area is None else decode(area)

    # Who waits in the core holds the lock, and comes out for a thread that wants in: it is woken if it is there already,
    # and does not wait if it gets there before that thread has the lock.

    def _go_in(self, work: Callable[[], T]) -> T:
        """work(), with the lock."""
        me = threading.get_ident()
        try:
            self._wanting.add(me)
            if self._lock.locked():
                self._wake()
            with self._lock:  # a Lock's own `with` is the way to take it that no signal's handler comes between
                self._wanting.discard(me)
                return work()
        finally:
            self._wanting.discard(me)

    def _wake(self) -> None:
        with self._wake_lock:
            if self._front is not None:
                os.eventfd_write(self._wake_fd, 1)

    def _sleep_again(self) -> None:
        """The pair of _wake(), by who was woken. `_wanting` still says for whom."""
        if self._front is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)
