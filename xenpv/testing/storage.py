"""What every storage behind a disk must keep to, for our own and for others'.

A check takes a maker and raises ContractError, an AssertionError. It knows a storage by its shape alone (the Protocol
is `xenpv_backend.storage.Storage`), so that a storage may be checked where there is no backend.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .contract import hold

READ, WRITE, FLUSH, DISCARD = 0, 1, 3, 5
"""BLKIF_OP_* (io/blkif.h)."""
OKAY, ERROR = 0, -1
"""BLKIF_RSP_*."""

_SECTOR = 512
_DIRECT_ALIGNMENT = 4096
_PATIENCE = 30.0
"""Seconds that only end a check that fails."""


@dataclass
class Request:
    """A request as the backend's queue gives it to a storage in Python."""

    op: int
    sector: int
    bytes: int
    data: memoryview | None
    flush_first: bool = False
    status: int = -1
    secure: bool = False


Make = Callable[[bool], Any]
"""Makes a storage of at least 64 KiB, read-only or not; the same bytes each time, and closed before the next."""


def check_facts(make: Make) -> None:
    """The facts are such as blkif.h allows, and hold still."""
    with make(False) as storage:
        facts = storage.facts
        hold(facts.sector_size in (512, 1024, 2048, 4096), "the sector size is a power of two from 512 to 4096")
        hold(facts.size == facts.sectors * _SECTOR and facts.size >= 65536, "the size is that of the sectors")
        hold(facts.size % facts.sector_size == 0, "the size is a number of whole sectors")
        hold(facts.physical_sector_size % facts.sector_size == 0, "a physical sector is whole logical ones")
        hold(not facts.readonly, "a storage made writable is so")
        hold(not facts.discard or facts.discard_granularity > 0, "a storage that can discard says in what units")
        hold(storage.refresh() == facts, "looking at the size again changes nothing")
        hold(bool(storage.name and storage.cache), "a storage has a name and says how it is reached")


def check_reads_what_was_written(make: Make) -> None:
    """Bytes written at one place are read there, and nowhere else."""
    with make(False) as storage:
        unit = storage.facts.sector_size
        before = _read(storage, 0, 16 * unit)
        data = bytes(range(1, 5)) * (unit // 4)
        _do(storage, [Request(WRITE, 3 * unit // _SECTOR, unit, _buffer(data))])
        hold(_read(storage, 0, 16 * unit) == before[:3 * unit] + data + before[4 * unit:],
             "a write changes its own bytes and no others")
        _do(storage, [Request(FLUSH, 0, 0, None)])
        _do(storage, [Request(WRITE, 0, unit, _buffer(data), flush_first=True)])
        hold(_read(storage, 0, unit) == data, "a write with a flush is a write")


def check_ends(make: Make) -> None:
    """The first and the last sector are there."""
    with make(False) as storage:
        unit = storage.facts.sector_size
        last = storage.facts.sectors - unit // _SECTOR
        for sector, byte in ((0, b"a"), (last, b"z")):
            _do(storage, [Request(WRITE, sector, unit, _buffer(byte * unit))])
        hold(_read(storage, 0, unit) == b"a" * unit, "the first sector is read as it was written")
        hold(_read(storage, last, unit) == b"z" * unit, "the last sector is read as it was written")


def check_discard(make: Make) -> None:
    """What was discarded reads as zero, where the facts say so, and its neighbours stay."""
    with make(False) as storage:
        if not storage.facts.discard:
            return
        size = max(storage.facts.discard_granularity, 4096)
        if 3 * size > storage.facts.size:
            return
        _do(storage, [Request(WRITE, 0, 3 * size, _buffer(b"d" * 3 * size))])
        _do(storage, [Request(DISCARD, size // _SECTOR, size, None)])
        before, discarded, behind = (_read(storage, at * size // _SECTOR, size) for at in range(3))
        hold(before == behind == b"d" * size, "the neighbours of a discarded range stay")
        hold(discarded == bytes(size) or not storage.facts.discard_zeroes, "a discarded range reads as zero")


def check_readonly(make: Make) -> None:
    """A read-only storage says so, offers no discard, and is read."""
    with make(True) as storage:
        hold(storage.facts.readonly and not storage.facts.discard, "a read-only storage says so and discards nothing")
        hold(len(_read(storage, 0, 4096)) == 4096, "a read-only storage is read")


def check_many_at_once(make: Make) -> None:
    """A storage with submit() does each of many requests, exactly once, and what was written is there."""
    with make(False) as storage:
        if not hasattr(storage, "submit"):
            return
        unit = storage.facts.sector_size
        step, count = unit // _SECTOR, 32
        done: list[int] = []
        ready = threading.Condition()

        def finished(request: Any) -> None:
            with ready:
                done.append(request.sector)
                ready.notify()

        writes = [Request(WRITE, step * n, unit, _buffer(bytes([n]) * unit)) for n in range(count)]
        storage.submit(writes[:count // 2], finished)
        storage.submit(writes[count // 2:], finished)
        with ready:
            hold(ready.wait_for(lambda: len(done) >= count, _PATIENCE), "every request that was submitted is done")
        hold(sorted(done) == [step * n for n in range(count)], "every request is done once")
        hold(all(request.status == OKAY for request in writes), "every write that was submitted succeeds")
        hold(_read(storage, 0, unit * count) == b"".join(bytes([n]) * unit for n in range(count)),
             "what was submitted is read as it was written")


def check_close(make: Make) -> None:
    """close() may be called twice, and leaves no descriptor behind."""
    before = len(os.listdir("/proc/self/fd"))
    storage = make(False)
    storage.close()
    storage.close()
    hold(len(os.listdir("/proc/self/fd")) == before, "close() leaves no descriptor behind")


STORAGE_CHECKS = (check_facts, check_reads_what_was_written, check_ends, check_discard, check_readonly, check_many_at_once,
                  check_close)
"""The single claims, for a test runner to name one by one."""


def check_storage(make: Make) -> None:
    """Every check of this file. Raises ContractError with what does not hold."""
    for check in STORAGE_CHECKS:
        check(make)


def _buffer(content: bytes) -> memoryview:
    """`content` at an address that direct I/O takes."""
    memory = mmap.mmap(-1, max(len(content), _DIRECT_ALIGNMENT))
    memory[:len(content)] = content
    return memoryview(memory)[:len(content)]


def _read(storage: Any, sector: int, size: int) -> bytes:
    data = _buffer(bytes(size))
    _do(storage, [Request(READ, sector, size, data)])
    return bytes(data)


def _do(storage: Any, requests: Sequence[Request]) -> None:
    """As the backend does it: by the descriptor, or by handle()."""
    fd = storage.fileno()
    if fd < 0:
        storage.handle(requests)
    for request in requests:
        if fd >= 0:
            request.status = _by_descriptor(fd, request)
        hold(request.status == OKAY, f"operation {request.op} at sector {request.sector} succeeds")


def _by_descriptor(fd: int, request: Request) -> int:
    offset, done = request.sector * _SECTOR, request.bytes
    if request.op == FLUSH or request.flush_first:
        os.fdatasync(fd)
    if request.op == READ and request.data is not None:
        done = os.preadv(fd, [request.data], offset)
    elif request.op == WRITE and request.data is not None:
        done = os.pwritev(fd, [request.data], offset)
    elif request.op == DISCARD:
        _punch_hole(fd, offset, request.bytes)
    return OKAY if done == request.bytes else ERROR


def _punch_hole(fd: int, offset: int, length: int) -> None:
    keep_size_and_punch = 0x01 | 0x02  # linux/falloc.h
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate64(fd, keep_size_and_punch, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")
