"""The page in force, for the core's queues, which read its tick by its address and in threads of their own.

RULES
- A page stays mapped as long as anybody may read it: release() is told which ones these are.
- A page of another generation is another page: its ticks may have nothing to do with those before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import ExitStack

from xenpv.closing import Closing
from xenpv.errors import TimeTornError

from .page import PageView
from .reader import DEADLINE_NS, PAUSE

__all__ = ["CurrentPage"]


def _generation(view: PageView) -> int:
    """A page that is being written is tried again. Raises TimeMalformedError, TimeTornError."""
    deadline = time.monotonic_ns() + DEADLINE_NS
    while True:
        try:
            return view.read().facts.generation
        except TimeTornError:
            if time.monotonic_ns() >= deadline:
                raise
            time.sleep(PAUSE)


class CurrentPage(Closing):
    """The page that `locate` maps, which raises TimePageError when there is none. For one thread."""

    def __init__(self, locate: Callable[[], PageView]) -> None:
        self._locate = locate
        self._pages: list[PageView] = []
        self.generation: int | None = None
        """Of the page in force."""

    @property
    def view(self) -> PageView | None:
        """The page in force, which may be dead by now; None before there was one."""
        return self._pages[-1] if self._pages else None

    @property
    def address(self) -> int:
        """Where it is; 0 before there was one."""
        return self._pages[-1].address if self._pages else 0

    @property
    def mapped(self) -> list[int]:
        """The addresses of all pages, oldest first."""
        return [view.address for view in self._pages]

    def renew(self) -> bool:
        """Look the page up anew: whether another one is in force now.

        Raises what `locate` raises, and TimePageError for a page that is none; then all is as it was.
        """
        with ExitStack() as found:
            view = found.enter_context(self._locate())
            generation = _generation(view)
            if self._pages and generation == self.generation:
                return False
            found.pop_all()
        self._pages.append(view)
        self.generation = generation
        return True

    def release(self, read: Collection[int] = ()) -> None:
        """Unmap every page that is neither in force nor `read`: addresses."""
        unread = [view for view in self._pages[:-1] if view.address not in read]
        self._pages = [view for view in self._pages if view not in unread]
        for view in unread:
            view.close()

    def close(self) -> None:
        """Unmap them all: nobody reads them any more."""
        pages, self._pages = self._pages, []
        with ExitStack() as stack:
            for view in pages:
                stack.callback(view.close)
