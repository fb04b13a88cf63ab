"""dom0's time as one disk's queues need it: a page for ticks; for microseconds, how far this end's clock is from dom0's.

RULES
- For the keeper alone: no other thread reads a page that the keeper may unmap.
- What was there once stays as it is, or is followed to where it is now. Whoever goes away, publisher or backend, costs
  times and no disk.
- Two clocks drift apart. Those of two kernels are tied anew while requests are stamped in microseconds, and at no other
  time does anything wake.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from time import monotonic

from xenpv.closing import Closing
from xenpv.domain import Domain
from xenpv.errors import (DeviceError, HypervisorError, StoreConnectionError, StoreError, TimeAbsentError,
                          TimeDisruptedError, TimePageError)
from xenpv.timepage import CurrentPage, Reader, find_page, open_reader, own_clock_is_cheap

log = logging.getLogger("xenpv.frontend")

TIE_SECONDS = 0.5
"""Between two ties: of clocks that drift by 10 ppm, what is compared is off by 5 us at the most."""
AGREE_SECONDS = 0.25
"""How long the keeper may watch a page that the clocks have yet to agree with while the disk is in use."""
FAR_NS = 1 << 62
"""No two clocks are so far apart; the core has 63 bits for it."""


def _tie(reader: Reader, seconds: float = 2.0) -> int | None:
    ahead_ns = reader.tie(seconds=seconds)
    return ahead_ns if ahead_ns is not None and abs(ahead_ns) < FAR_NS else None


class Clock(Closing):
    """The clock of the disk `name`, for stamps in `unit`, ``tick`` or ``us``."""

    def __init__(self, domain: Domain, name: str, unit: str) -> None:
        self._domain = domain
        self._name = name
        self._unit = unit
        self._reader: Reader | None = None
        self._page: CurrentPage | None = None  # what queues that stamp in ticks read
        self._due: float | None = None
        self.ahead_ns: int | None = 0
        """What this end's clock says more than dom0's; None while nobody knows."""

    def open(self) -> None:
        """Once: the page that ticks now, and for microseconds the two clocks tied.

        Raises TimePageError when nobody publishes; DeviceError when there are no microseconds to be had; StoreError;
        HypervisorError.
        """
        if self._reader is not None:
            return
        if self._unit == "us" and not own_clock_is_cheap():
            raise DeviceError(f"{self._name}: this domain's CLOCK_MONOTONIC costs more than a microsecond: stamp in ticks")
        with contextlib.ExitStack() as made:
            reader = open_reader(self._domain)
            made.callback(reader.close)
            if self._unit == "tick":
                page = made.enter_context(CurrentPage(partial(find_page, self._domain)))
                page.renew()
                self._page = page
            elif not reader.one_clock:
                self.ahead_ns = _tie(reader)
                if self.ahead_ns is None:
                    raise DeviceError(f"{self._name}: this domain's clock does not agree with dom0's time page: stamp in "
                                      "ticks")
                self._due = monotonic() + TIE_SECONDS
            self._reader = reader
            made.pop_all()

    @property
    def address(self) -> int:
        """Of the page in force; 0 where stamps are no ticks."""
        return self._page.address if self._page is not None else 0

    def renew(self) -> bool:
        """The store tells something of dom0's time page: whether `address` is another one now. The page before stays
        mapped until release().
        """
        if self._page is None:
            return False
        try:
            return self._page.renew()
        except TimeAbsentError:
            return False  # until there is a publisher again, which is another event
        except StoreConnectionError:
            raise
        except (TimePageError, StoreError, HypervisorError) as error:
            log.warning("%s: requests cannot be stamped for now: %s", self._name, error)
            return False

    def release(self) -> None:
        """No queue reads any page but the one in force."""
        if self._page is not None:
            self._page.release()

    @property
    def pause(self) -> float | None:
        """Seconds until tie() has something to do; None: it never has."""
        return None if self._due is None else max(0.0, self._due - monotonic())

    def tie(self) -> bool:
        """Tie the clocks anew, if that is due: whether `ahead_ns` is another one now."""
        if self._reader is None or self._due is None or monotonic() < self._due:
            return False
        before = self.ahead_ns
        self._due = monotonic() + TIE_SECONDS
        try:
            self.ahead_ns = _tie(self._reader, AGREE_SECONDS)
        except TimeDisruptedError as error:
            log.warning("%s: requests cannot be stamped for now: %s", self._name, error)
            self.ahead_ns = None
            self._due = monotonic()
        except StoreConnectionError:
            raise
        except (TimePageError, StoreError, HypervisorError):
            pass  # the clocks stay tied as they were: they drift, and no page says so
        return self.ahead_ns != before

    def close(self) -> None:
        """Unmap every page, and have nothing tick any more: no queue reads them."""
        self._due = None
        with contextlib.ExitStack() as both:
            for owned in (self._reader, self._page):
                if owned is not None:
                    both.callback(owned.close)
        self._reader = self._page = None
