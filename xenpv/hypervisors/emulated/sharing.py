"""Our pages for other domains: an allocator over segments (core/emulated.h).

RULES
- A page is zeroed before its next grant, and never granted again while its peer has it mapped: its end is tried again
  at every later share and close.
- The pages of one share stand side by side in our memory: segments are put there, one behind the other.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import weakref
from typing import Any

from xenpv.core import ffi, lib
from xenpv.errors import ClosedError, GrantError, HypervisorError, LocalProtocolError

from ..base import IN_USE, OwnPages
from . import calls
from .calls import PAGE_SIZE, SEGMENT_PAGES, SEGMENT_SIZE, TABLE_ENDED, Call, Op, Refused
from .link import Link

_PAGES_MAX = 1 << 18
_TABLE_STRIDE = max(PAGE_SIZE, mmap.PAGESIZE)
_NO_SPACE, _BAD_DOMAIN = -13, -2


def find_run(free: int, count: int) -> int:
    """The first of `count` bits in a row that are set in `free`, or -1."""
    runs, length = free, 1
    while length < count and runs:
        step = min(length, count - length)
        runs &= runs >> step
        length += step
    return (runs & -runs).bit_length() - 1


def _let_go(memory: mmap.mmap) -> None:
    """Nothing but holding `memory` until now."""


class OwnRegion:
    """Segments of ours whose pages stand side by side, and which pages are free (bit masks over all of them)."""

    def __init__(self, link: Link, foreign: int, segments: int, writable: bool) -> None:
        self.foreign = foreign
        self.writable = writable
        self.numbers: list[int] = []
        self.all = self.free = (1 << segments * SEGMENT_PAGES) - 1
        self.dirty = 0
        self.ending = 0
        # Addresses to put the segments at. Python's mmap would keep a descriptor for each, and choose the place.
        self._memory = mmap.mmap(-1, segments * SEGMENT_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._tables = mmap.mmap(-1, segments * _TABLE_STRIDE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory_at: Any = ffi.from_buffer("uint8_t[]", self._memory)
        self._tables_at: Any = ffi.from_buffer("uint8_t[]", self._tables)
        try:
            for index in range(segments):
                self._add(link, index)
        except BaseException:
            self.close()
            self.free_segments(link)
            raise

    def _add(self, link: Link, index: int) -> None:
        reply = link.call(Call(Op.SEGMENT_NEW, self.foreign, flags=calls.WRITABLE if self.writable else 0), fds=2)
        self.numbers.append(reply.number)
        try:
            for place, size, fd in ((self._tables_at + index * _TABLE_STRIDE, PAGE_SIZE, reply.fds[0]),
                                    (self._memory_at + index * SEGMENT_SIZE, SEGMENT_SIZE, reply.fds[1])):
                error = lib.xenpv_emulated_place(place, size, fd)
                if error:
                    raise GrantError(f"cannot map a segment of our own: {os.strerror(-error)}", _NO_SPACE)
        finally:
            for fd in reply.fds:
                os.close(fd)
        link.call(Call(Op.SEGMENT_READY, number=reply.number))

    def free_segments(self, link: Link) -> None:
        """Give the segments back to the host. They are mapped here no more."""
        while self.numbers:
            link.call(Call(Op.SEGMENT_FREE, number=self.numbers.pop()))

    @property
    def ended(self) -> bool:
        """Its foreign domain is gone: nothing may be granted here any more."""
        return any(self._tables[index * _TABLE_STRIDE + TABLE_ENDED] for index in range(len(self.numbers)))

    def refs(self, first: int, count: int) -> list[int]:
        """The grant references of `count` pages from the region's page `first`."""
        return [self.numbers[page // SEGMENT_PAGES] * SEGMENT_PAGES + page % SEGMENT_PAGES
                for page in range(first, first + count)]

    def _entry(self, page: int) -> tuple[Any, int]:
        return self._tables_at + page // SEGMENT_PAGES * _TABLE_STRIDE, page % SEGMENT_PAGES

    def take(self, count: int) -> int:
        """The first page of a new grant of `count` pages, zero and offered; -1 without room."""
        first = find_run(self.free, count)
        if first < 0:
            return -1
        mask = (1 << count) - 1 << first
        if self.dirty & mask:
            self._memory[first * PAGE_SIZE:(first + count) * PAGE_SIZE] = bytes(count * PAGE_SIZE)
        self.free &= ~mask
        self.dirty |= mask
        for page in range(first, first + count):
            lib.xenpv_emulated_offer(*self._entry(page), self.foreign, self.writable)
        return first

    def clear_at_end(self, link: Link, byte: int, armed: bool) -> None:
        """Have the host set `byte` of the region to 0 when our connection ends, or not any more."""
        link.call(Call(Op.UNMAP_CLEAR, int(armed), self.numbers[byte // SEGMENT_SIZE], byte % SEGMENT_SIZE))

    def give(self, first: int, count: int) -> None:
        """End the grants of these pages, now or when they are no longer mapped."""
        self.ending |= (1 << count) - 1 << first
        self.sweep()

    def sweep(self) -> None:
        """Free the pages that wait for their end and are no longer mapped."""
        waiting = self.ending
        while waiting:
            page = (waiting & -waiting).bit_length() - 1
            waiting &= waiting - 1
            if lib.xenpv_emulated_end(*self._entry(page)) == 0:
                self.ending &= ~(1 << page)
                self.free |= 1 << page

    def clear(self, first: int, byte: int) -> None:
        """Set to 0 `byte` of the pages from `first` on."""
        self._memory[first * PAGE_SIZE + byte] = 0

    def lend(self, first: int, count: int) -> Any:
        """An object that exports these pages; as long as it lives the memory stays where it is."""
        lent = ffi.buffer(self._memory_at + first * PAGE_SIZE, count * PAGE_SIZE)
        weakref.finalize(lent, _let_go, self._memory).atexit = False
        return lent

    def close(self) -> None:
        """Let go of the memory. What is lent keeps it."""
        ffi.release(self._memory_at)
        ffi.release(self._tables_at)
        self._tables.close()
        del self._memory


class EmulatedSharedPages(OwnPages):
    """SharedPages of the emulated Xen."""

    def __init__(self, owner: Sharing, region: OwnRegion, first: int, count: int) -> None:
        self._owner = owner
        self.region = region
        self.first = first
        self.count = count
        lent = region.lend(first, count)
        self._in_use = weakref.ref(lent)
        super().__init__(region.refs(first, count), memoryview(lent))
        self._to_clear: set[int] = set()

    def on_unmap(self, *, clear: int) -> None:
        """See xenpv.domain.SharedPages. Raises GrantError, ValueError."""
        self._check(clear)
        self._owner.clear_at_end(self, clear, True)
        self._to_clear = {byte for byte in self._to_clear if byte // PAGE_SIZE != clear // PAGE_SIZE} | {clear}

    def close(self) -> None:
        """End the grants. Raises LocalProtocolError while a slice of `memory` is in use; then nothing is ended."""
        if self._memory is None:
            return
        try:
            self._memory.release()
        except BufferError as error:
            raise LocalProtocolError(IN_USE) from error
        lent = self._in_use()
        if lent is not None:  # a slice does not hold the memoryview that it was taken from, but what that one exports
            self._memory = memoryview(lent)
            raise LocalProtocolError(IN_USE)
        self._memory = None
        for byte in self._to_clear:
            self.region.clear(self.first, byte)
            self._owner.clear_at_end(self, byte, False)
        self._owner.give(self)

    def abandon(self) -> None:
        """The domain is closed: its connection ends the grants, and memory still in use here is never granted again."""
        if self._memory is not None:
            try:
                self._memory.release()
            except BufferError:
                pass
            self._memory = None


class Sharing:
    """The allocator: regions by peer and kind."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._regions: list[OwnRegion] = []
        self._shared: set[EmulatedSharedPages] = set()
        self._closed = False

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> EmulatedSharedPages:
        """See xenpv.domain.Grants.share. Raises GrantError; ValueError for a count below 1 or no domain number."""
        if not 1 <= count <= _PAGES_MAX:
            raise ValueError(f"a share is 1 to {_PAGES_MAX} pages, not {count}")
        if not 0 <= domid <= 0xFFFFFFFF:
            raise ValueError(f"{domid} is no domain number")
        with self._lock:
            if self._closed:
                raise ClosedError("this domain was closed")
            self._sweep()
            for region in self._regions:
                if region.foreign == domid and region.writable == writable and not region.ended:
                    first = region.take(count)
                    if first >= 0:
                        break
            else:
                region = self._new(domid, -(-count // SEGMENT_PAGES), writable)
                first = region.take(count)
            pages = EmulatedSharedPages(self, region, first, count)
            self._shared.add(pages)
            return pages

    def _new(self, domid: int, segments: int, writable: bool) -> OwnRegion:
        try:
            region = OwnRegion(self._link, domid, segments, writable)
        except Refused as refusal:
            if refusal.code == errno.ESRCH:
                raise GrantError(f"cannot grant pages to domain {domid}: there is no such domain",
                                 _BAD_DOMAIN) from refusal
            raise GrantError(f"cannot grant more pages to domain {domid}: no space (close what is no longer used)",
                             _NO_SPACE) from refusal
        self._regions.append(region)
        return region

    def clear_at_end(self, pages: EmulatedSharedPages, byte: int, armed: bool) -> None:
        """See OwnRegion. Raises GrantError when the segment is ended already, HypervisorError without a host."""
        with self._lock:
            if self._closed:
                return
            try:
                pages.region.clear_at_end(self._link, pages.first * PAGE_SIZE + byte, armed)
            except Refused as refusal:
                raise GrantError(f"cannot have byte {byte} cleared when these pages end: {refusal}") from refusal
            except HypervisorError:
                if armed:
                    raise  # else the host is gone, and cleared nothing

    def give(self, pages: EmulatedSharedPages) -> None:
        """The pair of share."""
        with self._lock:
            self._shared.discard(pages)
            if self._closed:
                return
            pages.region.give(pages.first, pages.count)
            try:
                self._sweep()
            except HypervisorError:
                pass  # the host is gone, and every grant with it

    def _sweep(self) -> None:
        """Try again to end what was mapped; give back regions that nobody uses, but for one small one of a kind."""
        kept: set[tuple[int, bool]] = set()
        for region in list(self._regions):
            if region.ending:
                region.sweep()
            if region.free != region.all:
                continue
            kind = region.foreign, region.writable
            if region.ended or kind in kept or len(region.numbers) > 1:
                self._regions.remove(region)
                region.close()
                region.free_segments(self._link)
            else:
                kept.add(kind)

    def close(self) -> None:
        """End every grant, now: what peers have mapped stays with them, and nobody maps anything more."""
        with self._lock:
            self._closed = True
            for pages in self._shared:
                pages.abandon()
            self._shared.clear()
            for region in self._regions:
                region.close()
                try:
                    region.free_segments(self._link)
                except HypervisorError:
                    pass  # the host is gone, and every grant with it
            self._regions.clear()
