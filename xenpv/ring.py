"""The shared ring, one end of it, over the core's verbs.

RULES
- A ring never notifies. `publish` says whether the peer must be notified; whoever owns the event channel does it.
- `arm` before every sleep, and look at what it returns: only 0 allows the sleep.
- A slot is copied out once. What the peer writes afterwards changes nothing here.
- `RemoteProtocolError` means that the peer moved an index where it cannot be; the ring is good for nothing any more.

The page's layout is in `xenpv.wire.blkif`, after Xen's io/ring.h and io/blkif.h. The data paths (the two queue.py) run
the same verbs inside the core; these classes are for tests, tools and for learning.
"""

from __future__ import annotations

from typing import Any

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.errors import ClosedError, LocalProtocolError, RemoteProtocolError

DEFAULT_SPIN_NS = 50_000
"""How long a side that found nothing looks again before it sleeps, in nanoseconds (core/spin.h has the rules).

A spin only ever meets a peer that can wake and answer within it. Where waking takes 25 us, two sides that spin for 20 us and
have one request in flight miss each other for ever: 11,500 reads a second, 102,000 with 30 us, 142,000 with 50 us.
"""
EMULATED_SPIN_NS = 150_000
"""The same on an emulated Xen, where that meets a disk's own 50 us and the wake-up of who waits for it, too (docs/bench.md).

Not on Xen: there another domain may want the CPU, or the kernel's threads that do our I/O, and nothing tells us.
"""


def default_spin_ns(xen: bool) -> int:
    """For a real Xen, or the emulated one."""
    return DEFAULT_SPIN_NS if xen else EMULATED_SPIN_NS


HEADER_BYTES = 64
ENTRY_BYTES = {64: 112, 32: 108}
"""Bytes of a ring entry by ABI: 64 is x86_64 and arm, 32 is x86_32 (io/blkif.h)."""


def initialise(memory: memoryview) -> None:
    """Make a fresh ring, as a frontend does before it grants the pages (SHARED_RING_INIT of io/ring.h)."""
    if memory.readonly or memory.nbytes < HEADER_BYTES:
        raise LocalProtocolError("a ring needs writable memory of at least 64 bytes")
    lib.xenpv_ring_init(ffi.from_buffer("uint8_t[]", memory, require_writable=True))


class _Ring(Closing):
    """One end of a ring in `memory`, attached as the ring stands. Keep `memory` until close()."""

    _back: int

    def __init__(self, memory: memoryview, *, abi: int = 64, flag: bool = False) -> None:
        if abi not in ENTRY_BYTES:
            raise LocalProtocolError(f"no such ABI: {abi}; 64 (x86_64, arm) and 32 (x86_32) are known")
        self._memory: Any = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
        self._ring: Any = ffi.new("struct xenpv_ring *")
        error = lib.xenpv_ring_attach(self._ring, self._memory, memory.nbytes, ENTRY_BYTES[abi], self._back, int(flag))
        if error:
            self.close()
            raise RemoteProtocolError("the ring's indices are impossible, or its memory is too small for one entry")

    def close(self) -> None:
        """Let go of the memory."""
        self._ring = None
        if self._memory is not None:
            ffi.release(self._memory)
            self._memory = None

    def _open(self) -> Any:
        if self._ring is None:
            raise ClosedError("the ring is closed")
        return self._ring

    @property
    def entries(self) -> int:
        """Entries of the ring, a power of two."""
        return int(self._open().entries)

    @property
    def produced(self) -> int:
        """Our producer index, modulo 2^32, entries not published yet included."""
        return int(self._open().produced)

    @property
    def consumed(self) -> int:
        """How far we took the peer's entries, modulo 2^32."""
        return int(self._open().consumed)

    @property
    def notifications(self) -> tuple[int, int]:
        """Publishes that said "notify", and those that saved a notification."""
        ring = self._open()
        return int(ring.notifications), int(ring.saved)

    def available(self) -> int:
        """Entries of the peer's that wait. Raises RemoteProtocolError."""
        return self._count(lib.xenpv_ring_available(self._open()))

    def arm(self) -> int:
        """Ask for an event, then look again: more than 0 means do not sleep. Raises RemoteProtocolError."""
        return self._count(lib.xenpv_ring_arm(self._open()))

    def run(self) -> None:
        """Flag mode: RUNNING, a promise to look again unprompted. With event indices: nothing."""
        lib.xenpv_ring_run(self._open())

    def publish(self) -> bool:
        """Show the peer what was put. True: notify it."""
        ring = self._open()
        return bool(lib.xenpv_ring_publish(ring, ring.produced))

    def put(self, entry: bytes) -> None:
        """Copy `entry` into the next slot; publish() shows it. Raises LocalProtocolError when the ring is full."""
        ring = self._open()
        if len(entry) > ring.entry_size:
            raise LocalProtocolError(f"an entry of {len(entry)} bytes does not fit a slot of {ring.entry_size}")
        if not self._room():
            raise LocalProtocolError("the ring is full: take what the peer answered first")
        offset = self._slot(ring.produced)
        self._memory[offset:offset + len(entry)] = entry
        ring.produced = (ring.produced + 1) & 0xffffffff

    def take(self) -> bytes | None:
        """A private copy of the peer's next entry, whole, or None when none waits. Raises RemoteProtocolError."""
        if not self.available():
            return None
        ring = self._open()
        offset = self._slot(ring.consumed)
        entry = bytes(ffi.buffer(self._memory)[offset:offset + ring.entry_size])
        ring.consumed = (ring.consumed + 1) & 0xffffffff
        return entry

    def _slot(self, index: int) -> int:
        ring = self._open()
        return HEADER_BYTES + (index & (int(ring.entries) - 1)) * int(ring.entry_size)

    def _room(self) -> int:
        """Entries that may be put now."""
        ring = self._open()
        outstanding = (int(ring.produced) - int(ring.consumed)) & 0xffffffff
        return self.entries - outstanding

    @staticmethod
    def _count(value: int) -> int:
        if value < 0:
            raise RemoteProtocolError("the peer moved its producer index where it cannot be: the ring is stopped")
        return int(value)


class FrontRing(_Ring):
    """A frontend's end: puts requests, takes responses."""

    _back = 0


class BackRing(_Ring):
    """A backend's end: takes requests, puts responses."""

    _back = 1

    def _room(self) -> int:
        ring = self._open()
        return (int(ring.consumed) - int(ring.produced)) & 0xffffffff
