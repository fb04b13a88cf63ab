"""What the two drivers of a vbd tell each other in the store.

Source: xen/include/public/io/blkif.h (features and parameters), and what Linux's xen-blkback and xen-blkfront do where
that text leaves a choice. Every record is written by one side and read by the other; a reader's bounds are in `keys`.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..wire.blkif import (MAX_INDIRECT_SEGMENTS, MAX_RING_PAGE_ORDER, RING_PAGE_SIZE, SECTOR_SIZE, DiskInfo, Protocol)
from .keys import FLAG, U32, Choice, Number, Record, Values, key, refuse

__all__ = ["BackendAdverts", "DiskFacts", "FrontendRings", "MAX_PORT", "MAX_QUEUES", "MAX_SECTORS", "RingKeys",
           "agreed_stamp", "default_protocol"]

MAX_QUEUES: Final = 64
"""Queues of one vbd that are ever offered or asked for."""
MAX_PORT: Final = (1 << 17) - 1
"""The highest event channel port (EVTCHN_FIFO_NR_CHANNELS, event_channel.h)."""
MAX_SECTORS: Final = (1 << 63) // SECTOR_SIZE - 1
"""Sectors of 512 bytes such that every byte's offset fits in an off_t."""


STAMP: Final = Choice(("tick", "us"))
"""The units of stamps. Who offers microseconds takes ticks too."""


@dataclass(frozen=True, slots=True)
class BackendAdverts(Record):
    """What the backend offers, written before InitWait. More than this side can use is read as what it can use."""

    max_indirect_segments: int = key("feature-max-indirect-segments", Number(0, U32, MAX_INDIRECT_SEGMENTS), 0)
    max_queues: int = key("multi-queue-max-queues", Number(1, U32, MAX_QUEUES), 1)
    max_ring_page_order: int = key("max-ring-page-order", Number(0, U32, MAX_RING_PAGE_ORDER), 0)
    persistent: bool = key("feature-persistent", FLAG, False)
    flush_cache: bool = key("feature-flush-cache", FLAG, False)
    barrier: bool = key("feature-barrier", FLAG, False)
    discard: bool = key("feature-discard", FLAG, False)
    discard_granularity: int | None = key("discard-granularity", Number(1, U32), None)
    """Bytes; None: the sector size."""
    discard_alignment: int | None = key("discard-alignment", Number(0, U32), None)
    """Bytes; None: 0."""
    discard_secure: bool | None = key("discard-secure", FLAG, None)
    notify_flag: bool = key("feature-xenpv-notify-flag", FLAG, False)
    """The notify-suppression flag in the ring's header is offered."""
    stamp: str | None = key("feature-xenpv-stamp", STAMP, None)
    """Requests may be stamped with dom0's time: in ticks, or in microseconds and in ticks (docs/time-page.md)."""

    def to_keys(self) -> dict[str, str]:
        """The keys to write. Without indirect segments their key is not there at all, as blkif.h demands."""
        keys = super(BackendAdverts, self).to_keys()
        if not self.max_indirect_segments:
            del keys["feature-max-indirect-segments"]
        return keys


@dataclass(frozen=True, slots=True)
class DiskFacts(Record):
    """What the backend says of the disk, written before Connected; `sectors` again when it is resized."""

    sectors: int = key("sectors", Number(0, MAX_SECTORS))
    """The size in units of 512 bytes, whatever `sector_size` is."""
    info: int = key("info", Number(0, U32), 0)
    """DiskInfo's bits; others are kept and mean nothing."""
    sector_size: int = key("sector-size", Number(SECTOR_SIZE, RING_PAGE_SIZE), SECTOR_SIZE)
    """Bytes of a logical sector: every request is a whole number of them."""
    physical_sector_size: int | None = key("physical-sector-size", Number(SECTOR_SIZE, U32), None)
    """Bytes; None: the logical sector size."""

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self.sectors * SECTOR_SIZE

    @property
    def read_only(self) -> bool:
        return bool(self.info & DiskInfo.READONLY)

    def check(self, where: str) -> None:
        if self.sector_size & (self.sector_size - 1):
            raise refuse(where, "sector-size", b"%d" % self.sector_size, "a power of two")
        if self.size % self.sector_size:
            raise refuse(where, "sectors", b"%d" % self.sectors, f"whole sectors of {self.sector_size} bytes")
        if self.physical_sector_size is not None and self.physical_sector_size % self.sector_size:
            raise refuse(where, "physical-sector-size", b"%d" % self.physical_sector_size,
                         f"a multiple of sector-size, {self.sector_size}")


def default_protocol(machine: str | None = None) -> Protocol:
    """What a ring's ABI is when the frontend does not say: x86_32 on x86, also 64-bit, which is Linux's rule.

    `machine` is as in platform.machine(), which it defaults to.
    """
    machine = platform.machine() if machine is None else machine
    return Protocol.ARM if machine.startswith(("arm", "aarch64")) else Protocol.X86_32


_GRANT: Final = Number(0, U32)
_PORT: Final = Number(1, MAX_PORT)
_PROTOCOL: Final = Choice(tuple(Protocol))
_RING_KEY: Final = re.compile(r"ring-ref[0-9]*|event-channel|ring-page-order|multi-queue-num-queues|queue-[0-9]+|"
                              r"protocol|feature-persistent|xenpv-notify-flag|xenpv-stamp", re.ASCII)


@dataclass(frozen=True, slots=True)
class RingKeys:
    """One queue: the grant references of its ring's pages in order, and the frontend's event channel port."""

    refs: tuple[int, ...]
    port: int


@dataclass(frozen=True, slots=True)
class FrontendRings:
    """What the frontend publishes before Initialised. All its rings are of one size, 1, 2, 4, 8 or 16 pages."""

    queues: tuple[RingKeys, ...]
    protocol: Protocol
    persistent: bool = False
    notify_flag: bool = False
    """The notify-suppression flag is taken: it counts only where the backend has offered it for this very ring."""
    stamp: str | None = None
    """The unit of the stamps that requests carry; as the flag."""

    @property
    def order(self) -> int:
        """log2 of a ring's pages."""
        return len(self.queues[0].refs).bit_length() - 1

    @classmethod
    def parse(cls, values: Values, where: str = "", *, max_order: int = MAX_RING_PAGE_ORDER,
              max_queues: int = MAX_QUEUES, default: Protocol | None = None) -> FrontendRings:
        """What stands in the frontend's directory, `where`.

        `max_order` and `max_queues` are what the backend has advertised; `default` stands for a missing protocol key
        (None: default_protocol()). Raises RemoteProtocolError.
        """
        count = _read(values, where, "multi-queue-num-queues", Number(1, max_queues)) or 1
        order = _read(values, where, "ring-page-order", Number(0, max_order))
        prefixes = [""] if count == 1 else [f"queue-{number}/" for number in range(count)]
        queues = tuple(_parse_ring(values, where, prefix, order) for prefix in prefixes)
        _no_two_alike(where, "grant reference of a ring", [ref for queue in queues for ref in queue.refs])
        _no_two_alike(where, "event-channel", [queue.port for queue in queues])
        said = values.get("protocol")
        if said is not None:
            protocol = Protocol(_PROTOCOL.read(where, "protocol", said))
        else:
            protocol = default_protocol() if default is None else default
        return cls(queues, protocol, _flag(values, where, "feature-persistent"),
                   _flag(values, where, "xenpv-notify-flag"), _stamp(values, where))

    @staticmethod
    def leftovers(names: Iterable[str]) -> list[str]:
        """Those of a frontend directory's `names` that an earlier connection may have left: remove before to_keys()."""
        return [name for name in names if _RING_KEY.fullmatch(name)]

    def to_keys(self) -> dict[str, str]:
        """The keys to write. The protocol is always said; a single page or queue is written the plain, older way."""
        keys = {"protocol": str(self.protocol), "feature-persistent": FLAG.write(self.persistent),
                "xenpv-notify-flag": FLAG.write(self.notify_flag)}
        if self.stamp is not None:
            keys["xenpv-stamp"] = self.stamp
        if self.order:
            keys["ring-page-order"] = str(self.order)
        if len(self.queues) > 1:
            keys["multi-queue-num-queues"] = str(len(self.queues))
        for number, queue in enumerate(self.queues):
            prefix = ""
            if len(self.queues) > 1:
                keys[f"queue-{number}"] = ""
                prefix = f"queue-{number}/"
            names = [f"ring-ref{page}" for page in range(len(queue.refs))] if self.order else ["ring-ref"]
            keys |= {prefix + name: str(ref) for name, ref in zip(names, queue.refs, strict=True)}
            keys[f"{prefix}event-channel"] = str(queue.port)
        return keys


def agreed_stamp(adverts: BackendAdverts, rings: FrontendRings) -> str | None:
    """The unit of the stamps on these rings, or None: without both ends' word, and in the 32-bit ABI, there are none."""
    if adverts.stamp is None or rings.stamp is None or rings.protocol is Protocol.X86_32:
        return None
    return None if rings.stamp == "us" and adverts.stamp != "us" else rings.stamp


def _parse_ring(values: Values, where: str, prefix: str, order: int | None) -> RingKeys:
    refs: tuple[int, ...]
    single = _read(values, where, f"{prefix}ring-ref", _GRANT) if order == 0 else None
    if single is not None:
        # A frontend that says order 0 in so many words may write either name.
        refs = (single,)
    else:
        names = ["ring-ref"] if order is None else [f"ring-ref{page}" for page in range(1 << order)]
        refs = tuple(_required(values, where, prefix + name, _GRANT) for name in names)
    return RingKeys(refs, _required(values, where, f"{prefix}event-channel", _PORT))


def _read(values: Values, where: str, name: str, kind: Number) -> int | None:
    value = values.get(name)
    return None if value is None else kind.read(where, name, value)


def _required(values: Values, where: str, name: str, kind: Number) -> int:
    number = _read(values, where, name, kind)
    if number is None:
        raise refuse(where, name, None, kind.want)
    return number


def _flag(values: Values, where: str, name: str) -> bool:
    value = values.get(name)
    return value is not None and FLAG.read(where, name, value)


def _stamp(values: Values, where: str) -> str | None:
    value = values.get("xenpv-stamp")
    return None if value is None else STAMP.read(where, "xenpv-stamp", value)


def _no_two_alike(where: str, what: str, numbers: list[int]) -> None:
    if len(set(numbers)) != len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise refuse(where, what, b"%d" % twice, "each only once")
