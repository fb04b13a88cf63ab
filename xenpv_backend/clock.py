"""dom0's time page as the backend's queues read it: mapped when the first stamped ring needs it."""

from __future__ import annotations

import contextlib

from xenpv.closing import Closing
from xenpv.domain import Domain
from xenpv.errors import HypervisorError, StoreError, TimePageError
from xenpv.timepage import Reader, open_reader

from .log import LOGGER

WAIT_SECONDS = 0.5
"""How long a connection may be held up by a page that does not tick yet."""


class Clock(Closing):
    """The pages that queues were given stay mapped until close(), also those whose publisher has ended."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._readers: list[Reader] = []

    def page(self) -> int:
        """The address of a page that ticks, or 0: then stamps say that there was no time."""
        if self._readers:
            view = self._readers[-1].view
            if view is not None and view.tick() is not None:
                return view.address
        try:
            reader = open_reader(self._domain, timeout=WAIT_SECONDS)
        except (TimePageError, StoreError, HypervisorError) as error:
            LOGGER.warning("requests cannot be stamped: %s", error)
            return 0
        self._readers.append(reader)
        view = reader.view
        return view.address if view is not None else 0

    def close(self) -> None:
        """Unmap them all: the queues have ended."""
        with contextlib.ExitStack() as stack:
            for reader in self._readers:
                stack.callback(reader.close)
        self._readers.clear()
