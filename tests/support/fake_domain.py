"""A Domain over plain memory and a dict: what a frontend's unit tests run against, with `fake_backend` on the other side."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from mmap import mmap
from typing import Any, Self, TypeVar

from xenpv.core import ffi, lib
from xenpv.domain import PAGE_SIZE
from xenpv.errors import ClosedError, GrantError, NoEntryError
from xenpv.hypervisors.emulated.calls import VERSION, Reply

T = TypeVar("T")

FRONT, BACK = 7, 0
PATIENCE = 20.0
"""Seconds after which a wait of the fake's fails: a bug, never luck."""


class Closes:
    """close() once, and the context manager."""

    closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.end()

    def end(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeWatch(Closes):
    """One path and all below it. Its descriptor is readable while an event waits."""

    def __init__(self, store: FakeStore, path: str) -> None:
        self.store = store
        self.path = path
        self.events: list[str] = [path]
        self.fd = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self.fd

    def put(self, path: str) -> None:
        self.events.append(path)
        os.eventfd_write(self.fd, 1)

    def wait(self, timeout: float | None = None) -> str | None:
        with self.store.changed:
            self.store.changed.wait_for(lambda: self.events or self.closed, timeout)
            if self.closed:
                raise ClosedError("the watch is closed")
            if self.store.broken is not None:
                raise self.store.broken
            if not self.events:
                return None
            path = self.events.pop(0)
            if not self.events:
                os.eventfd_read(self.fd)
            return path

    def end(self) -> None:
        with self.store.changed:
            self.store.watches.remove(self)
            self.store.changed.notify_all()
        os.close(self.fd)


class FakeStore(Closes):
    """xenstore as a dict. A transaction holds the lock, so it never meets another."""

    def __init__(self) -> None:
        self.nodes: dict[str, bytes] = {}
        self.watches: list[FakeWatch] = []
        self.changed = threading.Condition(threading.RLock())
        self.broken: Exception | None = None

    def read(self, path: str) -> bytes:
        with self.changed:
            if path not in self.nodes:
                raise NoEntryError(f"{path}: no such node", "ENOENT")
            return self.nodes[path]

    def write(self, path: str, value: bytes | str) -> None:
        with self.changed:
            self.nodes[path] = value.encode() if isinstance(value, str) else bytes(value)
            self._fire(path)

    def mkdir(self, path: str) -> None:
        with self.changed:
            self.nodes.setdefault(path, b"")
            self._fire(path)

    def remove(self, path: str) -> None:
        with self.changed:
            for name in [name for name in self.nodes if name == path or name.startswith(f"{path}/")]:
                del self.nodes[name]
                self._fire(name)
            self._fire(path)

    def list(self, path: str) -> list[str]:
        with self.changed:
            names = {name.removeprefix(f"{path}/").split("/")[0] for name in self.nodes if name.startswith(f"{path}/")}
            if not names and path not in self.nodes:
                raise NoEntryError(f"{path}: no such node", "ENOENT")
            return sorted(names)

    def exists(self, path: str) -> bool:
        return path in self.nodes

    def get_permissions(self, path: str) -> Sequence[str]:
        return ["n0"]

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        pass

    def transact(self, function: Callable[[Any], T], *, attempts: int = 16) -> T:
        with self.changed:
            before = dict(self.nodes)
            try:
                return function(self)
            except BaseException:
                self.nodes = before
                raise

    def write_all(self, values: Mapping[str, bytes | str]) -> None:
        with self.changed:
            for path, value in values.items():
                self.write(path, value)

    def watch(self, path: str, *, depth: int | None = None, limit: int = 1024) -> FakeWatch:
        with self.changed:
            watch = FakeWatch(self, path)
            self.watches.append(watch)
            return watch

    def domain_path(self, domid: int) -> str:
        return f"/local/domain/{domid}"

    def break_down(self, error: Exception) -> None:
        """Gone for good: every watch says so."""
        with self.changed:
            self.broken = error
            for watch in self.watches:
                watch.put(watch.path)
            self.changed.notify_all()

    def _fire(self, path: str) -> None:
        for watch in self.watches:
            if path == watch.path or path.startswith(f"{watch.path}/"):
                watch.put(path)
        self.changed.notify_all()


class FakePages(Closes):
    def __init__(self, grants: FakeGrants, refs: range) -> None:
        self.grants = grants
        self.refs: Sequence[int] = refs
        self.fd = os.memfd_create("fake-grant", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, len(refs) * PAGE_SIZE)
        self.memory = memoryview(mmap(self.fd, len(refs) * PAGE_SIZE))
        self.mapped = memoryview(mmap(self.fd, len(refs) * PAGE_SIZE))
        """The pages as the peer has them: they outlive the grant."""

    def end(self) -> None:
        self.memory.release()  # BufferError while the core still holds it
        os.close(self.fd)
        self.grants.shared.remove(self)


class FakeGrants:
    """`limit` pages in all."""

    def __init__(self, limit: int = 4096) -> None:
        self.limit = limit
        self.next = 8
        self.shared: list[FakePages] = []

    @property
    def pages(self) -> int:
        return sum(len(pages.refs) for pages in self.shared)

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> FakePages:
        if self.pages + count > self.limit:
            raise GrantError("no more pages", -13)
        pages = FakePages(self, range(self.next, self.next + count))
        self.next += count
        self.shared.append(pages)
        return pages

    def page(self, ref: int) -> memoryview:
        """A granted page, as its peer has it mapped."""
        for pages in list(self.shared):
            if ref in pages.refs:
                at = pages.refs.index(ref) * PAGE_SIZE
                return pages.mapped[at:at + PAGE_SIZE]
        raise GrantError(f"reference {ref} is not granted", -3)


class FakeChannel(Closes):
    def __init__(self, events: FakeEvents, port: int, fds: tuple[int, int]) -> None:
        self.events = events
        self.port = port
        self.fds = fds

    def fileno(self) -> int:
        return self.fds[0]

    def wait_fileno(self) -> int:
        return self.fds[0]

    def notify_fileno(self) -> int:
        return self.fds[1]

    def notify(self) -> None:
        os.eventfd_write(self.fds[1], 1)

    def wait(self, timeout: float | None = None) -> bool:
        ready, _, _ = select.select([self.fds[0]], [], [], timeout)
        if ready:
            os.eventfd_read(self.fds[0])
        return bool(ready)

    def unmask(self) -> None:
        pass

    def end(self) -> None:
        del self.events.channels[self.port]
        for fd in self.fds:
            os.close(fd)


class FakeEvents:
    def __init__(self) -> None:
        self.channels: dict[int, FakeChannel] = {}
        self.next = 1

    def bind_unbound(self, domid: int) -> FakeChannel:
        fds = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        channel = self.channels[self.next] = FakeChannel(self, self.next, fds)
        self.next += 1
        return channel

    def peer(self, port: int) -> FakeChannel:
        """The other end, on descriptors of its own, pending at once."""
        wait, notify = self.channels[port].fds
        other = FakeChannel(FakeEvents(), port, (os.dup(notify), os.dup(wait)))
        other.events.channels[port] = other
        os.eventfd_write(notify, 1)
        return other

    def bind_interdomain(self, domid: int, port: int) -> FakeChannel:
        return self.peer(port)


class FakeCore(Closes):
    """A handle of the emulated Xen's whose host is a socket that says hello and nothing more."""

    def __init__(self) -> None:
        ours, self.host = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.send(Reply(domid=FRONT, number=VERSION).pack())
        error = ffi.new("int *")
        self.handle: Any = lib.xenpv_emulated_open(ours.detach(), error)
        assert self.handle != ffi.NULL, os.strerror(error[0])

    def detach(self) -> int:
        address = int(ffi.cast("uintptr_t", self.handle))
        self.handle = None
        self.host.close()
        return address

    def end(self) -> None:
        if self.handle:
            lib.xenpv_hypervisor_close(self.handle)
            self.host.close()


class FakeKernelDriver:
    """A kernel that has the device at `path`, and connects one that is new to it; see xenpv_frontend.kernel."""

    shows = "/dev/xvda"

    def __init__(self, store: FakeStore, path: str) -> None:
        self.store, self.path = store, path
        self.bound = True
        self.fresh = False
        self.takes_back = True
        self.error: Exception | None = None

    @property
    def known(self) -> bool:
        there = self.store.exists(f"{self.path}/state")
        self.fresh = self.fresh or not there
        return there

    @property
    def holds(self) -> bool:
        if self.known and self.fresh and self.takes_back and self.store.read(f"{self.path}/state") == b"1":
            self.fresh, self.bound = False, True
            self.store.write(f"{self.path}/state", "4")
        return self.bound

    def unbind(self) -> None:
        if self.error is not None:
            raise self.error
        self.bound = False
        self.store.write(f"{self.path}/state", "6")


class FakeDomain(Closes):
    """Domain 7."""

    domid = FRONT
    uri = "fake:"

    def __init__(self) -> None:
        self.store = FakeStore()
        self.grants = FakeGrants()
        self.events = FakeEvents()
        self.driver: FakeKernelDriver | None = None

    def open_core(self) -> FakeCore:
        return FakeCore()

    def kernel_driver(self, devid: int) -> FakeKernelDriver | None:
        return self.driver
