"""Names and numbers of virtual block devices: ``xvda`` is 51712.

Source: docs/man/xen-vbd-interface.7. The number is what xenstore holds, as the devid and as `virtual-device`.
"""

from __future__ import annotations

import re

from ..errors import UsageError

__all__ = ["MAX_VDEV", "vdev_name", "vdev_number"]

MAX_VDEV = (2 << 28) - 1
"""The largest number in use; those from 2 << 28 on are reserved."""

_EXTENDED = 1 << 28
_MAX_DISK, _MAX_PARTITION = (1 << 20) - 1, 255
_NAME = re.compile(r"(?P<kind>xvd|sd|hd)(?P<disk>[a-z]{1,5})(?P<part>0|[1-9][0-9]{0,2})?", re.ASCII)
_DISK_PARTITION = re.compile(r"d(?P<disk>0|[1-9][0-9]{0,6})(p(?P<part>0|[1-9][0-9]{0,2}))?", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]{1,8}|0[0-7]{0,11}|[1-9][0-9]{0,9}", re.ASCII | re.IGNORECASE)


def vdev_number(name: str) -> int:
    """The number of the device `name`: xvda, xvdaa, xvda1, d1p2, sda, hda, or a number (decimal, 0x hex, 0 octal).

    Raises UsageError when it is no such name, or beyond what its kind of disk can have.
    """
    if found := _NAME.fullmatch(name):
        disk, partition = _disk_number(found["disk"]), int(found["part"] or 0)
        number = _ENCODE[found["kind"]](disk, partition)
    elif found := _DISK_PARTITION.fullmatch(name):
        number = _encode_xvd(int(found["disk"]), int(found["part"] or 0))
    elif _NUMBER.fullmatch(name):
        octal = name.startswith("0") and name.isdigit()
        number = int(name, 8 if octal else 0)
        number = number if number <= MAX_VDEV else None
    else:
        raise UsageError(f"{name!r} is no virtual device: want a name like xvda, xvda1, d0p1, sda or hda, or a number")
    if number is None:
        raise UsageError(f"{name!r} is beyond the disks or partitions that a virtual device of its kind can have")
    return number


def vdev_name(number: int) -> str:
    """The name of the device `number`; the number itself, in decimal, where the specification gives it none.

    Raises UsageError when `number` is negative or reserved.
    """
    if not 0 <= number <= MAX_VDEV:
        raise UsageError(f"{number} is no virtual device: want 0 to {MAX_VDEV}")
    if number >= _EXTENDED:
        kind, disk, partition = "xvd", number >> 8 & _MAX_DISK, number & _MAX_PARTITION
    else:
        major, minor = number >> 8, number & 0xff
        match major:
            case 202:
                kind, disk, partition = "xvd", minor >> 4, minor & 15
            case 8:
                kind, disk, partition = "sd", minor >> 4, minor & 15
            case 3 | 22 if minor < 128:
                kind, disk, partition = "hd", (minor >> 6) + (2 if major == 22 else 0), minor & 63
            case _:
                return str(number)
    name = f"{kind}{_disk_letters(disk)}{partition or ''}"
    # A number that another one of the same name stands for, such as 1 << 28 for xvda, keeps its digits.
    return name if vdev_number(name) == number else str(number)


def _encode_xvd(disk: int, partition: int) -> int | None:
    if disk < 16 and partition < 16:
        return 202 << 8 | disk << 4 | partition
    if disk <= _MAX_DISK and partition <= _MAX_PARTITION:
        return _EXTENDED | disk << 8 | partition
    return None


def _encode_sd(disk: int, partition: int) -> int | None:
    return 8 << 8 | disk << 4 | partition if disk < 16 and partition < 16 else None


def _encode_hd(disk: int, partition: int) -> int | None:
    if disk > 3 or partition > 63:
        return None
    return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | partition


_ENCODE = {"xvd": _encode_xvd, "sd": _encode_sd, "hd": _encode_hd}


def _disk_number(letters: str) -> int:
    """a is 0, z is 25, aa is 26."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def _disk_letters(disk: int) -> str:
    letters, number = "", disk + 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters
