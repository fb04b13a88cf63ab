"""A guest's end of a vbd with nothing but the store, the grants and the queue: it does what it is told, also wrong."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from xenpv.domain import PAGE_SIZE, Domain, Store, Transaction
from xenpv.errors import NoEntryError
from xenpv.ring import initialise
from xenpv.wire.blkif import Op, Protocol
from xenpv.xenbus import FrontendRings, RingKeys, VbdPlace, XenbusState, parse_state, vbd_nodes
from xenpv_frontend.queue import IoArray, Queue

DEVID = 51712
POOL_PAGES = 128
PATIENCE = 10.0
"""Seconds that only end a test that fails."""


def attach(store: Store, domid: int, params: str, *, writable: bool = True, devid: int = DEVID, **more: Any) -> VbdPlace:
    """What a toolstack does: the nodes of a new vbd, in one transaction. `more` of vbd_nodes' own."""
    place = VbdPlace(0, domid, devid)
    nodes = vbd_nodes(place, writable=writable, params=params, **more)

    def write(transaction: Transaction) -> None:
        for node in (nodes.frontend, nodes.backend):
            transaction.mkdir(node.path)
            transaction.set_permissions(node.path, node.permissions)
            for key, value in node.keys.items():
                transaction.write(f"{node.path}/{key}", value)

    store.transact(write)
    return place


def wait_state(store: Store, path: str, *wanted: XenbusState) -> XenbusState:
    """Wait until the state at `path` is one of `wanted`."""
    with store.watch(f"{path}/state") as watch:
        while True:
            try:
                state = parse_state(store.read(f"{path}/state"))
            except NoEntryError:
                state = XenbusState.UNKNOWN
            if state in wanted:
                return state
            assert watch.wait(PATIENCE) is not None, f"{path} stays in state {state}, wanted {wanted}"


class RawFrontend:
    """Connects to the backend of `place` from `domain`."""

    def __init__(self, domain: Domain, place: VbdPlace, *, order: int = 0, queues: int = 1, flag: bool = True,
                 protocol: Protocol = Protocol.X86_64, persistent: bool = True, connect: bool = True) -> None:
        self.domain = domain
        self.place = place
        self.store = domain.store
        self._stack = ExitStack()
        self.rings = [self._stack.enter_context(domain.grants.share(0, 1 << order)) for _ in range(queues)]
        for ring in self.rings:
            initialise(ring.memory)
        self.pool = self._stack.enter_context(domain.grants.share(0, POOL_PAGES))
        self.channels = [self._stack.enter_context(domain.events.bind_unbound(0)) for _ in range(queues)]
        self.keys = FrontendRings(
            tuple(RingKeys(tuple(ring.refs), channel.port)
                  for ring, channel in zip(self.rings, self.channels, strict=True)),
            protocol, persistent=persistent, notify_flag=flag).to_keys()
        self.queues = [Queue(domain.open_core(), channel, ring=ring.memory, pool=self.pool.memory,
                             pool_refs=self.pool.refs, abi=32 if protocol is Protocol.X86_32 else 64, flag=flag)
                       for ring, channel in zip(self.rings, self.channels, strict=True)]
        self._records = IoArray(64)
        self._done = IoArray(64)
        self._answered: dict[int, int] = {}
        self._out = [0] * queues
        if connect:
            self.wait_backend(XenbusState.INIT_WAIT)
            self.publish()
            self.wait_backend(XenbusState.CONNECTED)
            self.state(XenbusState.CONNECTED)

    def publish(self, **changed: str) -> None:
        """Write the ring's keys, some of them `changed` (an underscore for a hyphen), and Initialised."""
        keys = self.keys | {name.replace("_", "-"): value for name, value in changed.items()}
        self.store.write_all({f"{self.place.frontend}/{name}": value for name, value in
                              {**keys, "state": str(int(XenbusState.INITIALISED))}.items()})

    def state(self, state: XenbusState) -> None:
        self.store.write(f"{self.place.frontend}/state", str(int(state)))

    def wait_backend(self, *wanted: XenbusState) -> XenbusState:
        return wait_state(self.store, self.place.backend, *wanted)

    def submit(self, op: Op, sector: int, data: bytes | int, *, page: int = 0, cookie: int = 0, queue: int = 0) -> None:
        """Send one I/O, and do not wait for it. `data`: what to write, or how many bytes to read."""
        size = data if isinstance(data, int) else len(data)
        if isinstance(data, bytes):
            self.pool.memory[page * PAGE_SIZE:page * PAGE_SIZE + size] = data
        records = self._records
        records.cookie[0], records.sector[0], records.bytes[0], records.page[0], records.op[0] = (
            cookie, sector, size, page, op)
        accepted, done = self.queues[queue].exchange(records, 0, 1, self._done, at_least=0, timeout=0)
        assert accepted == 1
        self._out[queue] += 1
        self._note(done, queue)

    def _note(self, done: int, queue: int) -> None:
        self._out[queue] -= done
        for i in range(done):
            assert self._done.cookie[i] not in self._answered, "answered twice"
            self._answered[self._done.cookie[i]] = self._done.status[i]

    def reap(self, count: int, *, queue: int = 0, keep: bool = False) -> dict[int, int]:
        """Wait for at least `count` submitted I/Os: the status of each by its cookie. One answered twice fails."""
        while len(self._answered) < count:
            _, done = self.queues[queue].exchange(self._records, 0, 0, self._done, at_least=1, timeout=PATIENCE)
            assert done, f"{count - len(self._answered)} of {count} I/Os are not answered"
            self._note(done, queue)
        found, self._answered = self._answered, self._answered if keep else {}
        return found

    def reap_all(self) -> dict[int, int]:
        """As reap(), for every I/O that was submitted to any queue."""
        for queue in range(len(self.queues)):
            self.reap(len(self._answered) + self._out[queue], queue=queue, keep=True)
        found, self._answered = self._answered, {}
        return found

    def io(self, op: Op, sector: int, data: bytes | int, *, queue: int = 0) -> tuple[int, bytes]:
        """One I/O: its status, and the bytes read."""
        accepted, done = 0, 0
        size = data if isinstance(data, int) else len(data)
        if isinstance(data, bytes):
            self.pool.memory[:size] = data
        records = self._records
        records.cookie[0], records.sector[0], records.bytes[0], records.page[0], records.op[0] = 7, sector, size, 0, op
        accepted, done = self.queues[queue].exchange(records, 0, 1, self._done, at_least=1, timeout=PATIENCE)
        assert (accepted, done) == (1, 1), "not answered"
        return self._done.status[0], bytes(self.pool.memory[:size]) if op == Op.READ else b""

    def close_rings(self) -> None:
        """Give rings and pool back, whatever the states are."""
        for queue in self.queues:
            queue.close()
        self._stack.close()

    def close(self) -> None:
        """Close as a good frontend does."""
        self.state(XenbusState.CLOSING)
        self.wait_backend(XenbusState.CLOSING, XenbusState.CLOSED)
        self.close_rings()
        self.state(XenbusState.CLOSED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close_rings()
