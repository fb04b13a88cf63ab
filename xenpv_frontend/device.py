"""A disk's life in xenbus, from the guest's side: executes the frontend's half of `xenpv.xenbus.transitions`.

RULES
- One thread, the keeper, asks the table and executes its steps; it waits for the store alone and never for I/O's sake,
  except that STOP gives what is in flight a bounded time.
- Whatever the backend says in the store is read through the typed records, once; what they refuse ends this disk alone.
- The ring's and the pool's pages are freed after the queue that uses them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import select
import threading
from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic

from xenpv.domain import Domain, EventChannel, SharedPages, Store, Transaction
from xenpv.errors import (AccessDeniedError, ClosedError, DeviceError, NoEntryError, RemoteProtocolError, UsageError,
                          XenpvError)
from xenpv.ring import DEFAULT_SPIN_NS, initialise
from xenpv.timepage import Reader, open_reader, own_clock_is_cheap
from xenpv.wire.blkif import MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS, Protocol, indirect_pages, ring_entries
from xenpv.xenbus import (CLOSING_PATIENCE, FAILED, Action, BackendAdverts, DiskFacts, FrontendNode, FrontendRings,
                          RingKeys, Role, Situation, Step, VbdPlace, Wish, XenbusState, next_step, parse_state,
                          vdev_name, vdev_number)

from .buffers import Pool
from .queue import STAMPS, Queue
from .reaper import CONTROL_IOS, Reaper

log = logging.getLogger("xenpv.frontend")

DEFAULT_INDIRECT = 256
"""Segments of an indirect request: 1 MiB, and one page for them."""
INDIRECT_AT_ONCE = 32
"""Indirect requests in flight; what comes beyond is sent as direct ones."""
DRAIN_SECONDS = 2.0
"""How long I/O in flight may take to end before the ring is let go."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What this end wants. `flag` and `ring_order`: None takes what the backend offers."""

    depth: int = 32
    pool_pages: int = 256
    flag: bool | None = None
    persistent: bool = True
    abi: int = 64
    ring_order: int | None = None
    indirect: int | None = None
    """Segments of an indirect request at the most; None: up to DEFAULT_INDIRECT. 11 or fewer: none are made."""
    ignore: frozenset[str] = frozenset()
    """Keys of the backend that count as not there: how this end is an older or lesser one."""
    spin_ns: int = DEFAULT_SPIN_NS
    trusted: bool | None = None
    """Whether the backend is; None: as the toolstack says (`trusted` in our directory)."""
    stamp: str | None = None
    """Stamp requests with dom0's time, in ``tick`` or ``us``; None: not."""
    profile: bool = False
    """Measure requests without stamps too, by this end's own clock."""
    closing_patience: float = CLOSING_PATIENCE

    def protocol(self) -> Protocol:
        """The ring's ABI in the store's words."""
        if self.abi == 32:
            return Protocol.X86_32
        return Protocol.ARM if platform.machine().startswith(("arm", "aarch64")) else Protocol.X86_64

    def segments(self, offered: int) -> int:
        """Of an indirect request; 0: there are none."""
        wanted = DEFAULT_INDIRECT if self.indirect is None else self.indirect
        agreed = min(offered, wanted, self.pool_pages)
        return agreed if agreed > MAX_SEGMENTS else 0

    def order(self, offered: int) -> int:
        """The ring's order: log2 of its pages. Raises DeviceError when the backend does not offer what is wanted."""
        if self.ring_order is None:
            order = 0
            while order < offered and ring_entries(order, self.protocol()) < self.depth:
                order += 1
            return order
        if self.ring_order > offered:
            raise DeviceError(f"the backend offers ring page orders up to {offered}, not {self.ring_order}: "
                              "leave ring_order out")
        return self.ring_order


class Directory:
    """The keys of a directory in the store, as a record's `Values`."""

    def __init__(self, store: Transaction, path: str, ignore: Collection[str] = ()) -> None:
        self._store = store
        self._path = path
        self._ignore = ignore

    def get(self, name: str, /) -> bytes | None:
        """The key's value; None without it.

        A guest that may not read what is above a node that is gone is told EACCES, not ENOENT.
        """
        if name in self._ignore:
            return None
        try:
            return self._store.read(f"{self._path}/{name}")
        except (NoEntryError, AccessDeniedError):
            return None


def find_vbd(domain: Domain, vdev: str | int) -> VbdPlace:
    """Where the virtual device `vdev` of `domain` is: its name or its number.

    Raises UsageError for what is no device's name, DeviceError when the domain has no such disk, RemoteProtocolError
    when its node points somewhere else.
    """
    number = vdev_number(vdev) if isinstance(vdev, str) else vdev
    top = f"/local/domain/{domain.domid}/device/vbd"
    try:
        names = domain.store.list(top)
    except NoEntryError:
        names = []
    if str(number) not in names:
        there = ", ".join(vdev_name(int(name)) for name in sorted(names) if name.isdecimal() and len(name) < 10)
        raise DeviceError(f"domain {domain.domid} has no disk {vdev}: it has {there or 'none'}")
    path = f"{top}/{number}"
    return FrontendNode.parse(Directory(domain.store, path), path).place(domain.domid, number)


class Device:
    """One vbd. open() starts its keeper, close() ends it; `reaper` is told of its queues and of its end."""

    def __init__(self, domain: Domain, place: VbdPlace, settings: Settings, reaper: Reaper) -> None:
        self._domain = domain
        self._store: Store = domain.store
        self.place = place
        self.name = vdev_name(place.devid)
        self.settings = settings
        self.facts = DiskFacts(0)
        self.adverts = BackendAdverts()
        self.flag = False
        self.trusted = settings.trusted is not False
        self.stamp = settings.stamp
        self.time: Reader | None = None
        """dom0's time, for stamps."""
        self.ring_order = 0
        self.max_segments = 0
        """Of an indirect request; 0: there are none on this ring."""
        self._reaper = reaper
        reaper.on_broken = self.leave
        self._wish = Wish.RENEW
        self._leaving = False
        self._closing_since: float | None = None
        self._ring: SharedPages | None = None
        self._segments: SharedPages | None = None
        self._channel: EventChannel | None = None
        self._pool: Pool | None = None
        self._published: dict[str, str] = {}
        self._last = "nothing was heard from the backend"
        self._settled = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"xenpv-{self.name}", daemon=True)

    def open(self, timeout: float) -> None:
        """Come up: until the backend has connected. Raises DeviceError, or what made it impossible."""
        if self.settings.trusted is None:
            front = self.place.frontend
            self.trusted = FrontendNode.parse(Directory(self._store, front), front).trusted
        self._thread.start()
        settled = False
        try:
            settled = self._settled.wait(timeout)
        finally:
            last = self._last
            if not settled or self._reaper.failure is not None:
                self.close()
        if not settled:
            raise DeviceError(f"{self.name}: not connected within {timeout:g} s ({last}): is a backend running in "
                              f"domain {self.place.backend_domid}?")
        self._reaper.check()

    def close(self) -> None:
        """Leave, bounded by the patience for a backend that does not answer, and give everything back.

        Raises LocalProtocolError while a caller keeps a slice of the pool's memory: release it and close again.
        """
        self.leave()
        if self._thread.ident is not None:
            self._thread.join()
        with self._wake_lock:
            if self._wake >= 0:
                os.close(self._wake)
                self._wake = -1
        with contextlib.ExitStack() as both:
            if self.time is not None:
                both.callback(self.time.close)
            if self._pool is not None:
                both.callback(self._pool.close)

    def leave(self) -> None:
        """Ask the keeper to close. From any thread; does not wait."""
        self._leaving = True
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # The keeper.

    def _keep(self) -> None:
        try:
            try:
                self._live()
            except XenpvError as error:
                self._abort(error)
            except Exception as error:  # a bug; but nobody may wait for ever because of it
                log.exception("%s: the keeper failed", self.name)
                self._abort(DeviceError(f"{self.name}: {type(error).__name__}: {error}"))
        finally:
            with contextlib.ExitStack() as last:
                last.callback(self._settled.set)
                last.callback(self._unpublish)
                if self._pool is not None:
                    last.callback(self._pool.shut)
                self._disconnect()

    def _live(self) -> None:
        with contextlib.ExitStack() as stack:
            watches = [stack.enter_context(self._store.watch(f"{path}/state"))
                       for path in (self.place.frontend, self.place.backend)]
            poll = select.poll()
            for fd in (self._wake, *(watch.fileno() for watch in watches)):
                poll.register(fd, select.POLLIN)
            while self._settle():
                poll.poll(self._patience_left())
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                for watch in watches:
                    while watch.wait(0) is not None:
                        pass

    def _patience_left(self) -> float | None:
        """Milliseconds until a Closing is overdue, or None."""
        if self._closing_since is None:
            return None
        left = self._closing_since + self.settings.closing_patience - monotonic()
        return left * 1000 + 1 if left > 0 else 0

    def _settle(self) -> bool:
        """Take steps until there is none. False: the device has ended."""
        while True:
            if self._leaving:
                self._wish = Wish.LEAVE
            wish, own = self._wish, self._state(self.place.frontend)
            step = next_step(self._situation(own, self._state(self.place.backend)))
            if step.why != self._last:
                log.debug("%s: %s", self.name, step.why)
                self._last = step.why
            self._take(step)
            if Action.FORGET in step.actions:
                return False
            if step.state is not None:
                self._write_state(own, step.state)
            elif self._wish is wish:
                return True

    def _situation(self, own: XenbusState, peer: XenbusState) -> Situation:
        if own is not XenbusState.CLOSING:
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = monotonic()
        overdue = self._patience_left() == 0
        return Situation(Role.FRONTEND, own, peer, attached=self._ring is not None, overdue=overdue, wish=self._wish)

    def _state(self, path: str) -> XenbusState:
        return parse_state(Directory(self._store, path).get("state"), f"{path}/state")

    def _write_state(self, expected: XenbusState, state: XenbusState) -> None:
        """Over the state that was decided on, not over one that the toolstack has written meanwhile."""
        def change(transaction: Transaction) -> None:
            own = Directory(transaction, self.place.frontend).get("state")
            if parse_state(own, "state") is expected:
                transaction.write(f"{self.place.frontend}/state", str(int(state)))
        self._store.transact(change)

    def _take(self, step: Step) -> None:
        ends = Action.DISCONNECT in step.actions and Action.PUBLISH not in step.actions
        if ends and self._wish is not Wish.RENEW:
            self._reaper.fail(self._ending(step.why))
        for action in step.actions:
            match action:
                case Action.DISCONNECT:
                    self._disconnect()
                case Action.PUBLISH:
                    self._publish()
                case Action.CONNECT:
                    self._connect()
                case Action.STOP:
                    self._reaper.pause()
                    self._reaper.drain(DRAIN_SECONDS)
                case Action.REFRESH:
                    self._refresh()
                case Action.REREAD:
                    self._reread()
                case _:
                    pass  # FORGET: the caller's to do; the others are a backend's

    def _ending(self, why: str) -> XenpvError:
        if self._wish is Wish.LEAVE:
            return ClosedError(f"the disk {self.name} is closed")
        return DeviceError(f"{self.name} is disconnected: {why}")

    def _abort(self, error: XenpvError) -> None:
        """An action or a record failed: every waiter hears why, and the other end sees Closing, then Closed."""
        log.warning("%s: %s", self.name, error)
        self._reaper.fail(error)
        self._disconnect()
        # The table's own way from there, for a backend that nothing more is believed of.
        last = next_step(Situation(Role.FRONTEND, XenbusState.CLOSING, XenbusState.UNKNOWN, wish=Wish.LEAVE))
        for state in (FAILED.state, last.state):
            try:
                own = self._state(self.place.frontend)
                if state is not None and own is not XenbusState.UNKNOWN:
                    self._write_state(own, state)
            except XenpvError as second:
                log.warning("%s: the store does not hear of it: %s", self.name, second)
                return

    # The actions.

    def _publish(self) -> None:
        place, settings = self.place, self.settings
        adverts = self.adverts = self._offers(self._store)
        if settings.flag and not adverts.notify_flag:
            raise DeviceError(f"{self.name}: the backend does not offer the notify-suppression flag: leave flag out")
        if settings.stamp and adverts.stamp not in (settings.stamp, "us"):
            raise DeviceError(f"{self.name}: the backend offers no stamps in {settings.stamp}: start it with --stamp "
                              f"{settings.stamp}")
        self._open_time()
        self.ring_order = settings.order(adverts.max_ring_page_order)
        self.flag = adverts.notify_flag and settings.flag is not False
        if self._pool is None:
            self._pool = Pool(self._domain.grants, place.backend_domid, settings.pool_pages)
        self._ring = self._domain.grants.share(place.backend_domid, 1 << self.ring_order)
        initialise(self._ring.memory)
        self.max_segments = settings.segments(adverts.max_indirect_segments)
        if self.max_segments:
            at_once = min(INDIRECT_AT_ONCE, ring_entries(self.ring_order, settings.protocol()))
            self._segments = self._domain.grants.share(place.backend_domid, at_once * indirect_pages(self.max_segments))
        self._channel = self._domain.events.bind_unbound(place.backend_domid)
        rings = FrontendRings((RingKeys(tuple(self._ring.refs), self._channel.port),), settings.protocol(),
                              persistent=settings.persistent, notify_flag=self.flag,
                              stamp=self.stamp)

        self._published = rings.to_keys()

        def write(transaction: Transaction) -> None:
            for name in FrontendRings.leftovers(transaction.list(place.frontend)):
                transaction.remove(f"{place.frontend}/{name}")
            for name, value in self._published.items():
                transaction.write(f"{place.frontend}/{name}", value)

        self._store.transact(write)
        self._wish = Wish.KEEP

    def _unpublish(self) -> None:
        """The pair of _publish: the next frontend may be one that writes fewer keys than we did.

        Nothing is removed from a vbd that is not Closed, or in which another one has published meanwhile.
        """
        def remove(transaction: Transaction) -> None:
            there = Directory(transaction, self.place.frontend)
            closed = there.get("state") == b"%d" % XenbusState.CLOSED
            if closed and all(there.get(name) == value.encode() for name, value in self._published.items()):
                for name in self._published:
                    transaction.remove(f"{self.place.frontend}/{name}")

        try:
            self._store.transact(remove)
        except XenpvError as error:
            log.warning("%s: the keys of its ring stay in the store: %s", self.name, error)

    def _open_time(self) -> None:
        """The clock of stamps: the page that ticks now, and for microseconds the two clocks tied. Raises TimePageError."""
        if self.stamp is None:
            return
        if self.stamp == "us" and not own_clock_is_cheap():
            raise DeviceError(f"{self.name}: this domain's CLOCK_MONOTONIC costs more than a microsecond: stamp in ticks")
        if self.time is not None:
            self.time.close()
            self.time = None
        self.time = open_reader(self._domain)
        if self.stamp == "us" and not self.time.one_clock and self.time.settle(fine=True).ns is None:
            raise DeviceError(f"{self.name}: this domain's clock does not agree with dom0's time page: stamp in ticks")

    def _connect(self) -> None:
        if self._ring is None or self._channel is None or self._pool is None:
            raise DeviceError(f"{self.name}: the backend connected to a ring that is not there")
        backend = self.place.backend
        self.facts, self.adverts = self._store.transact(lambda store: (
            DiskFacts.parse(Directory(store, backend), backend), self._offers(store)))
        self._reread()
        if self._wish is Wish.RENEW:
            return
        queue = Queue(self._domain.open_core(), self._channel, ring=self._ring.memory, pool=self._pool.memory,
                      pool_refs=self._pool.refs, abi=self.settings.abi, flag=self.flag, handle=self.place.devid,
                      max_ios=self._pool.pages + CONTROL_IOS, spin_ns=self.settings.spin_ns, stamp=self.stamp,
                      indirect=self._segments, max_segments=self.max_segments,
                      time_page=self.time.view.address if self.time and self.time.view and self.stamp == "tick" else 0,
                      time_ahead_ns=(self.time.ahead_ns or 0) if self.time else 0,
                      clock=("us" if own_clock_is_cheap() else "tick") if self.settings.profile else None)
        self._reaper.attach(queue, self._pool)
        log.info("%s: connected, %d sectors, flag %s", self.name, self.facts.sectors, "on" if self.flag else "off")

    def _refresh(self) -> None:
        backend = self.place.backend
        facts = self._store.transact(lambda store: DiskFacts.parse(Directory(store, backend), backend))
        if facts.sector_size != self.facts.sector_size:
            raise RemoteProtocolError(f"{backend}/sector-size changed from {self.facts.sector_size} to "
                                      f"{facts.sector_size}: only the size of a disk in use may change")
        if facts.sectors != self.facts.sectors:
            log.info("%s: resized from %d to %d sectors", self.name, self.facts.sectors, facts.sectors)
        self.facts = facts
        self._settled.set()

    def _reread(self) -> None:
        """A backend of another make may have taken over; without its offer the ring's words mean nothing to it."""
        if self.flag or self.stamp or self.max_segments:
            adverts = self._offers(self._store)
            if (self.flag and not adverts.notify_flag or self.stamp and adverts.stamp not in (self.stamp, "us")
                    or self.max_segments > adverts.max_indirect_segments):
                self._wish = Wish.RENEW

    def _offers(self, store: Transaction) -> BackendAdverts:
        backend = self.place.backend
        return BackendAdverts.parse(Directory(store, backend, self.settings.ignore), backend)

    def _disconnect(self) -> None:
        self._reaper.detach()
        with contextlib.ExitStack() as both:
            for owned in (self._ring, self._segments, self._channel):
                if owned is not None:
                    both.callback(owned.close)
            self._ring = self._segments = self._channel = None


def check_settings(settings: Settings) -> None:
    """Raises UsageError for what cannot be meant."""
    if settings.stamp not in STAMPS:
        raise UsageError(f"stamp is tick, us or None, not {settings.stamp!r}")
    if settings.stamp and settings.abi != 64:
        raise UsageError("requests of the 32-bit ABI have no room for stamps: leave abi or stamp out")
    if settings.abi not in (32, 64):
        raise UsageError(f"abi is 64 (x86_64, arm) or 32 (x86_32), not {settings.abi}")
    if settings.ring_order is not None and not 0 <= settings.ring_order <= 4:
        raise UsageError(f"ring_order is 0 to 4, not {settings.ring_order}")
    if settings.indirect is not None and not 0 <= settings.indirect <= MAX_INDIRECT_SEGMENTS:
        raise UsageError(f"indirect is 0 to {MAX_INDIRECT_SEGMENTS} segments, not {settings.indirect}")
    if not 1 <= settings.depth <= 4096:
        raise UsageError(f"depth is 1 to 4096, not {settings.depth}")
    if not 8 <= settings.pool_pages <= 1 << 16:
        raise UsageError(f"the pool is 8 to 65536 pages, not {settings.pool_pages}")
    if settings.spin_ns < 0:
        raise UsageError(f"spin_ns is 0 or more, not {settings.spin_ns}")
