"""What a backend says of a disk: what it offers, and what the disk is."""

from __future__ import annotations

from xenpv.errors import StorageError
from xenpv.timepage import own_clock_is_cheap
from xenpv.wire.blkif import DiskInfo
from xenpv.xenbus import BackendAdverts, BackendNode, DiskFacts

from .options import BackendOptions
from .storage import StorageFacts


def adverts_of(node: BackendNode, facts: StorageFacts, options: BackendOptions, domid: int) -> BackendAdverts:
    """What the backend of domain `domid` offers of what the storage can do: each feature by its own option."""
    discard = options.discard and facts.discard and not facts.readonly and node.discard_enable is not False
    return BackendAdverts(
        max_queues=options.max_queues, max_ring_page_order=options.max_ring_page_order,
        max_indirect_segments=options.max_indirect_segments, persistent=bool(options.persistent),
        flush_cache=facts.flush and options.flush, barrier=facts.flush and options.barrier, discard=discard,
        discard_granularity=(facts.discard_granularity or None) if discard else None,
        discard_alignment=facts.discard_alignment if discard else None,
        discard_secure=facts.discard_secure and options.discard_secure if discard else None,
        notify_flag=options.notify_flag, stamp=_stamp(options.stamp, domid))


def _stamp(wanted: str, domid: int) -> str | None:
    """The unit of stamps to offer. Microseconds are dom0's, and those of a driver domain are of another clock: dom0's backend
    alone offers them, where a look at that clock is cheap.
    """
    if wanted == "us" and (domid != 0 or not own_clock_is_cheap()):
        return "tick"
    return None if wanted == "off" else wanted


def facts_of(node: BackendNode, facts: StorageFacts, options: BackendOptions) -> DiskFacts:
    """What the disk is. Raises StorageError when it has no whole number of its sectors."""
    info = DiskInfo(0)
    for bit, holds in ((DiskInfo.READONLY, facts.readonly), (DiskInfo.CDROM, node.device_type == "cdrom"),
                       (DiskInfo.REMOVABLE, node.removable)):
        if holds:
            info |= bit
    sector_size = max(facts.sector_size, options.sector_size)
    check_whole(facts.size, sector_size)
    return DiskFacts(facts.sectors, int(info), sector_size, max(facts.physical_sector_size, sector_size))


def check_whole(size: int, sector_size: int) -> None:
    """Raises StorageError when `size` bytes are no whole sectors."""
    if size % sector_size:
        raise StorageError(f"{size} bytes are no whole sectors of {sector_size} bytes: `truncate -s %{sector_size}` rounds "
                           "an image up")
