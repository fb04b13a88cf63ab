"""One ring of a disk, and the threads that serve rings: the only wrapper of the core's service.c, back.c and next.c.

RULES
- A `Queue` belongs to one thread at a time: to its `Service`, or to whoever calls next() and complete().
- The main thread never enters a C loop; it asks a Service, and the Service's thread does it between two runs.
- A queue's journal and statistics outlive it: they are the caller's memory, and hold what a successor and `top` need.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.domain import CoreHandle, EventChannel
from xenpv.errors import ClosedError, LocalProtocolError, RemoteProtocolError, StorageError
from xenpv.ring import DEFAULT_SPIN_NS

from .log import LOGGER

ENGINES = {"auto": 0, "io_uring": 1, "threads": 2}
"""How storage that waits for a device is read and written."""

DATA = {"auto": lib.XENPV_DATA_AUTO, "copy": lib.XENPV_DATA_COPY, "map": lib.XENPV_DATA_MAP}
"""How data moves between the guest's pages and the storage: by a grant copy through private pages, or straight to mapped ones.
auto: mapped where that is cheaper, on the emulated Xen."""

STAMPS = {None: 0, "tick": 1, "us": 2}
"""XENPV_STAMP_*."""


MAX_INDIRECT = int(lib.XENPV_INDIRECT_SEGMENTS)
"""Segments of an indirect request that are ever offered: preadv takes no more pieces (IOV_MAX)."""


def journal_bytes(ring_entries: int) -> int:
    """Bytes of the journal of a ring with `ring_entries` entries."""
    return int(lib.xenpv_journal_bytes(ring_entries))


@dataclass(frozen=True)
class QueueConfig:
    """What was negotiated for one ring, and what it stands on."""

    domid: int
    """The frontend's domain."""
    ring_refs: Sequence[int]
    sectors: int
    """The disk's size, in sectors of 512 bytes."""
    sector_size: int = 512
    """Logical sector size, bytes."""
    abi: int = 64
    """64: x86_64-abi and arm-abi, 32: x86_32-abi."""
    flag: bool = False
    """The notify-suppression flag, instead of event indices."""
    persistent: int = 0
    """Standing mappings at the most; 0 without feature-persistent."""
    data: str = "auto"
    """How data moves, one of DATA."""
    readonly: bool = False
    flush: bool = True
    barrier: bool = False
    discard: bool = False
    discard_secure: bool = False
    max_segments: int = 0
    """Of an indirect request, at most MAX_INDIRECT; 0: none are offered."""
    fd: int = -1
    """The storage's descriptor; -1: the storage is in Python, see next()."""
    inline: bool = False
    """Reads and writes of `fd` never wait for a device (tmpfs)."""
    spin_ns: int = DEFAULT_SPIN_NS
    stamp: str | None = None
    """The unit of the requests' stamps, ``tick`` or ``us``; None without them."""
    time_page: int = 0
    """The address of dom0's time page, which outlives the queue or set_time_page(); 0: there is none, and no ticks are to be
    had."""
    clock: str | None = None
    """What requests without stamps are measured by, ``tick`` (this kernel's) or ``us``."""
    adopt: bool = False
    """A predecessor served this ring: its journal says what it left unanswered."""


@dataclass
class Request:
    """A checked request for storage in Python. `data` is private: a write's bytes, or room for a read's."""

    op: int
    """BLKIF_OP_READ, _WRITE, _FLUSH_DISKCACHE or _DISCARD."""
    sector: int
    """In sectors of 512 bytes."""
    bytes: int
    """Of data; of the range, for a discard."""
    data: memoryview | None
    flush_first: bool
    """A write that came with a flush: make earlier writes durable first."""
    token: int
    status: int = 0
    """Set it before complete(): BLKIF_RSP_* (0, -1, -2)."""
    flush_after: bool = False
    """A barrier: also make it durable itself before it is answered. It is the only request out."""
    secure: bool = False
    """A discard that leaves no copy of the data."""


def _raise(error: int, what: str) -> None:
    if error in (errno.EPROTO, errno.EACCES):
        raise RemoteProtocolError(f"{what}: the frontend's ring cannot be used ({os.strerror(error)})")
    raise LocalProtocolError(f"{what}: {os.strerror(error)}")


def latency_bytes() -> int:
    """Bytes of a queue's latency area."""
    return int(lib.xenpv_latency_bytes(lib.XENPV_LATENCY_BACK))


class Queue(Closing):
    """A backend's end of one ring. Attaches at once; close() ends every mapping."""

    def __init__(self, core: CoreHandle, channel: EventChannel, config: QueueConfig, *,
                 stats: memoryview, journal: memoryview, latency: memoryview | None = None) -> None:
        """Owns `core` from now on. `stats` is one page, `journal` journal_bytes() of the ring's entries; `latency`, of
        latency_bytes(), has requests measured, by their stamps or by config.clock. The three are zero, or a predecessor's.

        Raises RemoteProtocolError when the ring cannot be mapped or its indices are impossible.
        """
        self.config = config
        self._core = core
        self._memory = [ffi.from_buffer("uint8_t[]", stats, require_writable=True),
                        ffi.from_buffer("uint8_t[]", journal, require_writable=True)]
        if latency is not None:
            self._memory.append(ffi.from_buffer("uint8_t[]", latency, require_writable=True))
        refs = ffi.new("uint32_t[]", list(config.ring_refs))
        settings = ffi.new("struct xenpv_back_config *", {
            "domid": config.domid, "ring_refs": refs, "ring_pages": len(config.ring_refs), "port": channel.port,
            "wait_fd": channel.wait_fileno(), "notify_fd": channel.notify_fileno(), "abi": config.abi,
            "flag": config.flag, "persistent": config.persistent, "data": DATA[config.data], "readonly": config.readonly,
            "flush": config.flush, "barrier": config.barrier, "discard": config.discard,
            "discard_secure": config.discard_secure,
            "max_segments": config.max_segments, "sector_size": config.sector_size,
            "sectors": config.sectors, "fd": config.fd, "fd_inline": config.inline, "spin_ns": config.spin_ns,
            "adopt": config.adopt, "stats": ffi.cast("struct xenpv_back_stats *", self._memory[0]),
            "journal": self._memory[1], "stamp": STAMPS[config.stamp],
            "time_page": ffi.cast("void *", config.time_page), "clock": STAMPS[config.clock],
            "latency": ffi.NULL if latency is None else self._memory[2],
        })
        error = ffi.new("int *")
        self._back: Any = lib.xenpv_back_open(ffi.cast("struct xenpv_hypervisor *", core.detach()), settings, error)
        if self._back == ffi.NULL:
            self._back = None
            self._release()
            _raise(error[0], f"ring of domain {config.domid}")
        self._requests: Any = ffi.new("struct xenpv_request[]", 64) if config.fd < 0 else None

    def close(self) -> None:
        """End every mapping. The queue must have left its Service."""
        back, self._back = self._back, None
        if back is not None:
            lib.xenpv_back_close(back)
            self._release()

    def _release(self) -> None:
        for memory in self._memory:
            ffi.release(memory)
        self._memory = []

    def _open(self) -> Any:
        if self._back is None:
            raise ClosedError("the queue is closed")
        return self._back

    def resize(self, sectors: int) -> None:
        """The disk now has `sectors` sectors of 512 bytes; requests are checked against that from the next one on."""
        lib.xenpv_back_resize(self._open(), sectors)

    def set_time_page(self, address: int) -> None:
        """Stamps in ticks come from the page at `address` from now on, 0 for none. The one before is read no more.

        For the queue's own thread: see Service.soon.
        """
        lib.xenpv_back_set_time_page(self._open(), ffi.cast("void *", address))

    def next(self, limit: int = 32, timeout: float | None = None, wake_fd: int = -1) -> list[Request]:
        """Up to `limit` requests; waits up to `timeout` seconds (None: for ever) for the first.

        An empty list: the time is over, `wake_fd` is readable, or nothing more may begin before what is out is completed
        (a barrier, too many large requests). Raises RemoteProtocolError when the frontend broke the
        ring's rules, InterruptedError on a signal.
        """
        back = self._open()
        wait = -1 if timeout is None else int(timeout * 1e9)
        count = lib.xenpv_back_next(back, self._requests, min(limit, 64), wait, wake_fd)
        if count == -errno.EINTR:
            raise InterruptedError
        if count < 0:
            _raise(-count, f"ring of domain {self.config.domid}")
        return [self._request(self._requests[i]) for i in range(count)]

    @staticmethod
    def _request(raw: Any) -> Request:
        data = None
        if raw.data != ffi.NULL:
            data = memoryview(ffi.buffer(raw.data, raw.bytes)).cast("B")
        return Request(raw.op, raw.sector, raw.bytes, data, bool(raw.flags & lib.XENPV_FLUSH_FIRST), raw.token,
                       flush_after=bool(raw.flags & lib.XENPV_FLUSH_AFTER), secure=bool(raw.flags & lib.XENPV_SECURE))

    def complete(self, requests: Sequence[Request]) -> None:
        """Answer them, each with its `status`. Raises LocalProtocolError for a request that is not out."""
        back = self._open()
        for start in range(0, len(requests), 64):
            part = requests[start:start + 64]
            array = ffi.new("struct xenpv_request[]", [{"token": r.token, "status": r.status} for r in part])
            if lib.xenpv_back_complete(back, array, len(part)):
                raise LocalProtocolError("a request was completed twice, or was never given out")


def _complain(future: Future[None]) -> None:
    if error := future.exception():
        LOGGER.error("a queue could not be changed: %s", error)


class Service(Closing):
    """A thread that serves a set of queues whose storage has a descriptor."""

    def __init__(self, *, engine: str = "auto", on_halt: Callable[[Queue], None] | None = None) -> None:
        """Starts the thread. `on_halt` is called in it for a queue whose frontend broke the rules; it must not block.

        Raises StorageError when the engine asked for cannot be had.
        """
        error = ffi.new("int *")
        self._service: Any = lib.xenpv_service_new(ENGINES[engine], error)
        if self._service == ffi.NULL:
            self._service = None
            raise StorageError(f"no {engine} here ({os.strerror(error[0])}): use --engine threads")
        self.engine: str = ffi.string(lib.xenpv_service_engine(self._service)).decode()
        self._on_halt = on_halt
        self._queues: list[Queue] = []
        self._halted: set[int] = set()
        self._asked: list[tuple[Callable[[], None], Future[None]]] = []
        self._lock = threading.Lock()
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name="xenpv-service", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of every queue, after its requests in flight were answered, and end the thread."""
        if self._service is None:
            return
        with self._lock:
            self._ending = True
        lib.xenpv_service_stop(self._service)
        self._thread.join()
        lib.xenpv_service_free(self._service)
        self._service = None

    def __len__(self) -> int:
        return len(self._queues)

    def add(self, queue: Queue) -> None:
        """Serve `queue` from now on."""
        self._ask(lambda: self._add(queue))

    def remove(self, queue: Queue) -> None:
        """Serve it no more. Returns when its requests in flight are answered."""
        self._ask(lambda: self._remove(queue))

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the thread, between two turns: how a queue that is served is touched (resize, for one)."""
        self._ask(function)

    def soon(self, function: Callable[[], None]) -> None:
        """The same without waiting for it, which storage that hangs may hold up for ever."""
        self._post(function).add_done_callback(_complain)

    def _ask(self, function: Callable[[], None]) -> None:
        self._post(function).result()

    def _post(self, function: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        with self._lock:
            if self._ending or self._service is None:
                raise ClosedError("the service has ended")
            self._asked.append((function, future))
        lib.xenpv_service_stop(self._service)
        return future

    def _add(self, queue: Queue) -> None:
        error = lib.xenpv_service_add(self._service, queue._open())
        if error == -errno.EOPNOTSUPP:
            raise StorageError("data = \"map\" and io_uring do not go together on Xen: set engine = \"threads\" and restart")
        if error:
            _raise(-error, "queue")
        self._queues.append(queue)

    def _remove(self, queue: Queue) -> None:
        if queue not in self._queues:
            return
        error = lib.xenpv_service_remove(self._service, queue._open())
        self._queues.remove(queue)
        self._halted.discard(id(queue))
        if error:
            _raise(-error, "queue")

    def _serve(self) -> None:
        while True:
            with self._lock:
                asked, self._asked = self._asked, []
                ending = self._ending
            for function, future in asked:
                try:
                    function()
                except Exception as error:  # the asker's to handle, whatever it is
                    future.set_exception(error)
                else:
                    future.set_result(None)
            if ending:
                for queue in list(self._queues):
                    self._remove(queue)
                return
            if lib.xenpv_service_run(self._service) == 1:
                self._tell_halted()

    def _tell_halted(self) -> None:
        for queue in self._queues:
            if lib.xenpv_back_halted(queue._open()) and id(queue) not in self._halted:
                self._halted.add(id(queue))
                if self._on_halt is not None:
                    self._on_halt(queue)
