"""A Domain over plain memory and a dict, and a backend in a thread: what a frontend's unit tests run against.

The other side is `FakeBackend`, which a test may bend: its adverts, its facts, what it answers.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from mmap import mmap
from time import monotonic
from typing import Any, Self, TypeVar

from xenpv.core import ffi, lib
from xenpv.domain import PAGE_SIZE
from xenpv.errors import ClosedError, GrantError, NoEntryError, RemoteProtocolError, StoreConnectionError
from xenpv.hypervisors.emulated.calls import VERSION, Reply
from xenpv.ring import BackRing
from xenpv.wire.blkif import (Op, Protocol, Request, Response, Status, pack_response, unpack_request)
from xenpv.xenbus import (BackendAdverts, DiskFacts, FrontendRings, VbdPlace, XenbusState, parse_state, vbd_nodes,
                          vdev_number)

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
            return function(self)

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


class FakeDomain(Closes):
    """Domain 7."""

    domid = FRONT
    uri = "fake:"

    def __init__(self) -> None:
        self.store = FakeStore()
        self.grants = FakeGrants()
        self.events = FakeEvents()

    def open_core(self) -> FakeCore:
        return FakeCore()


Answer = Callable[[Request, Response], Response | None]


class FakeBackend(Closes):
    """Makes the vbd in the store and serves it from a thread: a bytearray of `sectors` of 512 bytes.

    A test may set, before start(): `adverts`, `facts`, `raw` (keys that are written over them), `answer` (what becomes
    of a response; None keeps it back), `follow` False (xenbus states are the test's to write).
    """

    def __init__(self, domain: FakeDomain, vdev: str = "xvda", *, sectors: int = 2048) -> None:
        self.domain = domain
        self.store = domain.store
        self.place = VbdPlace(BACK, FRONT, vdev_number(vdev))
        self.data = bytearray(os.urandom(64) * (sectors * 8))
        self.adverts = BackendAdverts(max_ring_page_order=4, persistent=True, flush_cache=True, discard=True,
                                      notify_flag=True)
        self.facts = DiskFacts(sectors)
        self.raw: dict[str, str] = {}
        self.answer: Answer = lambda request, response: response
        self.requests: list[Request] = []
        self.withheld: list[Response] = []
        self.rings: FrontendRings | None = None
        self.attached = 0
        self._ring: BackRing | None = None
        self._channel: FakeChannel | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        nodes = vbd_nodes(self.place, writable=True)
        for directory in (nodes.frontend, nodes.backend):
            for name, value in directory.keys.items():
                self.store.write(f"{directory.path}/{name}", value)
        self._thread = threading.Thread(target=self._run, name="fake-backend", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def end(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)
        if self.error is not None:
            raise self.error

    def set(self, name: str, value: str) -> None:
        self.store.write(f"{self.place.backend}/{name}", value)

    def state(self, path: str | None = None) -> XenbusState:
        value = self.store.nodes.get(f"{path or self.place.backend}/state")
        with contextlib.suppress(RemoteProtocolError):  # a test may write nonsense
            return parse_state(value)
        return XenbusState.UNKNOWN

    def frontend_key(self, name: str) -> bytes | None:
        return self.store.nodes.get(f"{self.place.frontend}/{name}")

    def wait_frontend(self, state: XenbusState) -> None:
        """Until the frontend is in `state`."""
        with self.store.changed:
            reached = self.store.changed.wait_for(lambda: self.state(self.place.frontend) is state, PATIENCE)
        assert reached, f"the frontend stays in {self.state(self.place.frontend).name}"

    def wait_requests(self, count: int) -> None:
        """Until `count` requests have come in all."""
        with self.store.changed:
            assert self.store.changed.wait_for(lambda: len(self.requests) >= count, PATIENCE)

    def release(self) -> None:
        """Answer what was kept back."""
        with self._lock:
            for response in self.withheld:
                self._put(response)
            self.withheld.clear()

    def _run(self) -> None:
        try:
            for name, value in {**self.adverts.to_keys(), **self.raw}.items():
                self.set(name, value)
            self.set("state", str(int(XenbusState.INIT_WAIT)))
            deadline = monotonic() + 3 * PATIENCE
            with self.store.watch(f"{self.place.frontend}/state") as watch:
                while not self._stop.is_set() and monotonic() < deadline:
                    fds = [watch.fileno()] + ([self._channel.fileno()] if self._channel else [])
                    ready, _, _ = select.select(fds, [], [], 0.02)
                    while watch.wait(0):
                        pass
                    if self._channel is not None:
                        self._channel.wait(0)
                    self._turn()
        except StoreConnectionError:
            pass  # break_down() is for the frontend's sake
        except BaseException as error:
            self.error = error
        finally:
            self._detach()

    def _turn(self) -> None:
        front, own = self.state(self.place.frontend), self.state()
        if front in (XenbusState.INITIALISED, XenbusState.CONNECTED) and own is XenbusState.INIT_WAIT:
            try:
                self._attach()
            except (RemoteProtocolError, StopIteration):  # what a dead frontend left is no ring
                self.set("state", "5")
        elif front is XenbusState.CLOSING and own is XenbusState.CONNECTED:
            self.set("state", "5")
        elif front is XenbusState.CLOSED and own in (XenbusState.CONNECTED, XenbusState.CLOSING):
            self._detach()
            self.set("state", "6")
        elif front is XenbusState.INITIALISING and own is XenbusState.CLOSED:
            self.set("state", "2")
        if self._ring is not None:
            with self._lock:
                self._serve()

    def _attach(self) -> None:
        directory = f"{self.place.frontend}/"
        keys = {path.removeprefix(directory): value for path, value in self.store.nodes.items()
                if path.startswith(directory)}
        self.rings = FrontendRings.parse(keys, self.place.frontend)
        (ring,) = self.rings.queues
        shared = next(pages for pages in self.domain.grants.shared if ring.refs[0] in pages.refs)
        assert tuple(shared.refs) == ring.refs
        abi = 32 if self.rings.protocol is Protocol.X86_32 else 64
        self._ring = BackRing(shared.mapped, abi=abi, flag=self.rings.notify_flag and self.adverts.notify_flag)
        self._channel = self.domain.events.peer(ring.port)
        self.attached += 1
        for name, value in {**self.facts.to_keys(), **self.raw}.items():
            self.set(name, value)
        self.set("state", "4")

    def _detach(self) -> None:
        if self._ring is not None and self._channel is not None:
            self._ring.close()
            self._channel.close()
            self._ring = self._channel = None

    def _serve(self) -> None:
        assert self._ring is not None and self.rings is not None
        self._ring.run()
        while True:
            entry = self._ring.take()
            if entry is None:
                if self._ring.arm():
                    self._ring.run()
                    continue
                return
            request = unpack_request(self.rings.protocol, entry)
            response: Response | None = Response(request.id, request.operation, self._perform(request))
            with self.store.changed:
                self.requests.append(request)
                self.store.changed.notify_all()
            kept = response
            response = self.answer(request, kept)
            if response is None:
                self.withheld.append(kept)
            else:
                self._put(response)

    def _put(self, response: Response) -> None:
        assert self._ring is not None and self.rings is not None and self._channel is not None
        self._ring.put(pack_response(self.rings.protocol, response))
        if self._ring.publish():
            self._channel.notify()

    def _perform(self, request: Request) -> int:
        at = request.sector_number * 512
        if request.operation == Op.DISCARD:
            self.data[at:at + request.nr_sectors * 512] = bytes(request.nr_sectors * 512)
        for segment in request.segments:
            start, end = segment.first_sect * 512, (segment.last_sect + 1) * 512
            try:
                page = self.domain.grants.page(segment.gref)
            except GrantError:
                return Status.ERROR
            if at + end - start > len(self.data):
                return Status.ERROR
            if request.operation == Op.READ:
                page[start:end] = self.data[at:at + end - start]
            else:
                self.data[at:at + end - start] = page[start:end]
            at += end - start
        return Status.OKAY
