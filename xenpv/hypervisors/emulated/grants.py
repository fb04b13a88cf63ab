"""The host's side of grants: segments, who has opened them, and what is taken back when a client ends.

The layout of a segment, of its table page and of a maptrack stands in core/emulated.h.

RULES
- No descriptor comes from a guest: all memory is made here, and sealed before anybody else sees it.
- The foreign domain alone opens a segment, and only once the granter has mapped it and its seals are complete.
- A segment ends with the connection that made it, or with either domain. Its memory goes when its last mapping goes,
  which the kernel counts.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from xenpv.core import ffi, lib

from .calls import PAGE_SIZE, SEGMENT_SIZE, TABLE_ENDED, TABLE_FAULT

_MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3; where vm.memfd_noexec is 2 nothing else is allowed
_F_SEAL_FUTURE_WRITE = 0x0010  # Linux 5.1; absent from the module fcntl of Python 3.11
_FIXED_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def _memory(name: str, size: int) -> int:
    """A memfd of `size` zero bytes that can neither shrink nor grow."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create(name, flags)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FIXED_SIZE)
    except OSError:
        os.close(fd)
        raise
    return fd


class Opening:
    """One client's opening of a segment: its maptrack."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.fd = _memory(f"xenpv-maptrack-{segment.granter}-{segment.number}", PAGE_SIZE)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
        segment.openings.add(self)

    def close(self) -> None:
        """Take back what the client still had mapped; it is dead, or it has unmapped the segment."""
        self.segment.openings.discard(self)
        self.segment.take_back(self.fd)
        os.close(self.fd)


class Segment:
    """256 pages of `granter`'s for `foreign`: the data, the table, and their descriptors until it ends."""

    def __init__(self, granter: int, foreign: int, number: int, writable: bool) -> None:
        self.granter = granter
        self.foreign = foreign
        self.number = number
        self.writable = writable
        self.ready = False
        self.ended = False
        self.openings: set[Opening] = set()
        self._data: mmap.mmap | None = None
        self._to_clear: dict[int, int] = {}
        name = f"{granter}-{foreign}-{number}"
        self.data_fd = _memory(f"xenpv-data-{name}", SEGMENT_SIZE)
        try:
            self.table_fd = _memory(f"xenpv-table-{name}", PAGE_SIZE)
        except OSError:
            os.close(self.data_fd)
            raise
        fcntl.fcntl(self.table_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)

    def seal(self) -> None:
        """The granter has mapped it: nobody can map or open a read-only one for writing from now on."""
        if not self.ready:
            if not self.writable:  # mapped before the seal, for a byte to be cleared in the end
                self._data = mmap.mmap(self.data_fd, SEGMENT_SIZE)
            extra = 0 if self.writable else _F_SEAL_FUTURE_WRITE
            fcntl.fcntl(self.data_fd, fcntl.F_ADD_SEALS, extra | fcntl.F_SEAL_SEAL)
            self.ready = True

    def clear_at_end(self, byte: int, armed: bool) -> None:
        """Set `byte` to 0 when the segment ends; without `armed`, no byte of its page. `byte` is within the segment."""
        if armed:
            self._to_clear[byte // PAGE_SIZE] = byte
        else:
            self._to_clear.pop(byte // PAGE_SIZE, None)

    def inject(self, skip: int, times: int, status: int) -> None:
        """Let `skip` maps pass, then refuse `times` with `status` (GNTST_*)."""
        with mmap.mmap(self.table_fd, PAGE_SIZE) as table:
            table[TABLE_FAULT:TABLE_FAULT + 8] = struct.pack("<IHh", skip, times, status)

    def take_back(self, track_fd: int) -> None:
        """Lower the table's counts by what a maptrack counts; all of them when nobody has the segment open.

        Once the segment has ended nobody asks for its counts any more.
        """
        if self.ended:
            return
        with mmap.mmap(self.table_fd, PAGE_SIZE) as table, mmap.mmap(track_fd, PAGE_SIZE) as track:
            with ffi.from_buffer(table) as entries, ffi.from_buffer(track) as mappings:
                lib.xenpv_emulated_reap(entries, mappings)
                if not self.openings:
                    lib.xenpv_emulated_forget(entries)

    def end(self) -> None:
        """No more grants, maps or openings. What is mapped stays with its mappers."""
        if self.ended:
            return
        if self._to_clear:
            data = self._data or mmap.mmap(self.data_fd, SEGMENT_SIZE)
            for byte in self._to_clear.values():
                data[byte] = 0
            data.close()
        elif self._data:
            self._data.close()
        self._data = None
        with mmap.mmap(self.table_fd, PAGE_SIZE) as table:
            table[TABLE_ENDED:TABLE_ENDED + 4] = b"\1\0\0\0"
        self.ended = True
        os.close(self.data_fd)
        os.close(self.table_fd)
