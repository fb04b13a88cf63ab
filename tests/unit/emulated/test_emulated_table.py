"""Entries of a table page: the core's offer, end, reap and forget, and a segment's seals."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenpv.core import ffi, lib
from xenpv.hypervisors.emulated.calls import PAGE_SIZE, SEGMENT_SIZE
from xenpv.hypervisors.emulated.grants import Opening, Segment

PERMIT, READONLY, READING, WRITING = 1, 4, 8, 16


def entry(table: bytearray, page: int) -> tuple[int, int, int, int, int]:
    """flags, domid, page, read mappings, write mappings."""
    flags, domid, frame = struct.unpack_from("<HHI", table, page * 8)
    return flags, domid, frame & 0xFF, frame >> 8 & 0xFFF, frame >> 20


def put(table: bytearray, page: int, flags: int, domid: int, readers: int, writers: int) -> None:
    struct.pack_into("<HHI", table, page * 8, flags, domid, page | readers << 8 | writers << 20)


@pytest.fixture
def table() -> bytearray:
    return bytearray(PAGE_SIZE)


def at(page: bytearray) -> Any:
    return ffi.from_buffer(page)


def test_an_offer_is_an_entry_of_xen(table: bytearray) -> None:
    lib.xenpv_emulated_offer(at(table), 7, 3, 1)
    lib.xenpv_emulated_offer(at(table), 255, 0x7FEF, 0)
    assert entry(table, 7) == (PERMIT, 3, 7, 0, 0)
    assert entry(table, 255) == (PERMIT | READONLY, 0x7FEF, 255, 0, 0)


def test_a_grant_ends(table: bytearray) -> None:
    lib.xenpv_emulated_offer(at(table), 7, 3, 1)
    assert lib.xenpv_emulated_end(at(table), 7) == 0
    assert table == bytes(PAGE_SIZE)


@pytest.mark.parametrize(("readers", "writers"), [(1, 0), (0, 1), (4095, 4095)])
def test_a_mapped_grant_stands_as_it_was(table: bytearray, readers: int, writers: int) -> None:
    put(table, 7, PERMIT | READING, 3, readers, writers)
    before = bytes(table)
    assert lib.xenpv_emulated_end(at(table), 7) == -errno.EBUSY
    assert table == before


def test_reap_takes_back_what_the_client_had(table: bytearray) -> None:
    put(table, 9, PERMIT | READING | WRITING, 3, 5, 2)
    track = bytearray(PAGE_SIZE)
    struct.pack_into("<HH", track, 9 * 4, 3, 2)
    assert lib.xenpv_emulated_reap(at(table), at(track)) == 5
    assert entry(table, 9) == (PERMIT | READING, 3, 9, 2, 0)
    assert track == bytes(PAGE_SIZE)
    assert lib.xenpv_emulated_reap(at(table), at(track)) == 0


def flags_of(readers: int, writers: int) -> int:
    return PERMIT | (READING if readers or writers else 0) | (WRITING if writers else 0)


@given(readers=st.integers(0, 4095), writers=st.integers(0, 4095), read=st.integers(0, 65535),
       write=st.integers(0, 65535))
def test_reap_never_goes_below_zero(readers: int, writers: int, read: int, write: int) -> None:
    table, track = bytearray(PAGE_SIZE), bytearray(PAGE_SIZE)
    put(table, 1, flags_of(readers, writers), 3, readers, writers)
    struct.pack_into("<HH", track, 4, read, write)
    lib.xenpv_emulated_reap(at(table), at(track))
    left = max(0, readers - read), max(0, writers - write)
    assert entry(table, 1) == (flags_of(*left), 3, 1, *left)


def test_forget_keeps_the_grants(table: bytearray) -> None:
    put(table, 0, PERMIT | READING | WRITING, 3, 4095, 4095)
    lib.xenpv_emulated_forget(at(table))
    assert entry(table, 0) == (PERMIT, 3, 0, 0, 0)
    assert bytes(table[8:]) == b"".join(bytes(8) for _ in range(511))


@pytest.fixture(params=[True, False], ids=["writable", "read-only"])
def segment(request: pytest.FixtureRequest) -> Iterator[Segment]:
    made = Segment(0, 1, 1, request.param)
    yield made
    made.end()


def test_a_segment_keeps_its_size(segment: Segment) -> None:
    segment.seal()
    for fd, size in ((segment.data_fd, SEGMENT_SIZE), (segment.table_fd, PAGE_SIZE)):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size - 1)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size + PAGE_SIZE)


def test_a_sealed_segment_takes_no_more_seals(segment: Segment) -> None:
    segment.seal()
    fcntl_add_seals, write = 1033, 8
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fcntl(segment.data_fd, fcntl_add_seals, write) == -1
    assert ctypes.get_errno() == errno.EPERM


def test_a_read_only_segment_cannot_be_written_even_reopened() -> None:
    segment = Segment(0, 1, 1, False)
    granter = mmap.mmap(segment.data_fd, SEGMENT_SIZE)
    segment.seal()
    reopened = os.open(f"/proc/self/fd/{segment.data_fd}", os.O_RDWR)
    try:
        for fd in (segment.data_fd, reopened):
            with pytest.raises(PermissionError):
                mmap.mmap(fd, SEGMENT_SIZE)
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"x", 0)
            libc = ctypes.CDLL(None, use_errno=True)
            punch_hole = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
            assert libc.fallocate(fd, punch_hole, ctypes.c_long(0), ctypes.c_long(PAGE_SIZE)) == -1
        with mmap.mmap(reopened, SEGMENT_SIZE, prot=mmap.PROT_READ) as foreign:
            granter[0:3] = b"new"
            assert foreign[0:3] == b"new", "the granter itself writes on"
    finally:
        os.close(reopened)
        granter.close()
        segment.end()


def test_the_last_opening_forgets_what_no_maptrack_counts() -> None:
    """A client that was killed between its entry and its maptrack."""
    segment = Segment(0, 1, 1, True)
    first, second = Opening(segment), Opening(segment)
    with mmap.mmap(segment.table_fd, PAGE_SIZE) as table:
        struct.pack_into("<HHI", table, 0, PERMIT | READING, 1, 1 << 8)
        first.close()
        assert struct.unpack_from("<HHI", table) == (PERMIT | READING, 1, 1 << 8), "another client may have it mapped"
        second.close()
        assert struct.unpack_from("<HHI", table) == (PERMIT, 1, 0)
    segment.end()
