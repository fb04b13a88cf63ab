"""Our pages for other domains, through /dev/xen/gntalloc.

RULES
- Xen cannot make a peer let go of a page. What it has mapped still counts against gntalloc's limit, and is freed by the
  kernel when the peer unmaps it.
- Pages are never inherited by a child, which would keep the grants in use.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Sequence

from xenpv.core import ffi, lib
from xenpv.domain import PAGE_SIZE, EventChannel
from xenpv.errors import ClosedError, GrantError, LocalProtocolError

from ..base import IN_USE, OwnPages
from .devices import GNTALLOC, GNTALLOC_LIMIT

_PAGES_MAX = 65536
_GENERAL, _BAD_DOMAIN, _NO_SPACE = -1, -2, -13
_DOMID_FIRST_RESERVED = 0x7FF0


class XenSharedPages(OwnPages):
    """SharedPages of real Xen."""

    def __init__(self, owner: Sharing, index: int, refs: Sequence[int], pages: mmap.mmap) -> None:
        self._owner = owner
        self._index = index
        self._pages = pages
        super().__init__(refs, memoryview(pages))

    def on_unmap(self, *, clear: int | None = None, notify: EventChannel | None = None) -> None:
        """What the kernel does when these pages are ours no more, also when this process dies.

        `clear`: set this byte to 0. `notify`: send an event through this channel. A later call for the same page
        replaces the earlier. Raises GrantError, ValueError.
        """
        self._check(clear or 0)
        self._owner.unmap_notify(self._index + (clear or 0), clear is not None, notify)

    def close(self) -> None:
        """End the grants. Raises LocalProtocolError while a slice of `memory` is in use; then nothing is ended."""
        if self._memory is None:
            return
        try:
            self._memory.release()
            self._pages.close()
        except BufferError as error:
            self._memory = memoryview(self._pages)
            raise LocalProtocolError(IN_USE) from error
        self._memory = None
        self._owner.unshare(self, self._index, len(self._refs))

    def abandon(self) -> None:
        """close() without a complaint: memory that is still in use stays granted as long as it is."""
        try:
            self.close()
        except LocalProtocolError:
            self._memory = None
            self._owner.unshare(self, self._index, len(self._refs))


class Sharing:
    """One open /dev/xen/gntalloc, for any thread. Opened when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._shared: set[XenSharedPages] = set()
        self._closed = False

    def _device(self) -> int:
        """The descriptor. The lock is held."""
        if self._closed:
            raise ClosedError("this domain was closed")
        if self._fd < 0:
            fd = lib.xenpv_xen_gntalloc()
            if fd < 0:
                raise GNTALLOC.unusable(-fd)
            self._fd = fd
        return self._fd

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> XenSharedPages:
        """See xenpv.domain.Grants.share. Xen does not say whether there is a domain `domid`.

        Raises GrantError; ValueError for a count below 1 or no domain number.
        """
        if not 1 <= count <= _PAGES_MAX:
            raise ValueError(f"a share is 1 to {_PAGES_MAX} pages, not {count}")
        if not 0 <= domid <= 0xFFFFFFFF:
            raise ValueError(f"{domid} is no domain number")
        what = f"cannot grant {count} more page{'s' * (count > 1)} to domain {domid}"
        if domid >= _DOMID_FIRST_RESERVED:
            raise GrantError(f"{what}: there is no such domain", _BAD_DOMAIN)
        index, refs = ffi.new("uint64_t *"), ffi.new("uint32_t[]", count)
        with self._lock:
            fd = self._device()
            result = lib.xenpv_xen_share(fd, domid, count, writable, index, refs)
            if result:
                raise _refusal(what, -result)
            try:
                pages = mmap.mmap(fd, count * PAGE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE,
                                  offset=index[0])
            except OSError as error:
                lib.xenpv_xen_unshare(fd, index[0], count)
                raise GrantError(f"{what}: they cannot be mapped here ({error.strerror})", _GENERAL) from error
            pages.madvise(mmap.MADV_DONTFORK)
            shared = XenSharedPages(self, index[0], list(refs), pages)
            self._shared.add(shared)
            return shared

    def unshare(self, pages: XenSharedPages, index: int, count: int) -> None:
        """The pair of share. The kernel ends each grant when its page is mapped nowhere any more."""
        with self._lock:
            self._shared.discard(pages)
            result = lib.xenpv_xen_unshare(self._fd, index, count)
        if result:
            raise GrantError(f"cannot end a grant ({os.strerror(-result)})", _GENERAL)

    def unmap_notify(self, at: int, clear: bool, channel: EventChannel | None) -> None:
        """Set the byte `at` of the descriptor to 0 and notify through `channel` when the page goes."""
        with self._lock:
            result = lib.xenpv_xen_unmap_notify(self._device(), at, clear, channel is not None,
                                                channel.port if channel else 0)
        if result:
            raise GrantError(f"cannot have the kernel act when shared pages go ({os.strerror(-result)})", _GENERAL)

    def close(self) -> None:
        """End every grant."""
        for pages in list(self._shared):
            pages.abandon()
        with self._lock:
            self._closed = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def _refusal(what: str, error: int) -> GrantError:
    if error == errno.ENOSPC:
        try:
            limit = GNTALLOC_LIMIT.read_text().strip()
        except OSError:
            limit = "unknown"
        return GrantError(f"{what}: the kernel's pages for sharing are used up (limit {limit}, for all processes): "
                          f"close what is no longer used, or write a higher number to {GNTALLOC_LIMIT}", _NO_SPACE)
    return GrantError(f"{what}: {os.strerror(error)}", _NO_SPACE if error == errno.ENOMEM else _GENERAL)
