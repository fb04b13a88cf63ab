"""dom0's time page as the backend's queues read it.

RULES
- The backend is subscribed while there is a connection whose requests are stamped in ticks, and no longer.
- A page stays mapped until every queue that was given its address has ended.
"""

from __future__ import annotations

import contextlib
import time

from xenpv.closing import Closing
from xenpv.domain import Domain
from xenpv.errors import HypervisorError, StoreError, TimePageError, TimeStaleError
from xenpv.timepage import CurrentPage, find_page, subscribe

from .log import LOGGER

WAIT_SECONDS = 0.5
"""How long the first connection may be held up by a page that does not tick yet."""
PAUSE = 0.005
"""Seconds between two tries."""


class Lease(Closing):
    """One connection's share in the clock. Its queues have ended when it does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    @property
    def address(self) -> int:
        """Of the page in force, 0 without one: then stamps say that there was no time."""
        return self._clock.address

    def close(self) -> None:
        """The last one ends the subscription."""
        self._clock.give_back(self)


class Clock(Closing):
    """Maps the page when the first stamped ring needs it. For the backend's main thread."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._leases: list[Lease] = []
        self._current = CurrentPage(lambda: find_page(domain))
        self._begun: contextlib.ExitStack | None = None

    @property
    def address(self) -> int:
        """See Lease."""
        return self._current.address

    def lease(self) -> Lease:
        """The page, as long as the lease lasts. Without one that ticks the log says why."""
        if self._begun is None:
            try:
                self._begin()
            except (TimePageError, StoreError, HypervisorError) as error:
                LOGGER.warning("requests cannot be stamped: %s", error)
        lease = Lease(self)
        self._leases.append(lease)
        return lease

    def give_back(self, lease: Lease) -> None:
        """The pair of lease()."""
        if lease not in self._leases:
            return
        self._leases.remove(lease)
        if not self._leases:
            self._end()

    def _begin(self) -> None:
        with contextlib.ExitStack() as begun:
            begun.callback(self._current.close)
            begun.callback(subscribe(self._domain))
            self._begun = begun.pop_all()
        self._wait()

    def _end(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.close()

    def _wait(self) -> None:
        """Until the page ticks. Raises TimePageError when it does not in time; StoreError; HypervisorError."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                if self._current.view is None:
                    self._current.renew()
                if self._current.view is not None and self._current.view.tick() is not None:
                    return
                raise TimeStaleError("dom0's time page does not tick: is `xenpv time publish` running there?")
            except TimePageError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(PAUSE)

    def close(self) -> None:
        """The queues have ended."""
        self._leases.clear()
        self._end()
