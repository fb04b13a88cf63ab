"""The backend's process of the wake-up stress: serves one ring without spin, with seeded pauses, until its input ends.

``python -m tests.stress.backend URI DOMID PORT REF FLAG SEED STATS`` says "ready"; STATS is its statistics page.
"""

from __future__ import annotations

import mmap
import os
import random
import sys

from xenpv.hypervisors import open_domain
from xenpv.ring import ENTRY_BYTES
from xenpv.stats import PAGE_BYTES
from xenpv_backend.queue import Queue, QueueConfig, journal_bytes

SECTORS = 1 << 20


def stamp(sector: int) -> bytes:
    """What sector `sector` holds: its own number, over and over."""
    return sector.to_bytes(8, "little") * 64


def main(uri: str, domid: int, port: int, ref: int, flag: bool, seed: int, page: str) -> None:
    pauses = random.Random(seed)
    entries = 1 << ((4096 - 64) // ENTRY_BYTES[64]).bit_length() - 1
    with open(page, "r+b") as file:
        stats = mmap.mmap(file.fileno(), PAGE_BYTES)
    journal = mmap.mmap(-1, journal_bytes(entries))
    config = QueueConfig(domid=domid, ring_refs=[ref], sectors=SECTORS, flag=flag, persistent=16, spin_ns=0)
    with open_domain(uri) as domain, domain.events.bind_interdomain(domid, port) as channel, \
            Queue(domain.open_core(), channel, config, stats=memoryview(stats), journal=memoryview(journal)) as queue:
        print("ready", flush=True)
        while True:
            requests = queue.next(limit=pauses.choice((1, 1, 2)), wake_fd=0)
            if not requests and not os.read(0, 1):
                break
            for request in requests:
                assert request.data is not None
                request.data[:] = stamp(request.sector)
            for _ in range(pauses.choice((0, 0, 0, 30, 300))):
                pass
            queue.complete(requests)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1", int(sys.argv[6]), sys.argv[7])
