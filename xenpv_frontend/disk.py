"""The public API of the guest's side: a disk, read and written through its ring.

    with open_domain() as domain, Disk.open(domain, "xvda") as disk:
        print(disk.size, disk.read(0, 4096))

Any number of threads may use a Disk at once. Offsets and lengths are bytes, and multiples of `sector_size`; what is not
is refused with UsageError before anything is sent. Every call may raise DiskError when the backend answered with an
error, DeviceError when the disk is disconnected, RemoteProtocolError when the backend broke the ring's rules, and
ClosedError after close().
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from xenpv.closing import Closing
from xenpv.domain import PAGE_SIZE, Domain
from xenpv.errors import ClosedError, DiskError, UsageError
from xenpv.latency import DiskLatency
from xenpv.wire.blkif import SECTOR_SIZE, DiskInfo, Op, Status
from xenpv.xenbus import CLOSING_PATIENCE

from .buffers import pages_of
from .device import Device, find_vbd
from .kernel import Taken, take_from_kernel
from .pieces import Piece
from .queue import SECURE, Sample
from .reaper import Reaper
from .reapers import Reapers
from .settings import Settings
from .stats import Counters

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from .batch import Batch
    from .stream import Readable

PIECE_PAGES = 64
"""Pages of one piece of a large I/O: several are in flight at once."""

OPEN_SECONDS = 10.0
"""How long a backend may take to connect."""


@dataclass(frozen=True, slots=True)
class Features:
    """What was agreed for these rings."""

    abi: int
    queues: int
    ring_order: int
    flag: bool
    persistent: bool
    max_segments: int
    """Of an indirect request; 0: there are none."""
    flush: bool
    barrier: bool
    discard: bool
    discard_granularity: int | None
    discard_alignment: int | None
    discard_secure: bool


def failed(op: int, sector: int, length: int, status: int, name: str) -> DiskError:
    """The error for an I/O that the backend answered with `status`."""
    verb = Op(op).name.lower().partition("_")[0]
    what = "does not support this" if status == Status.EOPNOTSUPP else "answered with an error"
    return DiskError(f"{name}: {verb} of {length} bytes at {sector * SECTOR_SIZE}: the backend {what}", status)


def as_bytes(view: memoryview) -> memoryview:
    """The same memory as single bytes. Raises UsageError when it is not contiguous."""
    if not view.contiguous:
        raise UsageError("the memory to read into or write from is not contiguous")
    return view.cast("B") if view.nbytes else memoryview(b"")


class Disk(Closing):
    """A virtual block device of this domain. Make one with open()."""

    def __init__(self, device: Device, reaper: Reaper | Reapers, taken: Taken | None = None) -> None:
        self._device = device
        self._reaper = reaper
        self._taken = taken

    @classmethod
    def open(cls, domain: Domain, vdev: str | int = "xvda", *, depth: int = 32, pool_bytes: int | None = None,
             flag: bool | None = None, persistent: bool = True, spin_ns: int | None = None,
             ring_order: int | None = None, abi: int = 64, timeout: float = OPEN_SECONDS,
             closing_patience: float = CLOSING_PATIENCE, take: bool = False, stamp: str | None = None,
             indirect: int | None = None, ignore: Collection[str] = (), trusted: bool | None = None,
             profile: bool = False, queues: int = 1) -> Self:
        """Connect to the backend of `vdev` (``xvda``, or its number).

        `depth`: requests to have room for in the ring. `pool_bytes`: memory that stays granted, through which all I/O
        goes, batches and streams included; by default 32 KiB for each of `depth`. `flag`: the notify-suppression flag;
        None takes it when offered, True insists. `persistent`: tell the backend that it may keep the pages mapped.
        `spin_ns`: how long to look again before sleep, nanoseconds; None is 50 us on a real Xen, 150 us on the emulated one.
        `ring_order`: log2 of the ring's pages; None has `depth` entries if the backend offers as many. `abi`: 64 or 32.
        `queues`: up to so many rings, each with room for `depth` requests and all with the one pool; the backend may offer
        fewer, see `features`. Threads are given one of them in turn, and batches; a long I/O's pieces and a stream's go over
        all (reapers.py).
        `indirect`: segments (pages) of one request at the most where the backend offers indirect requests: None is 256, and
        with 11 or fewer there are none. `ignore`: keys of the backend that count as not there (``feature-flush-cache``).
        `trusted`: None is what the toolstack says; False: the backend is not, so no memory that it can write is lent to the
        caller, chunks and batches included, at the cost of a copy.
        `timeout`, `closing_patience`: seconds for the backend to connect, and to answer at the end. `take`: if the kernel
        has the disk, take it away, and give it back in close() where that can be (see `kernel`). `stamp`: stamp requests
        with dom0's time, in ``tick`` or ``us``, for samples(), stats() and latency(); the backend must offer it, and `xenpv
        time publish` run in dom0, when this is called: later the disk goes on without. `profile`: have latency() without
        stamps too, by this end's own clock. Raises UsageError, DeviceError (also for a disk that the kernel has and `take`
        does not say so), TimePageError, StoreError, GrantError, EventChannelError, RemoteProtocolError.
        """
        size = depth * 32768 if pool_bytes is None else pool_bytes
        settings = Settings(depth=depth, pool_pages=pages_of(size), flag=flag, persistent=persistent, abi=abi,
                            ring_order=ring_order, queues=queues, spin_ns=spin_ns, stamp=stamp, profile=profile,
                            indirect=indirect, trusted=trusted, ignore=frozenset(ignore),
                            closing_patience=closing_patience)
        settings.check()
        place = find_vbd(domain, vdev)
        reaper = Reaper() if queues == 1 else Reapers()
        with ExitStack() as undo:
            taken = take_from_kernel(domain, place, allowed=take)
            if taken is not None:
                undo.callback(taken.close)
            device = Device(domain, place, settings, reaper)
            device.open(timeout)
            undo.pop_all()
        return cls(device, reaper, taken)

    def close(self) -> None:
        """Let I/O in flight end, within a limit, and disconnect. Whoever still waits gets ClosedError.

        A disk that was taken from the kernel goes back; where it cannot, the log says why. Raises LocalProtocolError while
        a slice of a chunk or of a batch's buffer is kept: release it and close again.
        """
        self._device.close()
        if self._taken is not None:
            self._taken.close()

    @property
    def name(self) -> str:
        """The virtual device's name, such as ``xvda``."""
        return self._device.name

    @property
    def size(self) -> int:
        """Bytes; changes when the backend resizes the disk."""
        return self._device.facts.size

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector: the unit of every I/O."""
        return self._device.facts.sector_size

    @property
    def readonly(self) -> bool:
        return self._device.facts.read_only

    @property
    def cdrom(self) -> bool:
        return bool(self._device.facts.info & DiskInfo.CDROM)

    @property
    def removable(self) -> bool:
        return bool(self._device.facts.info & DiskInfo.REMOVABLE)

    @property
    def trusted(self) -> bool:
        """Whether the backend is; see open()."""
        return self._device.trusted

    @property
    def features(self) -> Features:
        device, adverts = self._device, self._device.adverts
        return Features(device.settings.abi, device.queues, device.ring_order, device.flag,
                        device.settings.persistent and adverts.persistent, device.max_segments, adverts.flush_cache,
                        adverts.barrier, adverts.discard,
                        adverts.discard_granularity, adverts.discard_alignment, bool(adverts.discard_secure))

    def stats(self) -> Counters:
        """Counters since open(), of all queues together."""
        return self._reaper.counters()

    def queue_stats(self) -> list[Counters]:
        """Counters since open(), of each queue that there is."""
        return [reaper.counters() for reaper in self._reaper.each()]

    def latency(self) -> DiskLatency | None:
        """How long requests took since open(), by operation and stage; None without `stamp` and `profile`.

        Without `stamp` there is the total alone. It is a snapshot: subtract an earlier one for what came since.
        """
        return self._reaper.latency()

    def samples(self) -> list[Sample]:
        """The newest stamped requests answered since the last call, at most 1024 a queue, oldest first; none without `stamp`.

        With several queues they come one queue after the other.
        """
        return self._reaper.samples()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        self.check_range(offset, length)
        if 0 < length <= PIECE_PAGES * PAGE_SIZE:
            piece = self._piece(Op.READ, offset, length, wait=True)
            if piece is not None and piece.run is not None:
                try:
                    if piece.length == length:
                        self._reaper.perform(piece)
                        self._check(piece)
                        return bytes(piece.run.view[:length])
                finally:
                    self._reaper.leave(piece)
        data = bytearray(length)
        with memoryview(data) as view:
            self.transfer(Op.READ, offset, view)
        return bytes(data)

    def readinto(self, offset: int, buffer: WriteableBuffer) -> int:
        """Fill `buffer` from `offset`. Returns its length in bytes."""
        with memoryview(buffer) as whole, as_bytes(whole) as view:
            self.check_range(offset, view.nbytes)
            self.transfer(Op.READ, offset, view)
            return view.nbytes

    def write(self, offset: int, data: ReadableBuffer) -> None:
        """Write `data` at `offset`. It is durable after flush()."""
        with memoryview(data) as whole, as_bytes(whole) as view:
            self.check_range(offset, view.nbytes)
            self.check_writable()
            self.transfer(Op.WRITE, offset, view)

    def flush(self) -> None:
        """Make every write that has returned durable: by a flush, or by a barrier where the backend offers that alone.

        That is of the disk, not of a queue: what was answered on any of them is in it, and what is in flight is not.
        A backend without a cache is asked nothing.
        """
        if self._device.adverts.flush_cache:
            self._control(Op.FLUSH_DISKCACHE, 0, 0)
        elif self._device.adverts.barrier:
            self._control(Op.WRITE_BARRIER, 0, 0)
        else:
            self._reaper.check()

    def discard(self, offset: int, length: int, *, secure: bool = False) -> None:
        """Give the range up: what is read there afterwards is not defined. `secure`: and no copy of it is left.

        Raises DiskError (-2) where unsupported.
        """
        self.check_range(offset, length)
        self.check_writable()
        if not self._device.adverts.discard:
            raise DiskError(f"{self.name}: the backend does not offer discard", Status.EOPNOTSUPP)
        if secure and not self._device.adverts.discard_secure:
            raise DiskError(f"{self.name}: the backend does not offer secure discard", Status.EOPNOTSUPP)
        if length:
            self._control(Op.DISCARD, offset, length, SECURE if secure else 0)

    def open_raw(self) -> io.RawIOBase:
        """The disk as a file to read from, at any offset and length. Closing it leaves the disk open."""
        from .stream import RawDisk

        return RawDisk(self)

    def chunks(self, size: int = 256 * 1024, depth: int = 4, *, offset: int = 0,
               length: int | None = None) -> Iterator[memoryview]:
        """The disk's bytes in order, `size` at a time, with up to `depth` chunks read ahead.

        Each memoryview is good until the next one is asked for. Raises UsageError when the pool has no room for one.
        """
        from .stream import chunks

        return chunks(self, size, depth, offset, self.size - offset if length is None else length)

    def write_from(self, reader: Readable, offset: int = 0, *, size: int = 256 * 1024, depth: int = 4) -> int:
        """Write all that `reader` (anything with readinto) gives, from `offset`, with up to `depth` writes in flight.

        Returns how many bytes. Raises UsageError when that is not a whole number of sectors, or does not fit: what came
        before is written then.
        """
        from .stream import write_from

        return write_from(self, reader, offset, size, depth)

    def batch(self, depth: int = 32, block: int = 4096) -> Batch:
        """Room for `depth` I/Os of `block` bytes each in flight, at the cost of a few calls for all of them.

        Raises UsageError when the pool is too small: open the disk with more `pool_bytes`.
        """
        from .batch import Batch

        return Batch(self, depth, block)

    # What streams and batches use as well.

    @property
    def reaper(self) -> Reaper | Reapers:
        return self._reaper

    def check_range(self, offset: int, length: int) -> None:
        """Raises UsageError when the range is not of whole sectors, or not within the disk."""
        facts = self._device.facts
        if (offset | length) & (facts.sector_size - 1):
            raise UsageError(f"{self.name}: {length} bytes at {offset} are not whole sectors of {facts.sector_size} "
                             "bytes")
        if offset < 0 or length < 0 or offset + length > facts.size:
            raise UsageError(f"{self.name}: {length} bytes at {offset} are outside the disk of {facts.size} bytes")

    def check_writable(self) -> None:
        """Raises DiskError when the disk is read-only. The backend refuses a write as well."""
        if self._device.facts.read_only:
            raise DiskError(f"{self.name} is read-only", Status.ERROR)

    def transfer(self, op: Op, offset: int, view: memoryview) -> None:
        """READ into or WRITE from `view`, in pieces, as many in flight as the pool has pages for."""
        pending: deque[Piece] = deque()
        position = 0
        try:
            while pending or position < view.nbytes:
                fresh: list[Piece] = []
                while position < view.nbytes:
                    piece = self._piece(op, offset + position, view.nbytes - position, wait=not pending)
                    if piece is None:
                        break
                    pending.append(piece)
                    fresh.append(piece)
                    if op is Op.WRITE and piece.run is not None:
                        piece.run.view[:piece.length] = view[position:position + piece.length]
                    position += piece.length
                if fresh:
                    self._reaper.submit(fresh)
                piece = pending[0]
                self._reaper.wait(piece)
                self._check(piece)
                if op is Op.READ and piece.run is not None:
                    start = piece.sector * SECTOR_SIZE - offset
                    view[start:start + piece.length] = piece.run.view[:piece.length]
                self._reaper.leave(pending.popleft())
        except DiskError:
            for piece in pending:  # none may land after the caller was told
                self._reaper.wait(piece)
            raise
        finally:
            for piece in pending:
                self._reaper.leave(piece)

    def _piece(self, op: Op, offset: int, length: int, *, wait: bool) -> Piece | None:
        """The first piece of a range, with its run; None when the pool has no page and we do not `wait` for one."""
        pool = self._reaper.the_pool()
        pages = min(PIECE_PAGES, pages_of(length))
        try:
            run = pool.take(pages)
            while run is None and wait:
                left = self._reaper.abandoned()
                if left is None:
                    run = pool.take_waiting(pages)
                else:  # nobody else takes its answer, and with it gives its pages back
                    self._reaper.wait(left)
                    run = pool.take(pages)
        except ClosedError:
            self._reaper.check()  # why it was closed
            raise
        if run is None:
            return None
        return Piece(op, offset // SECTOR_SIZE, min(length, run.pages * PAGE_SIZE), run)

    def _control(self, op: Op, offset: int, length: int, flags: int = 0) -> None:
        with self._reaper.controls:
            piece = Piece(op, offset // SECTOR_SIZE, length, flags=flags)
            try:
                self._reaper.perform(piece)
                self._check(piece)
            finally:
                self._reaper.leave(piece)

    def _check(self, piece: Piece) -> None:
        if piece.status:
            raise failed(piece.op, piece.sector, piece.length, piece.status, self.name)
