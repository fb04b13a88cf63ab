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
import select
import threading
from collections.abc import Collection
from time import monotonic

from xenpv.domain import Domain, Store, Transaction, Watch
from xenpv.errors import AccessDeniedError, ClosedError, DeviceError, NoEntryError, RemoteProtocolError, XenpvError
from xenpv.hypervisors import is_xen
from xenpv.ring import default_spin_ns
from xenpv.timepage import own_clock_is_cheap, place_of
from xenpv.waiting import Latch
from xenpv.wire.blkif import indirect_pages, ring_entries
from xenpv.xenbus import (FAILED, Action, BackendAdverts, DiskFacts, FrontendNode, FrontendRings, Role, Situation, Step,
                          VbdPlace, Wish, XenbusState, next_step, parse_state, vdev_name, vdev_number)

from .buffers import Pool
from .clock import Clock
from .pieces import CONTROL_IOS
from .queue import Queue
from .reaper import Reaper
from .reapers import Reapers
from .rings import SharedRing
from .settings import Settings

log = logging.getLogger("xenpv.frontend")

INDIRECT_AT_ONCE = 32
"""Indirect requests in flight; what comes beyond is sent as direct ones."""
DRAIN_SECONDS = 2.0
"""How long I/O in flight may take to end before the ring is let go."""


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


def _taken(watch: Watch) -> bool:
    """Every event of it; whether there was one."""
    fired = False
    while watch.wait(0) is not None:
        fired = True
    return fired


class Device:
    """One vbd. open() starts its keeper, close() ends it; `reaper` is told of its queues and of its end."""

    def __init__(self, domain: Domain, place: VbdPlace, settings: Settings,
                 reaper: Reaper | Reapers) -> None:
        self._domain = domain
        self._store: Store = domain.store
        self.place = place
        self.name = vdev_name(place.devid)
        self.settings = settings
        self.facts = DiskFacts(0)
        self.adverts = BackendAdverts()
        self.flag = False
        self.trusted = settings.trusted is not False
        self.stamp: str | None = None
        """The unit of stamps that was agreed on."""
        self._clock = Clock(domain, self.name, settings.stamp) if settings.stamp else None
        self.queues = 0
        """Rings that were agreed on."""
        self.ring_order = 0
        self.max_segments = 0
        """Of an indirect request; 0: there are none on these rings."""
        self._reaper = reaper
        reaper.on_broken = self.leave
        self._wish = Wish.RENEW
        self._leaving = False
        self._closing_since: float | None = None
        self._rings: list[SharedRing] = []
        self._pool: Pool | None = None
        self._published: dict[str, str] = {}
        self._last = "nothing was heard from the backend"
        self._settled = Latch()
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
        with contextlib.ExitStack() as all_:
            for owned in (self._clock, self._pool):
                if owned is not None:
                    all_.callback(owned.close)

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
                last.callback(self._settled.open)
                last.callback(self._unpublish)
                if self._pool is not None:
                    last.callback(self._pool.shut)
                self._disconnect()

    def _live(self) -> None:
        with contextlib.ExitStack() as stack:
            paths = [f"{path}/state" for path in (self.place.frontend, self.place.backend)]
            if self.settings.stamp == "tick":
                paths.append(place_of(self._domain.domid))
            watches = [stack.enter_context(self._store.watch(path)) for path in paths]
            poll = select.poll()
            for fd in (self._wake, *(watch.fileno() for watch in watches)):
                poll.register(fd, select.POLLIN)
            while self._settle():
                poll.poll(self._pause())
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                fired = [_taken(watch) for watch in watches]
                self._keep_time(another_page=any(fired[2:]))

    def _pause(self) -> float | None:
        """Milliseconds until there is something to do without an event, or None."""
        tie = self._clock.pause if self._clock is not None and self.stamp else None
        pauses = [pause for pause in (self._patience_left(), None if tie is None else tie * 1000 + 1) if pause is not None]
        return min(pauses, default=None)

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
        return Situation(Role.FRONTEND, own, peer, attached=bool(self._rings), overdue=overdue, wish=self._wish)

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
        self.stamp = self._agreed_stamp(adverts)
        self.ring_order = settings.order(adverts.max_ring_page_order)
        self.flag = adverts.notify_flag and settings.flag is not False
        if self._pool is None:
            self._pool = Pool(self._domain.grants, place.backend_domid, settings.pool_pages)
        self.max_segments = settings.segments(adverts.max_indirect_segments)
        at_once = min(INDIRECT_AT_ONCE, ring_entries(self.ring_order, settings.protocol()))
        segment_pages = at_once * indirect_pages(self.max_segments) if self.max_segments else 0
        self.queues = min(settings.queues, adverts.max_queues)
        for _ in range(self.queues):
            self._rings.append(SharedRing(self._domain, place.backend_domid, self.ring_order, segment_pages))
        rings = FrontendRings(tuple(ring.keys for ring in self._rings), settings.protocol(),
                              persistent=settings.persistent, notify_flag=self.flag, stamp=self.stamp)
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
                for name in FrontendRings.leftovers({name.partition("/")[0] for name in self._published}):
                    transaction.remove(f"{self.place.frontend}/{name}")

        try:
            self._store.transact(remove)
        except XenpvError as error:
            log.warning("%s: the keys of its ring stay in the store: %s", self.name, error)

    def _agreed_stamp(self, adverts: BackendAdverts) -> str | None:
        """The unit of stamps on the rings to come, with a clock for it. A disk in use lives on without. Raises DeviceError,
        TimePageError.
        """
        wanted = self.settings.stamp
        if self._clock is None or adverts.stamp in (wanted, "us"):
            if self._clock is not None:
                self._clock.open()
            return wanted
        mend = (f"start it with --stamp {wanted}" if wanted != "us" or self.place.backend_domid == 0
                else "it is in a driver domain, whose clock is another one: stamp in ticks")
        refusal = f"{self.name}: the backend offers no stamps in {wanted}: {mend}"
        if not self._settled.is_open:
            raise DeviceError(refusal)
        log.warning("%s; until then requests count as of unknown time", refusal)
        return None

    def _ahead_ns(self) -> int | None:
        """As a queue's `time_ahead_ns`: no time for one that would stamp and may not."""
        if self._clock is None:
            return 0
        return self._clock.ahead_ns if self.stamp else None

    def _keep_time(self, *, another_page: bool) -> None:
        """Have the queues follow dom0's time. `another_page`: the store tells something of it."""
        clock = self._clock
        if clock is None:
            return
        if another_page and clock.renew():
            self._reaper.set_time_page(clock.address)
            clock.release()
        if self.stamp and clock.tie():
            self._reaper.set_ahead(clock.ahead_ns)

    def _connect(self) -> None:
        pool = self._pool
        if not self._rings or pool is None:
            raise DeviceError(f"{self.name}: the backend connected to a ring that is not there")
        backend = self.place.backend
        self.facts, self.adverts = self._store.transact(lambda store: (
            DiskFacts.parse(Directory(store, backend), backend), self._offers(store)))
        self._reread()
        if self._wish is Wish.RENEW:
            return
        with contextlib.ExitStack() as made:
            queues = [made.enter_context(self._queue(ring, pool)) for ring in self._rings]
            made.pop_all()
        self._reaper.attach(queues, pool)
        log.info("%s: connected, %d sectors, %d queue(s), flag %s", self.name, self.facts.sectors, len(queues),
                 "on" if self.flag else "off")

    def _queue(self, ring: SharedRing, pool: Pool) -> Queue:
        spin_ns = default_spin_ns(is_xen(self._domain)) if self.settings.spin_ns is None else self.settings.spin_ns
        return Queue(self._domain.open_core(), ring.channel, ring=ring.pages.memory, pool=pool.memory,
                     pool_refs=pool.refs, abi=self.settings.abi, flag=self.flag, handle=self.place.devid,
                     max_ios=pool.pages + CONTROL_IOS, spin_ns=spin_ns, stamp=self.settings.stamp,
                     indirect=ring.segments, max_segments=self.max_segments,
                     time_page=self._clock.address if self._clock is not None else 0,
                     time_ahead_ns=self._ahead_ns(),
                     clock=("us" if own_clock_is_cheap() else "tick") if self.settings.profile else None)

    def _refresh(self) -> None:
        backend = self.place.backend
        facts = self._store.transact(lambda store: DiskFacts.parse(Directory(store, backend), backend))
        if facts.sector_size != self.facts.sector_size:
            raise RemoteProtocolError(f"{backend}/sector-size changed from {self.facts.sector_size} to "
                                      f"{facts.sector_size}: only the size of a disk in use may change")
        if facts.sectors != self.facts.sectors:
            log.info("%s: resized from %d to %d sectors", self.name, self.facts.sectors, facts.sectors)
        self.facts = facts
        self._settled.open()

    def _reread(self) -> None:
        """A backend of another make may have taken over; without its offer the ring's words mean nothing to it."""
        if self.flag or self.stamp or self.max_segments or self.queues > 1:
            adverts = self._offers(self._store)
            if (self.flag and not adverts.notify_flag or self.stamp and adverts.stamp not in (self.stamp, "us")
                    or self.max_segments > adverts.max_indirect_segments or self.queues > adverts.max_queues):
                self._wish = Wish.RENEW

    def _offers(self, store: Transaction) -> BackendAdverts:
        backend = self.place.backend
        return BackendAdverts.parse(Directory(store, backend, self.settings.ignore), backend)

    def _disconnect(self) -> None:
        self._reaper.detach()
        with contextlib.ExitStack() as both:
            for ring in self._rings:
                both.callback(ring.close)
            self._rings = []
