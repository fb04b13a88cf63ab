"""What a guest does with a disk of ours, on behalf of a test in dom0 that checks what it says."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from contextlib import ExitStack
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from xenpv.closing import Closing
from xenpv.hypervisors import open_domain
from xenpv.ring import EMULATED_SPIN_NS
from xenpv.timepage import open_reader
from xenpv.wire.blkif import SECTOR_SIZE, Op
from xenpv_frontend.disk import Disk

BLOCK, DEPTH = 4096, 32
PART, LENGTH = 1 << 19, 1 << 20
"""Where the guest writes, and how much: bytes."""


def written(seed: int) -> bytes:
    """What the guest writes."""
    return random.Random(seed).randbytes(LENGTH)


def after(content: bytes, seed: int) -> bytes:
    """A disk's `content` when the guest has written."""
    return content[:PART] + written(seed) + content[PART + LENGTH:]


def leave_disks_alone() -> None:
    """The kernel's own frontend takes no disk that comes from now on."""
    Path("/sys/bus/xen/drivers_autoprobe").write_text("0")


class GuestDisk(Closing):
    """A disk, open in this guest."""

    def __init__(self, vdev: str, flag: bool, spin: bool, stamp: str | None = None) -> None:
        with ExitStack() as stack:
            domain = stack.enter_context(open_domain("xen:"))
            if stamp:  # the page ticks, however slow the host, before the disk asks for it
                stack.enter_context(open_reader(domain, timeout=60))
            self._disk = stack.enter_context(Disk.open(domain, vdev, flag=flag, spin_ns=EMULATED_SPIN_NS if spin else 0,
                                                       timeout=60, stamp=stamp))
            self._open = stack.pop_all()

    def close(self) -> None:
        self._open.close()

    def flag(self) -> bool:
        """Whether the notify-suppression flag was negotiated."""
        return self._disk.features.flag

    def digest(self) -> str:
        """Of all of it."""
        digest = hashlib.sha256()
        for chunk in self._disk.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def write(self, seed: int) -> None:
        """The part that is written, durable when this returns."""
        self._disk.write(PART, written(seed))
        self._disk.flush()

    def read_alone(self, count: int) -> None:
        """So many blocks, one after the other."""
        for number in range(count):
            self._disk.read(number * BLOCK % self._disk.size, BLOCK)

    def read_together(self, count: int) -> None:
        """So many blocks, up to DEPTH of them in flight."""
        sectors = memoryview(array("Q", (number * BLOCK // SECTOR_SIZE for number in range(DEPTH))))
        with self._disk.batch(DEPTH, BLOCK) as batch:
            while count > 0:
                fresh = sectors[:min(batch.free, count)]
                count -= len(fresh)
                batch.exchange(Op.READ, fresh, at_least=1)
            while batch.in_flight:
                batch.exchange(Op.READ, sectors[:0], at_least=batch.in_flight)

    def counters(self) -> str:
        """The frontend's counters, as JSON."""
        return json.dumps(asdict(self._disk.stats()))

    def stages(self) -> str:
        """What the stamps of the newest requests say, as JSON.

        `samples`; `known` of them, and `apart`: how much a stage of those lies before the one before it at the most;
        `longest`: from submit to reap. In the stamps' unit.
        """
        samples = self._disk.samples()
        known = [sample[:6] for sample in samples if sample.known]
        return json.dumps({
            "samples": len(samples), "known": len(known),
            "apart": max((after_stamp(old, new) for stages in known for new, old in pairwise(stages)), default=0),
            "longest": max((after_stamp(stages[0], stages[5]) for stages in known), default=0)})


def after_stamp(old: int, new: int) -> int:
    """From one stamp to another; both are the low 32 bits of a count."""
    return (new - old + (1 << 31)) % (1 << 32) - (1 << 31)
