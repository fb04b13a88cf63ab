"""One time page in memory, written or read through the core: no cffi object leaves this module."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.domain import Domain
from xenpv.errors import ClosedError, HypervisorError, TimeAbsentError, TimeMalformedError, TimeTornError
from xenpv.wire.timepage import SIZE, Kind

__all__ = ["ALIVE", "Cost", "Facts", "PageView", "PageWriter", "Snapshot", "Ticker", "map_page",
           "own_clock_is_cheap"]

ALIVE = int(ffi.offsetof("struct xenpv_time_page", "alive"))
"""The byte that is cleared when the publisher is gone."""
CHEAP_NS = 1000
TRIES = 64
"""Reads of the sequence word before a page counts as torn for now."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a page says for the whole of its life. `tick_nsec`, `max_age_ns`: nanoseconds; `hz`: ticks a second."""

    tick_nsec: int
    hz: int
    kind: Kind
    boot_id: uuid.UUID
    generation: int
    max_age_ns: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One untorn copy of a page. `history`: tick and ns, as they stand in the slots; empty where the page has none."""

    facts: Facts
    alive: bool
    paused: bool
    tick: int
    ns: int
    written_ns: int
    disruptions: int
    missed: int
    sequence: int
    major: int
    minor: int
    size: int
    history: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one read of the tick, one clock_gettime(CLOCK_MONOTONIC), one of CLOCK_MONOTONIC_COARSE."""

    tick: float
    monotonic: float
    coarse: float


@cache
def own_clock_is_cheap() -> bool:
    """Whether CLOCK_MONOTONIC may be looked at for every batch of requests: not where it is a system call.

    In PV domains whose TSC is unstable it has been seen to cost 22 to 73 us. The answer stays as it is for the life of the
    process, so it is the best of a few measures: in one of them the processor may have been taken from us.
    """
    with PageView(bytearray(SIZE)) as view:
        return min(view.measure(40).monotonic for _ in range(5)) <= CHEAP_NS


class PageWriter(Closing):
    """The writer's end: `memory` is at least a page, zero, and nobody knows its reference before this returns."""

    def __init__(self, memory: memoryview, facts: Facts) -> None:
        self._memory: Any = ffi.from_buffer("uint8_t[]", memory)
        boot_id = list(facts.boot_id.bytes)
        self._facts = ffi.new("struct xenpv_time_page *", {
            "alive": 1, "kind": facts.kind, "tick_nsec": facts.tick_nsec, "hz": facts.hz, "boot_id": boot_id,
            "generation": facts.generation, "max_age_ns": facts.max_age_ns})
        lib.xenpv_time_init(self._memory, self._facts)

    @property
    def address(self) -> Any:
        """cffi's pointer; for this module."""
        if self._memory is None:
            raise ClosedError("this time page was closed")
        return self._memory

    def write(self, tick: int, ns: int, written_ns: int | None = None, *, disruptions: int = 0, missed: int = 0) -> None:
        """The next tick, and the publisher's clock at it and now (None: at it). Not beside a Ticker that has the page."""
        lib.xenpv_time_write(self.address, tick, ns, ns if written_ns is None else written_ns, disruptions, missed)

    def pause(self, paused: bool) -> None:
        """Say that nobody is subscribed and the tick stands still, or that it goes on."""
        lib.xenpv_time_set_paused(self.address, paused)

    def retire(self) -> None:
        """Say that nobody will write this page any more."""
        lib.xenpv_time_set_alive(self.address, 0)

    def close(self) -> None:
        """Let go of the memory."""
        if self._memory is not None:
            ffi.release(self._memory)
            self._memory = None


class PageView(Closing):
    """The reader's end of a page. For any number of threads."""

    def __init__(self, memory: Any, owner: Any = None) -> None:
        """`memory`: a buffer of a page, or the address that `owner` keeps mapped until its close()."""
        self._memory: Any = memory if owner is not None else ffi.from_buffer("uint8_t[]", memory)
        self._owner = owner

    def _address(self) -> Any:
        if self._memory is None:
            raise ClosedError("this time page was closed")
        return self._memory

    def read(self) -> Snapshot:
        """A whole copy. Raises TimeTornError when it was being written each of 64 times, TimeMalformedError."""
        copy = ffi.new("struct xenpv_time_page *")
        result = lib.xenpv_time_read(self._address(), copy, TRIES)
        if result == -errno.EAGAIN:
            raise TimeTornError("the time page was being written at each of 64 looks")
        if result:
            raise self._malformed(copy)
        facts = Facts(copy.tick_nsec, copy.hz, Kind(copy.kind) if copy.kind in tuple(Kind) else Kind.COARSE,
                      uuid.UUID(bytes=bytes(ffi.buffer(copy.boot_id))), copy.generation, copy.max_age_ns)
        history = tuple((copy.history[slot].tick, copy.history[slot].ns) for slot in range(copy.history_slots)
                        ) if copy.size >= SIZE else ()
        return Snapshot(facts, copy.alive == 1, copy.paused != 0, copy.tick, copy.ns, copy.written_ns,
                        copy.disruptions, copy.missed,
                        copy.sequence, copy.major, copy.minor, copy.size, history)

    def _malformed(self, copy: Any) -> TimeMalformedError:
        if copy.magic != lib.XENPV_TIME_MAGIC:
            return TimeMalformedError("there is no time page in this memory (its magic number is another)")
        if copy.major != lib.XENPV_TIME_MAJOR:
            return TimeMalformedError(f"the time page is of version {copy.major}.{copy.minor}, and this xenpv knows "
                                      f"{lib.XENPV_TIME_MAJOR}.x: use the xenpv that dom0 runs")
        return TimeMalformedError(f"the time page contradicts itself: size {copy.size}, tick of {copy.tick_nsec} ns, "
                                  f"HZ {copy.hz}")

    def tick(self) -> int | None:
        """The tick alone, fast; None while the page is torn, or stands still by its own word."""
        tick = ffi.new("uint64_t *")
        return None if lib.xenpv_time_tick(self._address(), tick) else int(tick[0])

    @property
    def address(self) -> int:
        """For the core's queues, which read ticks from it: they end before close()."""
        return int(ffi.cast("uintptr_t", self._address()))

    def alive(self) -> bool:
        """Whether the publisher is there; known also of a page that is torn for good."""
        return bool(lib.xenpv_time_alive(self._address()))

    def measure(self, rounds: int = 100_000) -> Cost:
        """What a read of the tick costs in the core, beside clock_gettime."""
        cost = ffi.new("struct xenpv_time_cost *")
        lib.xenpv_time_measure(self._address(), rounds, cost)
        return Cost(cost.tick, cost.monotonic, cost.coarse)

    def close(self) -> None:
        """Unmap it."""
        if self._memory is None:
            return
        memory, self._memory = self._memory, None
        if self._owner is None:
            ffi.release(memory)
        else:
            self._owner.close()


class _Mapping:
    """A page of dom0's, mapped read-only through a handle of the core's own."""

    def __init__(self, domain: Domain, ref: int) -> None:
        self._hypervisor = ffi.cast("struct xenpv_hypervisor *", domain.open_core().detach())
        status = ffi.new("int *")
        self._map = lib.xenpv_map_new(self._hypervisor, 0, [ref], 1, 0, status)
        if not self._map:
            error = ffi.errno
            lib.xenpv_hypervisor_close(self._hypervisor)
            if status[0]:
                raise TimeAbsentError(f"dom0's time page, grant {ref}, is not there any more (GNTST {status[0]}): is "
                                      "`xenpv time publish` running there?")
            raise HypervisorError(f"cannot map dom0's time page, grant {ref}: {os.strerror(error)}")
        self.address = lib.xenpv_map_memory(self._map)

    def close(self) -> None:
        lib.xenpv_map_end(self._hypervisor, self._map)
        lib.xenpv_hypervisor_close(self._hypervisor)


def map_page(domain: Domain, ref: int) -> PageView:
    """dom0's page behind grant `ref`, read-only. Raises TimeAbsentError when it is not granted, HypervisorError."""
    mapping = _Mapping(domain, ref)
    return PageView(mapping.address, mapping)


class Ticker(Closing):
    """Writes pages at every tick of the kernel: in a thread of its own after start(), or a turn at a time."""

    def __init__(self, tick_nsec: int) -> None:
        error = ffi.new("int *")
        self._ticker = lib.xenpv_ticker_new(tick_nsec, error)
        if not self._ticker:
            raise HypervisorError(f"cannot have a clock of {tick_nsec} ns a tick: {os.strerror(error[0])}")
        self._thread: threading.Thread | None = None
        self._pages: set[PageWriter] = set()

    def start(self) -> None:
        """From now on the kernel's own clock."""
        self._thread = threading.Thread(target=lib.xenpv_ticker_run, args=(self._ticker,), name="time-page", daemon=True)
        self._thread.start()

    def calibrate(self, tick: int, coarse_ns: int) -> bool:
        """The kernel's tick was `tick` at `coarse_ns` of CLOCK_MONOTONIC_COARSE. Whether every page was disrupted."""
        return bool(lib.xenpv_ticker_calibrate(self._ticker, tick, coarse_ns))

    def disrupt(self) -> None:
        """Durations across this moment mean nothing."""
        lib.xenpv_ticker_disrupt(self._ticker)

    def tick(self, coarse_ns: int) -> int:
        """The tick at a moment of CLOCK_MONOTONIC_COARSE."""
        return int(lib.xenpv_ticker_tick(self._ticker, coarse_ns))

    def add(self, page: PageWriter, coarse_ns: int) -> None:
        """Write `page` now, as of `coarse_ns`, and at every tick. It must not be closed before remove()."""
        if lib.xenpv_ticker_add(self._ticker, page.address, coarse_ns):
            raise HypervisorError("there are too many time pages already")
        self._pages.add(page)

    def remove(self, page: PageWriter) -> None:
        """Write it no more."""
        lib.xenpv_ticker_remove(self._ticker, page.address)
        self._pages.discard(page)

    def step(self, coarse_ns: int, now_ns: int | None = None) -> None:
        """One turn at the moment `coarse_ns` of CLOCK_MONOTONIC_COARSE and `now_ns` (None: the same) of CLOCK_MONOTONIC."""
        lib.xenpv_ticker_step(self._ticker, coarse_ns, coarse_ns if now_ns is None else now_ns)

    def stats(self) -> Mapping[str, int]:
        """wakes, ticks, missed, late_max_ns, pages."""
        stats = ffi.new("struct xenpv_ticker_stats *")
        lib.xenpv_ticker_stats(self._ticker, stats)
        return {name: int(getattr(stats, name)) for name, _ in ffi.typeof("struct xenpv_ticker_stats").fields}

    def close(self) -> None:
        """End the thread. The pages stay as they are."""
        if not self._ticker:
            return
        lib.xenpv_ticker_stop(self._ticker)
        if self._thread is not None:
            self._thread.join()
        ticker, self._ticker = self._ticker, None
        self._pages.clear()
        lib.xenpv_ticker_free(ticker)
