"""What Linux says of a file, where Python has no name for the call. The numbers are from the kernel's headers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

PUNCH_HOLE_KEEP_SIZE = 0x02 | 0x01
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE (linux/falloc.h)."""

_MEMORY_FILESYSTEMS = {0x01021994, 0x858458F6}
"""TMPFS_MAGIC, RAMFS_MAGIC (linux/magic.h)."""

_BLKROGET, _BLKSSZGET, _BLKPBSZGET = 0x125E, 0x1268, 0x127B
_BLKSECDISCARD = 0x127D
_BLKGETSIZE64 = 2 << 30 | 8 << 16 | 0x12 << 8 | 114  # _IOR(0x12, 114, size_t), linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


def is_in_memory(fd: int) -> bool:
    """Whether the file's file system keeps it in memory alone. Raises OSError."""
    buffer = ctypes.create_string_buffer(512)
    if _libc.fstatfs(fd, buffer) != 0:
        raise OSError(ctypes.get_errno(), "fstatfs")
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in _MEMORY_FILESYSTEMS


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give `length` bytes at `offset` back; they read as zero. Raises OSError (EOPNOTSUPP where it cannot be)."""
    if _libc.fallocate64(fd, PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def device_size(fd: int) -> int:
    """Bytes of the block device. Raises OSError."""
    return int(struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0])


def device_sector_sizes(fd: int) -> tuple[int, int]:
    """Logical and physical sector size of the block device, bytes. Raises OSError."""
    logical = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
    physical = struct.unpack("I", fcntl.ioctl(fd, _BLKPBSZGET, bytes(4)))[0]
    return int(logical), int(physical)


def device_is_readonly(fd: int) -> bool:
    """Whether the block device refuses writes. Raises OSError."""
    return bool(struct.unpack("i", fcntl.ioctl(fd, _BLKROGET, bytes(4)))[0])


def device_can_discard_securely(fd: int) -> bool:
    """Whether the block device has a secure discard. Asked for a range that cannot be, so that nothing is discarded."""
    try:
        fcntl.ioctl(fd, _BLKSECDISCARD, struct.pack("QQ", 1, 1))
    except OSError as error:
        return error.errno == errno.EINVAL
    return False


def device_limit(number: int, name: str) -> int:
    """A number of the block device `number`'s queue in sysfs (``discard_max_bytes``); 0 where there is none."""
    device = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
    # A partition has no queue of its own: its disk's is one directory up.
    for place in (f"{device}/queue/{name}", f"{device}/../queue/{name}"):
        try:
            with open(place, encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0
