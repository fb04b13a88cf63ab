"""What one ring of a disk is to Xen: its pages, the pages for its requests' segments, its event channel."""

from __future__ import annotations

from contextlib import ExitStack

from xenpv.closing import Closing
from xenpv.domain import Domain
from xenpv.ring import initialise
from xenpv.xenbus import RingKeys


class SharedRing(Closing):
    """A fresh ring of 2**`order` pages for domain `domid`, with `segment_pages` more. Made whole or not at all.

    Whatever uses it is closed before it. Raises GrantError, EventChannelError.
    """

    def __init__(self, domain: Domain, domid: int, order: int, segment_pages: int) -> None:
        with ExitStack() as made:
            self.pages = domain.grants.share(domid, 1 << order)
            made.callback(self.pages.close)
            initialise(self.pages.memory)
            self.segments = domain.grants.share(domid, segment_pages) if segment_pages else None
            if self.segments is not None:
                made.callback(self.segments.close)
            self.channel = domain.events.bind_unbound(domid)
            made.callback(self.channel.close)
            self._owned = made.pop_all()

    @property
    def keys(self) -> RingKeys:
        """What the backend is told of it."""
        return RingKeys(tuple(self.pages.refs), self.channel.port)

    def close(self) -> None:
        """Give all of it back."""
        self._owned.close()
