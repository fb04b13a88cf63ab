"""A vbd's backend in a thread, over the fake domain's store, pages and channels; a test may bend what it says."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import Self

from tests.support.fake_domain import BACK, FRONT, PATIENCE, Closes, FakeChannel, FakeDomain
from xenpv.errors import GrantError, RemoteProtocolError, StoreConnectionError
from xenpv.ring import BackRing
from xenpv.wire.blkif import (Op, Protocol, Request, Response, Status, pack_response, response_operation,
                              unpack_request, unpack_segments)
from xenpv.xenbus import (BackendAdverts, DiskFacts, FrontendRings, VbdPlace, XenbusState, parse_state, vbd_nodes,
                          vdev_number)

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
                                      notify_flag=True, max_indirect_segments=256, barrier=True)
        self.facts = DiskFacts(sectors)
        self.raw: dict[str, str] = {}
        self.answer: Answer = lambda request, response: response
        self.requests: list[Request] = []
        self.withheld: list[tuple[int, Response]] = []
        """With their queues."""
        self.served: list[int] = []
        """The queue of each of `requests`."""
        self.rings: FrontendRings | None = None
        self.attached = 0
        self._ends: list[tuple[BackRing, FakeChannel]] = []
        """Of each queue."""
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
            for queue, response in self.withheld:
                self._put(queue, response)
            self.withheld.clear()

    def _run(self) -> None:
        try:
            for name, value in {**self.adverts.to_keys(), **self.raw}.items():
                self.set(name, value)
            self.set("state", str(int(XenbusState.INIT_WAIT)))
            deadline = monotonic() + 3 * PATIENCE
            with self.store.watch(f"{self.place.frontend}/state") as watch:
                while not self._stop.is_set() and monotonic() < deadline:
                    fds = [watch.fileno(), *(channel.fileno() for _, channel in self._ends)]
                    ready, _, _ = select.select(fds, [], [], 0.02)
                    while watch.wait(0):
                        pass
                    for _, channel in self._ends:
                        channel.wait(0)
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
                with self.store.changed:  # and not what one that lives has written meanwhile
                    if self.state(self.place.frontend) is front:
                        self.set("state", "5")
        elif front is XenbusState.CLOSING and own is XenbusState.CONNECTED:
            self.set("state", "5")
        elif front is XenbusState.CLOSED and own in (XenbusState.CONNECTED, XenbusState.CLOSING):
            self._detach()
            self.set("state", "6")
        elif front is XenbusState.INITIALISING and own is XenbusState.CLOSED:
            self.set("state", "2")
        with self._lock:
            for queue in range(len(self._ends)):
                self._serve(queue)

    def _attach(self) -> None:
        directory = f"{self.place.frontend}/"
        keys = {path.removeprefix(directory): value for path, value in self.store.nodes.items()
                if path.startswith(directory)}
        self.rings = FrontendRings.parse(keys, self.place.frontend, max_queues=self.adverts.max_queues)
        abi = 32 if self.rings.protocol is Protocol.X86_32 else 64
        shares = [next(pages for pages in self.domain.grants.shared if ring.refs[0] in pages.refs)
                  for ring in self.rings.queues]
        for shared, ring in zip(shares, self.rings.queues, strict=True):
            assert tuple(shared.refs) == ring.refs
            end = BackRing(shared.mapped, abi=abi, flag=self.rings.notify_flag and self.adverts.notify_flag)
            self._ends.append((end, self.domain.events.peer(ring.port)))
        self.attached += 1
        for name, value in {**self.facts.to_keys(), **self.raw}.items():
            self.set(name, value)
        self.set("state", "4")

    def _detach(self) -> None:
        while self._ends:
            ring, channel = self._ends.pop()
            ring.close()
            channel.close()

    def _serve(self, queue: int) -> None:
        assert self.rings is not None
        ring, _ = self._ends[queue]
        ring.run()
        while True:
            entry = ring.take()
            if entry is None:
                if ring.arm():
                    ring.run()
                    continue
                return
            request = unpack_request(self.rings.protocol, entry)
            response: Response | None = Response(request.id, response_operation(request), self._perform(request))
            with self.store.changed:
                self.requests.append(request)
                self.served.append(queue)
                self.store.changed.notify_all()
            kept = response
            response = self.answer(request, kept)
            if response is None:
                self.withheld.append((queue, kept))
            else:
                self._put(queue, response)

    def _put(self, queue: int, response: Response) -> None:
        assert self.rings is not None
        ring, channel = self._ends[queue]
        ring.put(pack_response(self.rings.protocol, response))
        if ring.publish():
            channel.notify()

    def _perform(self, request: Request) -> int:
        at = request.sector_number * 512
        operation, segments = response_operation(request), request.segments
        if request.operation == Op.INDIRECT:
            raw = b"".join(self.domain.grants.page(gref) for gref in request.indirect_grefs)
            segments = unpack_segments(raw, request.nr_segments)
        if request.operation == Op.DISCARD:
            self.data[at:at + request.nr_sectors * 512] = bytes(request.nr_sectors * 512)
        for segment in segments:
            start, end = segment.first_sect * 512, (segment.last_sect + 1) * 512
            try:
                page = self.domain.grants.page(segment.gref)
            except GrantError:
                return Status.ERROR
            if at + end - start > len(self.data):
                return Status.ERROR
            if operation == Op.READ:
                page[start:end] = self.data[at:at + end - start]
            else:
                self.data[at:at + end - start] = page[start:end]
            at += end - start
        return Status.OKAY
