"""dom0's side: a page for each domain that asks, written at every tick of the kernel while anybody there is subscribed.

RULES
- A page is valid before its reference is told. Its peer can map it for reading only.
- A domain has one page for as long as it lives and this publisher does: a guest that subscribes again and again uses up
  no pages. While nobody there is subscribed the page says so and is not written; when nobody is anywhere, nothing ticks.
- The kernel clears the byte `alive` when this process dies. A successor makes new pages, each with a generation of its own.
"""

from __future__ import annotations

import logging
import os
import selectors
import time
import uuid
from dataclasses import dataclass

from xenpv.closing import Closing
from xenpv.domain import Domain, SharedPages, Store, Transaction, Watch
from xenpv.errors import ConflictError, HypervisorError, NoEntryError, StoreConnectionError, StoreError, UsageError
from xenpv.wire.timepage import Kind

from .kernel import Kernel
from .page import ALIVE, Facts, PageWriter, Ticker
from .subscription import TOP, place_of, subscribers, wishes_of

__all__ = ["MAX_AGE_NS", "PublishedPage", "Publisher"]

LOGGER = logging.getLogger("xenpv.timepage")

MAX_AGE_NS = 500_000_000
"""A page whose tick is older is stale. Publishers have been seen 12 ms late on a busy host; this is for a busier one."""
CALIBRATE_SECONDS = 1.0
RETRY_SECONDS = 5.0
SLEPT_NS = 100_000_000
_FIRST_RESERVED = 0x7FF0


@dataclass(eq=False)
class PublishedPage:
    """A domain's page."""

    domid: int
    generation: int
    shared: SharedPages
    writer: PageWriter
    ticking: bool = False


class Publisher(Closing):
    """Publishes to whoever subscribes. For one thread. Raises UsageError anywhere but in dom0, StoreError.

    One publisher at a time: whoever starts one holds a lock on that. `start` false: the ticker is stepped by hand.
    """

    def __init__(self, domain: Domain, *, kernel: Kernel | None = None, max_age_ns: int = MAX_AGE_NS,
                 start: bool = True) -> None:
        if domain.domid != 0:
            raise UsageError(f"the time page is dom0's, and this is domain {domain.domid}")
        self._domain = domain
        self._store: Store = domain.store
        self.kernel = kernel or Kernel()
        self._max_age_ns = max_age_ns
        self.boot_id: uuid.UUID = self.kernel.boot_id()
        self._suspended_ns = self.kernel.suspended_ns()
        self._tick_nsec = self.kernel.tick_nsec()
        first = self.kernel.calibrate()
        self.kind = Kind.JIFFIES if first else Kind.COARSE
        self._calibrates = first is not None
        self.pages: dict[int, PublishedPage] = {}
        self._later: set[int] = set()
        self._calibrated_at = time.monotonic()
        self._retry_at = 0.0
        self.stopping = False
        """stop() was called."""
        self._watches: dict[int, Watch] = {}
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, selectors.EVENT_READ, lambda: os.eventfd_read(self._wake))
        self.ticker = Ticker(self._tick_nsec)
        self._closed = False
        try:
            if first:
                self.ticker.calibrate(*first)
            self._remove_stale()
            self._domains = [self._store.watch(name) for name in ("@introduceDomain", "@releaseDomain")]
            for watch in self._domains:
                self._selector.register(watch.fileno(), selectors.EVENT_READ, None)
            if start:
                self.ticker.start()
        except BaseException:
            self.ticker.close()
            os.close(self._wake)
            self._selector.close()
            raise

    def _remove_stale(self) -> None:
        """Nobody reads what a predecessor that was killed has told."""
        try:
            for name in self._store.list(TOP):
                if name.isdigit():
                    self._store.remove(f"{TOP}/{name}")
        except NoEntryError:
            pass

    # ---- the loop

    def serve(self) -> None:
        """Until stop(). Raises StoreConnectionError when the store is gone for good."""
        while not self.stopping:
            self.turn()

    def stop(self) -> None:
        """Make serve() return. For a signal handler and for any thread, before close()."""
        self.stopping = True
        os.eventfd_write(self._wake, 1)

    def heed(self, woken: int) -> None:
        """Let `woken`, a signal_pipe(), interrupt every wait from now on. It may be closed after close()."""
        self._selector.register(woken, selectors.EVENT_READ, lambda: os.read(woken, 4096))

    def turn(self, timeout: float | None = None) -> None:
        """Wait for one thing, at most `timeout` seconds, and do what is due."""
        due = self._due()
        if timeout is not None:
            due = timeout if due is None else min(due, timeout)
        ready = [key for key, _ in self._selector.select(due)]
        fds = {key.fd for key in ready}
        for key in ready:
            if key.data:
                key.data()
        if any(watch.fileno() in fds for watch in self._domains):
            for watch in self._domains:
                while watch.wait(0) is not None:
                    pass
            self._find_domains()
        for domid, watch in list(self._watches.items()):
            if watch.fileno() in fds:
                while watch.wait(0) is not None:
                    pass
                self._look(domid)
        self._do_what_is_due()

    def _due(self) -> float | None:
        """Seconds until there is something to do without an event."""
        moments = [self._calibrated_at + CALIBRATE_SECONDS] if any(page.ticking for page in self.pages.values()) else []
        moments += [self._retry_at] if self._later else []
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if any(page.ticking for page in self.pages.values()) and now >= self._calibrated_at + CALIBRATE_SECONDS:
            self.calibrate()
        if self._later and now >= self._retry_at:
            later, self._later = self._later, set()
            for domid in later:
                self._look(domid)

    def calibrate(self) -> None:
        """Hold the ticks to the kernel's own, and say when the machine has slept."""
        self._calibrated_at = time.monotonic()
        suspended_ns = self.kernel.suspended_ns()
        if suspended_ns - self._suspended_ns > SLEPT_NS:
            LOGGER.warning("this machine slept for %.1f s: every page is disrupted", (suspended_ns - self._suspended_ns) / 1e9)
            self.ticker.disrupt()
        self._suspended_ns = suspended_ns
        found = self.kernel.calibrate() if self._calibrates else None
        if found and self.ticker.calibrate(*found):
            LOGGER.warning("the kernel's tick is not where it was expected: every page is disrupted")

    def free_running(self) -> None:
        """Hold the ticks to the kernel's no more. For faults on purpose."""
        self._calibrates = False

    def replace(self) -> None:
        """End every page and make a new one for whoever is subscribed, as a successor does."""
        domids = list(self.pages)
        while self.pages:
            self._end(self.pages.popitem()[1])
        for domid in domids:
            self._look(domid)

    # ---- domains

    def _find_domains(self) -> None:
        """Domains that came and went."""
        found = {int(name) for name in self._store.list("/local/domain") if name.isdigit() and int(name) < _FIRST_RESERVED}
        for domid in set(self._watches) - found:
            self._forget(domid)
        for domid in found - set(self._watches):
            watch = self._watches[domid] = self._store.watch(wishes_of(domid))
            self._selector.register(watch.fileno(), selectors.EVENT_READ, None)

    def _forget(self, domid: int) -> None:
        watch = self._watches.pop(domid)
        self._selector.unregister(watch.fileno())
        watch.close()
        self._later.discard(domid)
        if domid in self.pages:
            self._end(self.pages.pop(domid))

    def _look(self, domid: int) -> None:
        """Somebody in `domid` has subscribed, or has ended; or the whole domain has."""
        try:
            wanted = bool(subscribers(self._store, domid))
            page = self.pages.get(domid)
            if wanted and page is None:
                page = self.pages[domid] = self._open(domid)
            if page is not None and wanted != page.ticking:
                self._tick(page, wanted)
        except StoreConnectionError:
            raise
        except (StoreError, HypervisorError) as error:
            LOGGER.error("domain %d gets no time page for now: %s", domid, error)
            self._later.add(domid)
            self._retry_at = time.monotonic() + RETRY_SECONDS

    def _tick(self, page: PublishedPage, wanted: bool) -> None:
        """Begin to write the page, or stop."""
        if wanted:
            if not any(other.ticking for other in self.pages.values()):
                self.calibrate()
            self.ticker.add(page.writer, self.kernel.coarse_ns())
            page.writer.pause(False)
        else:
            self.ticker.remove(page.writer)
            page.writer.pause(True)
        page.ticking = wanted
        LOGGER.info("domain %d: %s", page.domid, "ticks" if wanted else "nobody is subscribed any more")

    # ---- pages

    def _generation(self) -> int:
        """A number that no page of this store had before."""
        def step(transaction: Transaction) -> int:
            try:
                last = transaction.read(f"{TOP}/generation")
            except NoEntryError:
                last = b"0"
            number = int(last) + 1 if last.isdigit() else time.time_ns()
            transaction.mkdir(TOP)
            transaction.set_permissions(TOP, ["n0"])
            transaction.write(f"{TOP}/generation", str(number))
            return number

        return self._store.transact(step)

    def _open(self, domid: int) -> PublishedPage:
        """The pair of _end. Raises GrantError, StoreError."""
        generation = self._generation()
        facts = Facts(self._tick_nsec, round(1e9 / self._tick_nsec), self.kind, self.boot_id, generation, self._max_age_ns)
        shared = self._domain.grants.share(domid, writable=False)
        page = PublishedPage(domid, generation, shared, PageWriter(shared.memory, facts))
        try:
            shared.on_unmap(clear=ALIVE)
            self._tick(page, True)
            self._tell(page)
        except BaseException:
            self.ticker.remove(page.writer)
            page.writer.close()
            shared.close()
            raise
        return page

    def _tell(self, page: PublishedPage) -> None:
        place, readable = place_of(page.domid), ["n0", f"r{page.domid}"]

        def write(transaction: Transaction) -> None:
            for path, value in ((place, ""), (f"{place}/generation", str(page.generation)),
                                (f"{place}/ref", str(page.shared.refs[0]))):
                transaction.write(path, value)
                transaction.set_permissions(path, readable)

        self._store.transact(write)

    def _end(self, page: PublishedPage) -> None:
        """Retire the page: whoever has it mapped sees that it is dead."""
        self.ticker.remove(page.writer)
        page.writer.retire()
        page.writer.close()
        try:
            self._store.remove(place_of(page.domid))
        except (NoEntryError, ConflictError, StoreError) as error:
            LOGGER.debug("domain %d: its page's keys stay: %s", page.domid, error)
        page.shared.close()

    def close(self) -> None:
        """End every page."""
        if self._closed:
            return
        self._closed = True
        while self.pages:
            self._end(self.pages.popitem()[1])
        self.ticker.close()
        for watch in (*self._watches.values(), *self._domains):
            try:
                watch.close()
            except StoreError as error:
                LOGGER.debug("while leaving: %s", error)
        self._selector.close()
        os.close(self._wake)
