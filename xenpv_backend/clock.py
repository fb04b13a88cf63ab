"""dom0's time page as the backend's queues read it.

RULES
- The backend is subscribed while there is a connection whose requests are stamped in ticks, and no longer.
- A publisher that starts again has another page, and the store says so: every queue is given it, in its own thread and
  when that gets there. Nobody waits for it: of a storage that hangs that may be never.
- A page stays mapped until every queue that was given its address has taken a later one, or has ended.
- The main thread waits for a page for WAIT_SECONDS in all, whatever guests do: after that a page is given to the queues
  once the store tells of it, and ticks once its publisher knows of us.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from xenpv.closing import Closing
from xenpv.domain import Domain, Watch
from xenpv.errors import HypervisorError, StoreConnectionError, StoreError, TimeAbsentError, TimePageError, TimeStaleError
from xenpv.timepage import CurrentPage, find_page, place_of, subscribe

from .log import LOGGER

WAIT_SECONDS = 0.5
"""How long connections may be held up by a page that does not tick yet, all of them together."""
PAUSE = 0.005
"""Seconds between two tries."""

Errand = Callable[[], None]


class Loop(Protocol):
    """What waits for descriptors; see daemon.Loop."""

    def add(self, fd: int, callback: Errand) -> None: ...

    def remove(self, fd: int) -> None: ...


class _Reads:
    """The addresses that a queue's thread may read, in the order in which it was given them. For the main thread."""

    def __init__(self, address: int, soon: Callable[[Errand], None], set_page: Callable[[int], None]) -> None:
        self.addresses = deque([address])
        self._soon = soon
        self._set_page = set_page

    def give(self, address: int, taken: Callable[[_Reads, int], None]) -> None:
        """Have the queue's thread read the page at `address`, and then call `taken`."""
        def take() -> None:
            self._set_page(address)
            taken(self, address)

        self.addresses.append(address)
        self._soon(take)

    def taken(self, address: int) -> None:
        """It reads none any more that it was given before."""
        while self.addresses[0] != address:
            self.addresses.popleft()


class Lease(Closing):
    """One connection's share in the clock. Its queues have ended when it does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.reads: list[_Reads] = []

    @property
    def address(self) -> int:
        """Of the page in force, 0 without one: then stamps say that there was no time."""
        return self._clock.address

    def add(self, soon: Callable[[Errand], None], set_page: Callable[[int], None]) -> None:
        """A queue that was given `address` just now. `soon` calls a function in its thread, `set_page` is for there."""
        self.reads.append(_Reads(self.address, soon, set_page))

    def close(self) -> None:
        """The last one ends the subscription."""
        self._clock.give_back(self)


class Clock(Closing):
    """Maps the page when the first stamped ring needs it. For the backend's main thread, in which `soon` calls from any."""

    def __init__(self, domain: Domain, loop: Loop, soon: Callable[[Errand], None]) -> None:
        self._domain = domain
        self._loop = loop
        self._soon = soon
        self._leases: list[Lease] = []
        self._current = CurrentPage(lambda: find_page(domain))
        self._watch: Watch | None = None
        self._begun: contextlib.ExitStack | None = None
        self._patience = WAIT_SECONDS

    @property
    def address(self) -> int:
        """See Lease."""
        return self._current.address

    @property
    def mapped(self) -> list[int]:
        """The addresses of all pages that are mapped, oldest first."""
        return self._current.mapped

    def lease(self) -> Lease:
        """The page, as long as the lease lasts. Without one that ticks the log says why."""
        if self._begun is None:
            try:
                self._begin()
            except (TimePageError, StoreError, HypervisorError) as error:
                LOGGER.warning("requests cannot be stamped for now: %s", error)
        lease = Lease(self)
        self._leases.append(lease)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The pair of lease()."""
        if lease not in self._leases:
            return
        self._leases.remove(lease)
        if self._leases:
            self._release()
        else:
            self._end()

    def _begin(self) -> None:
        with contextlib.ExitStack() as begun:
            begun.callback(self._current.close)
            begun.callback(subscribe(self._domain))
            begun.callback(self._unwatch)
            self._watch = self._domain.store.watch(place_of(self._domain.domid))
            self._loop.add(self._watch.fileno(), self._look)
            self._begun = begun.pop_all()
        self._wait()

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            self._loop.remove(watch.fileno())
            try:
                watch.close()
            except StoreError as error:
                LOGGER.error("while leaving dom0's time page: %s", error)

    def _end(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.close()

    def _wait(self) -> None:
        """Until the page ticks. Raises TimePageError when it does not in time; StoreError; HypervisorError."""
        begun = time.monotonic()
        try:
            while True:
                try:
                    return self._try()
                except TimePageError:
                    if time.monotonic() - begun >= self._patience:
                        raise
                time.sleep(PAUSE)
        finally:
            self._patience = max(0.0, self._patience - (time.monotonic() - begun))

    def _try(self) -> None:
        if self._current.view is None or not self._current.view.alive():
            self._current.renew()
        if self._current.view is None or self._current.view.tick() is None:
            raise TimeStaleError("dom0's time page does not tick: is `xenpv time publish` running there?")

    def _look(self) -> None:
        """The store tells something of the page: that it has ended, or of another one."""
        if self._watch is None:
            return
        while self._watch.wait(0) is not None:
            pass
        try:
            if not self._current.renew():
                return
        except TimeAbsentError:
            return  # until there is a publisher again, which is another event
        except StoreConnectionError:
            raise
        except (TimePageError, StoreError, HypervisorError) as error:
            LOGGER.warning("requests cannot be stamped for now: %s", error)
            return
        LOGGER.info("dom0's time page is of generation %d now", self._current.generation)
        for lease in self._leases:
            for reads in lease.reads:
                reads.give(self._current.address, self._taken)

    def _taken(self, reads: _Reads, address: int) -> None:
        """In a queue's thread."""
        self._soon(partial(self._taken_here, reads, address))

    def _taken_here(self, reads: _Reads, address: int) -> None:
        reads.taken(address)
        self._release()

    def _release(self) -> None:
        self._current.release({address for lease in self._leases for reads in lease.reads for address in reads.addresses})

    def close(self) -> None:
        """The queues have ended."""
        self._leases.clear()
        self._end()
