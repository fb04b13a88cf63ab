"""A vbd's rings, attached: queues, event channels, files. Made whole or not at all, and given back whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from xenpv import stats
from xenpv.domain import Domain
from xenpv.latency import BACKEND_SUFFIX
from xenpv.wire.blkif import Protocol as Abi
from xenpv.xenbus import BackendAdverts, DiskFacts, FrontendRings, RingKeys, VbdPlace, agreed_stamp

from .clock import Clock, Lease
from .log import LOGGER
from .options import BackendOptions
from .pool import ServicePool
from .queue import MAX_INDIRECT, Queue, QueueConfig, journal_bytes, latency_bytes
from .rundir import BackendDirectory
from .storage import Storage

RING_PAGE_ENTRIES = 32
"""Entries of a ring of one page, either ABI (io/ring.h's arithmetic over io/blkif.h)."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the two ends of a vbd settled, and what stands behind it."""

    place: VbdPlace
    rings: FrontendRings
    adverts: BackendAdverts
    """As the frontend could read them."""
    disk: DiskFacts
    storage: Storage
    adopt: bool = False
    """A predecessor served these very rings."""

    @property
    def notify_flag(self) -> bool:
        return self.adverts.notify_flag and self.rings.notify_flag

    @property
    def stamp(self) -> str | None:
        """The unit of the requests' stamps, None without them."""
        return agreed_stamp(self.adverts, self.rings)

    @property
    def persistent(self) -> bool:
        return self.adverts.persistent and self.rings.persistent

    @property
    def entries(self) -> int:
        """Entries of each ring."""
        return RING_PAGE_ENTRIES << self.rings.order

    def config(self, ring: RingKeys, options: BackendOptions, time_page: int = 0, clock: str | None = None) -> QueueConfig:
        """The settings of the queue on `ring`. `time_page`: the address of dom0's time page here, or 0. `clock`: what
        requests without stamps are measured by.
        """
        facts = self.storage.facts
        return QueueConfig(
            domid=self.place.frontend_domid, ring_refs=ring.refs, sectors=self.disk.sectors,
            sector_size=self.disk.sector_size, abi=32 if self.rings.protocol is Abi.X86_32 else 64,
            flag=self.notify_flag, data=options.data,
            persistent=options.max_persistent_grants if self.persistent else 0,
            readonly=facts.readonly, flush=self.adverts.flush_cache,
            barrier=self.adverts.barrier, discard=self.adverts.discard and not facts.readonly,
            discard_secure=bool(self.adverts.discard_secure) and not facts.readonly,
            max_segments=min(self.adverts.max_indirect_segments, MAX_INDIRECT), fd=self.storage.fileno(),
            inline=self.storage.inline, spin_ns=options.spin_ns, adopt=self.adopt,
            stamp=self.stamp, time_page=time_page, clock=clock)


class Attached(Protocol):
    """What a `Device` holds of its connection."""

    def drain(self) -> bool:
        """Take no new request: True once those in flight are answered. Does not wait."""
        ...

    def resize(self, sectors: int) -> None:
        """The disk has `sectors` sectors of 512 bytes from the next request on."""
        ...

    def holds(self, queue: Queue) -> bool: ...

    def describe(self) -> dict[str, Any]:
        """For people and JSON."""
        ...

    def close(self, *, keep: bool) -> None:
        """Answer what is in flight and let go of everything. `keep` leaves the files to a successor."""
        ...


class Connects(Protocol):
    """What a `Device` needs of a Connector."""

    def connect(self, agreement: Agreement) -> Attached: ...

    def forget(self, place: VbdPlace) -> None: ...


class Connection:
    """Rings that are served. Attaches every queue of `agreement`; see Connector."""

    def __init__(self, agreement: Agreement, domain: Domain, directory: BackendDirectory, pool: ServicePool,
                 options: BackendOptions, clock: Clock | None = None) -> None:
        self._clock = options.profile_clock()
        self._measured = agreement.stamp or self._clock
        self._spin_us = options.spin_ns // 1000
        self._lease: Lease | None = None
        self._agreement = agreement
        self._pool = pool
        self._queues: list[Queue] = []
        self._pages: list[memoryview] = []
        self._keep = agreement.adopt  # until everything stands: who adopts and fails leaves what it found
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as made:
            if clock is not None and agreement.stamp == "tick":
                self._lease = made.enter_context(clock.lease())
            for number, ring in enumerate(agreement.rings.queues):
                self._attach(made, number, ring, domain, directory, options)
            self._engine = pool.engine_of(self._queues[0])
            self._stack = made.pop_all()

    def _attach(self, made: contextlib.ExitStack, number: int, ring: RingKeys, domain: Domain,
                directory: BackendDirectory, options: BackendOptions) -> None:
        agreement = self._agreement
        place, fresh = agreement.place, not agreement.adopt
        counters = directory.open_stats(place, number, fresh=fresh)
        made.callback(lambda: counters.close(keep=self._keep))
        journal = directory.open_journal(place, number, journal_bytes(agreement.entries), fresh=fresh)
        made.callback(lambda: journal.close(keep=self._keep))
        if agreement.adopt and not journal.found:
            LOGGER.warning("domid %d devid %d: no journal to adopt ring %d with: a request that was under way may be "
                           "answered twice, or not at all", place.frontend_domid, place.devid, number)
        channel = domain.events.bind_interdomain(place.frontend_domid, ring.port)
        made.callback(channel.close)
        page = 0 if self._lease is None else self._lease.address
        queue = Queue(domain.open_core(), channel, agreement.config(ring, options, page, self._clock),
                      stats=counters.memory, journal=journal.memory, latency=self._latency(made, number, directory))
        made.callback(queue.close)
        self._pool.add(queue, agreement.storage)
        made.callback(self._pool.remove, queue)
        if self._lease is not None:
            self._lease.add(partial(self._pool.soon, queue), queue.set_time_page)
        self._queues.append(queue)
        self._pages.append(counters.memory)

    def _latency(self, made: contextlib.ExitStack, number: int, directory: BackendDirectory) -> memoryview | None:
        """Where the queue counts how long requests take, None when it does not; what a predecessor counted goes then."""
        place = self._agreement.place
        if self._measured is None:
            directory.file(place, number, BACKEND_SUFFIX).unlink(missing_ok=True)
            return None
        area = directory.open_latency(place, number, latency_bytes(), fresh=not self._agreement.adopt)
        made.callback(lambda: area.close(keep=self._keep))
        return area.memory

    def drain(self) -> bool:
        """See Attached."""
        return all([self._pool.drain(queue) for queue in self._queues])

    def resize(self, sectors: int) -> None:
        """See Attached."""
        for queue in self._queues:
            self._pool.call(queue, lambda queue=queue: queue.resize(sectors))  # type: ignore[misc]

    def holds(self, queue: Queue) -> bool:
        return queue in self._queues

    def describe(self) -> dict[str, Any]:
        """See Attached."""
        agreement = self._agreement
        return {
            "protocol": str(agreement.rings.protocol), "queues": len(self._queues), "ring_entries": agreement.entries,
            "notify_flag": agreement.notify_flag, "persistent": agreement.persistent,
            "max_indirect_segments": agreement.adverts.max_indirect_segments,
            "stamp": agreement.stamp, "measured": self._measured, "spin_us": self._spin_us,
            "engine": "inline" if agreement.storage.inline else self._engine,
            "counters": [stats.decode_back(page) for page in self._pages],
        }

    def close(self, *, keep: bool) -> None:
        """See Attached."""
        self._keep = keep
        self._pages.clear()
        self._stack.close()


class Connector:
    """Makes connections; a Device is given one, and needs nothing else of the hypervisor."""

    def __init__(self, domain: Domain, directory: BackendDirectory, pool: ServicePool,
                 options: Callable[[], BackendOptions], clock: Clock | None = None) -> None:
        self._clock = clock
        self._domain = domain
        self._directory = directory
        self._pool = pool
        self._options = options

    def connect(self, agreement: Agreement) -> Attached:
        """Bind, map and serve every ring of `agreement`.

        Raises RemoteProtocolError for a ring that cannot be used, HypervisorError when a port cannot be bound,
        StorageError when a file cannot be made.
        """
        return Connection(agreement, self._domain, self._directory, self._pool, self._options(), self._clock)

    def forget(self, place: VbdPlace) -> None:
        """The vbd has ended: remove every file of it."""
        self._directory.remove(place)
