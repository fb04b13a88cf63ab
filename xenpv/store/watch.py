"""A watch and its bounded queue of paths.

RULES
1. The router's thread puts events in; it never waits for whoever takes them out.
2. At most `limit` distinct paths are kept. A guest can make xenstored send any number of events (XSA-349), so more of
   them become the one event "something below the watched path", which loses no change.
3. The descriptor is readable while wait() would not wait: an event, or the end of the watch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic

from ..errors import ClosedError, StoreError
from xenpv.closing import Closing
from ..waiting import Changes


class StoreWatch(Closing):
    """A `Watch` of xenpv.domain. Made by `XenStore.watch`."""

    def __init__(self, path: str, token: str, depth: int | None, limit: int,
                 forget: Callable[[StoreWatch], None]) -> None:
        self.path = path
        self.token = token
        self.depth = depth
        self.wire_depth = depth
        """What xenstored is told: None as well where it knows no depth."""
        self._limit = limit
        self._forget = forget
        self._pending: dict[str, None] = {}
        self._overflowed = False
        self._error: StoreError | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._changes = Changes()
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __repr__(self) -> str:
        return f"<watch of {self.path}>"

    @property
    def watch_payload(self) -> bytes:
        """What WATCH carries: path, token and, where xenstored knows it, the depth."""
        depth = "" if self.wire_depth is None else f"{self.wire_depth}\0"
        return f"{self.path}\0{self.token}\0{depth}".encode("ascii")

    @property
    def unwatch_payload(self) -> bytes:
        """What UNWATCH carries: path, then token."""
        return f"{self.path}\0{self.token}\0".encode("ascii")

    def wait(self, timeout: float | None = None) -> str | None:
        """The path of the next event, or None after `timeout` seconds (None: wait for ever).

        The path is relative when the watched path is. Raises StoreConnectionError when the store is gone for good,
        another StoreError when xenstored refused the watch after a reconnect, and ClosedError.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            with self._lock:
                if self._closed:
                    raise ClosedError(f"the watch of {self.path} is closed")
                if self._pending:
                    path = next(iter(self._pending))
                    del self._pending[path]
                    self._overflowed = False
                    self._signal()
                    return path
                if self._error is not None:
                    raise type(self._error)(str(self._error), self._error.code)
                change = self._changes.next()
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                return None
            change.wait(remaining)

    def fileno(self) -> int:
        """Readable while an event waits, and when the watch has failed. Raises ClosedError."""
        with self._lock:
            if self._closed:
                raise ClosedError(f"the watch of {self.path} is closed")
            return self._eventfd

    def close(self) -> None:
        """Unwatch. A wait() in another thread ends with ClosedError. Raises StoreError when xenstored refuses."""
        if self.shut():
            self._forget(self)

    def shut(self) -> bool:
        """Give back what is held here, and nothing on the wire. False when that was done before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            os.close(self._eventfd)
            self._changes.tell()
            return True

    def put(self, path: str) -> None:
        """Add an event."""
        with self._lock:
            if self._closed or self._overflowed or path in self._pending or self._too_deep(path):
                return
            if len(self._pending) >= self._limit:
                self._pending.clear()
                self._overflowed = True
                path = self.path
            self._pending[path] = None
            self._signal()

    @property
    def failed(self) -> bool:
        """No event can come any more."""
        return self._error is not None

    def fail(self, error: StoreError) -> None:
        """No event can come any more: wait() raises `error` once the pending ones are taken."""
        with self._lock:
            if not self._closed:
                self._error = error
                self._signal()

    def _signal(self) -> None:
        """Make the descriptor and the waiters see what is so now. The lock is held."""
        if self._pending or self._error is not None:
            os.eventfd_write(self._eventfd, 1)
            self._changes.tell()
        else:
            try:
                os.eventfd_read(self._eventfd)
            except BlockingIOError:
                pass

    def _too_deep(self, path: str) -> bool:
        """Whether `depth` excludes `path`.

        Decided here too: an older xenstored may refuse the depth, or ignore it without a word.
        """
        if self.depth is None or path == self.path:
            return False
        base = self.path.rstrip("/") + "/"
        return path.startswith(base) and path.count("/", len(base)) >= self.depth
