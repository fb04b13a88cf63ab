"""The pool: pages that stay granted to the backend, and the runs of them that I/O goes through.

RULES
- A page is granted once, zeroed and for this alone (XSA-403): no caller's memory is ever granted, data is copied.
- A run lies within one share, so that its bytes are contiguous.
- Whoever keeps pages for long (a batch, a stream) leaves `reserve` of them, so that a single I/O never waits for ever.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from xenpv.domain import PAGE_SIZE, Grants, SharedPages
from xenpv.errors import ClosedError, LocalProtocolError
from xenpv.waiting import Changes

SHARE_PAGES = 256
"""Pages that are shared at once, and so the longest run: 1 MiB."""

NOTHING = memoryview(b"")


def pages_of(length: int) -> int:
    """Pages that `length` bytes need."""
    return -(-length // PAGE_SIZE)


def still_in_use() -> LocalProtocolError:
    """What a caller hears who kept a slice of memory that was lent."""
    return LocalProtocolError("memory of a chunk or of a batch's buffer is still in use: copy what is to be kept")


def let_go(view: memoryview) -> None:
    """Release a view that a caller had. Raises LocalProtocolError when it uses it still."""
    try:
        view.release()
    except BufferError:
        raise still_in_use() from None


@dataclass(slots=True)
class Run:
    """`pages` pages from page `first` of the pool; `view` is their bytes, until the run is given back."""

    first: int
    pages: int
    view: memoryview


def find_run(free: int, pages: int) -> int:
    """The lowest bit of `free` at which `pages` bits are set in a row, or -1."""
    have, need = free, 1
    while have and need < pages:
        step = min(need, pages - need)
        have &= have >> step
        need += step
    return (have & -have).bit_length() - 1


class _Part:
    """One share and which of its pages are free, as a bit mask."""

    def __init__(self, shared: SharedPages, first: int, pages: int) -> None:
        self.shared = shared
        self.first = first
        self.free = (1 << pages) - 1


class Pool:
    """`pages` pages, granted to domain `domid` from here to close(). Raises GrantError."""

    def __init__(self, grants: Grants, domid: int, pages: int) -> None:
        self._parts: list[_Part] = []
        self._lock = threading.RLock()
        self._room = Changes()
        self._closed = False
        self._out: dict[int, Run] = {}
        self.pages = pages
        self.reserve = max(1, min(32, pages // 4))
        self.free = pages
        try:
            for first in range(0, pages, SHARE_PAGES):
                count = min(SHARE_PAGES, pages - first)
                self._parts.append(_Part(grants.share(domid, count), first, count))
        except BaseException:
            self.close()
            raise
        self.memory = [part.shared.memory for part in self._parts]
        self.refs = [ref for part in self._parts for ref in part.shared.refs]

    def shut(self) -> None:
        """Give nothing out any more: whoever waits gets ClosedError."""
        with self._lock:
            self._closed = True
            self._room.tell()

    def close(self) -> None:
        """End the grants. The queue that used them is closed first. Runs that are still out are void.

        Raises LocalProtocolError while a caller keeps a slice of a run's memory; release it and close again.
        """
        self.shut()
        with self._lock:
            for run in self._out.values():
                run.view.release()
        for part in self._parts:
            part.shared.close()

    def take(self, pages: int) -> Run | None:
        """A run of `pages` pages, or the longest there is below that; None when no page is free. Raises ClosedError."""
        with self._lock:
            return self._take(min(pages, SHARE_PAGES), exact=False)

    def take_waiting(self, pages: int) -> Run:
        """Like take(), but waits for a page. Raises ClosedError when the pool is closed meanwhile."""
        while True:
            with self._lock:
                if (run := self._take(min(pages, SHARE_PAGES), exact=False)) is not None:
                    return run
                room = self._room.next()
            room.wait()

    def hold(self, pages: int, count: int) -> list[Run]:
        """Up to `count` runs of exactly `pages` pages each, to keep for long; what single I/O needs stays free."""
        runs: list[Run] = []
        with self._lock:
            while len(runs) < count and self.free - pages >= self.reserve:
                run = self._take(pages, exact=True)
                if run is None:
                    break
                runs.append(run)
        return runs

    def give(self, run: Run) -> None:
        """The pair of take() and hold(): no I/O on the run is in flight any more."""
        run.view.release()
        with self._lock:
            del self._out[run.first]
            part = self._parts[run.first // SHARE_PAGES]
            part.free |= ((1 << run.pages) - 1) << (run.first - part.first)
            self.free += run.pages
            self._room.tell()

    def _take(self, pages: int, *, exact: bool) -> Run | None:
        if self._closed:
            raise ClosedError("the disk is closed")
        while pages:
            for part in self._parts:
                at = find_run(part.free, pages)
                if at >= 0:
                    part.free &= ~(((1 << pages) - 1) << at)
                    self.free -= pages
                    run = self._out[part.first + at] = Run(part.first + at, pages, NOTHING)
                    # In the books before it has memory: an exception of a signal's handler may come between any two
                    # lines, and a slice that only its traceback knows would keep close() from ending the grants.
                    run.view = part.shared.memory[at * PAGE_SIZE:(at + pages) * PAGE_SIZE]
                    return run
            if exact:
                return None
            pages //= 2
        return None
