"""What a disk's opener wants of its connection, and what that comes to with what the backend offers."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from xenpv.errors import DeviceError, UsageError
from xenpv.wire.blkif import MAX_INDIRECT_SEGMENTS, MAX_SEGMENTS, Protocol, ring_entries
from xenpv.xenbus import CLOSING_PATIENCE

from .queue import STAMPS

DEFAULT_INDIRECT = 256
"""Segments of an indirect request: 1 MiB, and one page for them."""
MAX_QUEUES = 16
"""Rings of a disk. Of 16 pages each, their keys are a third of what xenstored lets a guest have (1,000 nodes)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What this end wants. `flag` and `ring_order`: None takes what the backend offers."""

    depth: int = 32
    pool_pages: int = 256
    flag: bool | None = None
    persistent: bool = True
    abi: int = 64
    ring_order: int | None = None
    queues: int = 1
    """Rings at the most; a backend may offer fewer."""
    indirect: int | None = None
    """Segments of an indirect request at the most; None: up to DEFAULT_INDIRECT. 11 or fewer: none are made."""
    ignore: frozenset[str] = frozenset()
    """Keys of the backend that count as not there: how this end is an older or lesser one."""
    spin_ns: int | None = None
    """None: as suits a real Xen, or the emulated one."""
    trusted: bool | None = None
    """Whether the backend is; None: as the toolstack says (`trusted` in our directory)."""
    stamp: str | None = None
    """Stamp requests with dom0's time, in ``tick`` or ``us``; None: not."""
    profile: bool = False
    """Measure requests without stamps too, by this end's own clock."""
    closing_patience: float = CLOSING_PATIENCE

    def protocol(self) -> Protocol:
        """The ring's ABI in the store's words."""
        if self.abi == 32:
            return Protocol.X86_32
        return Protocol.ARM if platform.machine().startswith(("arm", "aarch64")) else Protocol.X86_64

    def segments(self, offered: int) -> int:
        """Of an indirect request; 0: there are none."""
        wanted = DEFAULT_INDIRECT if self.indirect is None else self.indirect
        agreed = min(offered, wanted, self.pool_pages)
        return agreed if agreed > MAX_SEGMENTS else 0

    def order(self, offered: int) -> int:
        """The ring's order: log2 of its pages. Raises DeviceError when the backend does not offer what is wanted."""
        if self.ring_order is None:
            order = 0
            while order < offered and ring_entries(order, self.protocol()) < self.depth:
                order += 1
            return order
        if self.ring_order > offered:
            raise DeviceError(f"the backend offers ring page orders up to {offered}, not {self.ring_order}: "
                              "leave ring_order out")
        return self.ring_order

    def check(self) -> None:
        """Raises UsageError for what cannot be meant."""
        if self.stamp not in STAMPS:
            raise UsageError(f"stamp is tick, us or None, not {self.stamp!r}")
        if self.stamp and self.abi != 64:
            raise UsageError("requests of the 32-bit ABI have no room for stamps: leave abi or stamp out")
        if self.abi not in (32, 64):
            raise UsageError(f"abi is 64 (x86_64, arm) or 32 (x86_32), not {self.abi}")
        if self.ring_order is not None and not 0 <= self.ring_order <= 4:
            raise UsageError(f"ring_order is 0 to 4, not {self.ring_order}")
        if not 1 <= self.queues <= MAX_QUEUES:
            raise UsageError(f"queues is 1 to {MAX_QUEUES}, not {self.queues}")
        if self.indirect is not None and not 0 <= self.indirect <= MAX_INDIRECT_SEGMENTS:
            raise UsageError(f"indirect is 0 to {MAX_INDIRECT_SEGMENTS} segments, not {self.indirect}")
        if not 1 <= self.depth <= 4096:
            raise UsageError(f"depth is 1 to 4096, not {self.depth}")
        if not 8 <= self.pool_pages <= 1 << 16:
            raise UsageError(f"the pool is 8 to 65536 pages, not {self.pool_pages}")
        if self.spin_ns is not None and self.spin_ns < 0:
            raise UsageError(f"spin_ns is 0 or more, not {self.spin_ns}")
