"""Names and numbers of virtual devices: the table of xen-vbd-interface.7, and its limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenpv.errors import UsageError
from xenpv.xenbus import MAX_VDEV, vdev_name, vdev_number

TABLE = [
    ("xvda", 51712), ("xvda1", 51713), ("xvda15", 51727), ("xvdb", 51728), ("xvdb2", 51730), ("xvdp", 51952),
    ("xvdq", 1 << 28 | 16 << 8), ("xvda16", 1 << 28 | 16), ("xvdz", 1 << 28 | 25 << 8), ("xvdaa", 1 << 28 | 26 << 8),
    ("xvdaz", 1 << 28 | 51 << 8), ("xvdba", 1 << 28 | 52 << 8), ("xvdzz", 1 << 28 | 701 << 8),
    ("xvdaaa", 1 << 28 | 702 << 8), ("xvdtq37", 1 << 28 | 536 << 8 | 37), ("xvda255", 1 << 28 | 255),
    ("sda", 2048), ("sdb3", 8 << 8 | 1 << 4 | 3), ("sdp15", 8 << 8 | 255),
    ("hda", 768), ("hda1", 769), ("hdb", 832), ("hdc", 5632), ("hdc2", 5634), ("hdd63", 22 << 8 | 1 << 6 | 63),
]


@pytest.mark.parametrize(("name", "number"), TABLE)
def test_a_name_has_its_number_and_back(name: str, number: int) -> None:
    assert (vdev_number(name), vdev_name(number)) == (number, name)


@pytest.mark.parametrize(("name", "same"), [
    ("d0", "xvda"), ("d0p0", "xvda"), ("d1p2", "xvdb2"), ("d536p37", "xvdtq37"), ("d16", "xvdq"), ("xvda0", "xvda"),
    ("51712", "xvda"), ("0xca00", "xvda"), ("0145000", "xvda"), ("268439552", "xvdq")])
def test_other_spellings(name: str, same: str) -> None:
    assert vdev_number(name) == vdev_number(same)


def test_the_last_disk_and_partition() -> None:
    assert vdev_number("d1048575p255") == MAX_VDEV


@pytest.mark.parametrize("name", [
    "", "xvd", "XVDA", "xvd1", "xvda-1", "xvda 1", "xvda1 ", "xvda\n", "xvda01", "xvda256", "xvdzzzzz", "d", "dp1",
    "d1p", "d01", "d1048576", "d0p256", "sdq", "sda16", "hde", "hda64", "vda", "nvme0", "-1", "+1", "1e3", "08", "0x",
    "536870912", "0x20000000", "99999999999", "\u0661", "/dev/xvda"])
def test_no_name_of_a_device(name: str) -> None:
    with pytest.raises(UsageError, match="virtual device"):
        vdev_number(name)


@pytest.mark.parametrize("number", [-1, MAX_VDEV + 1])
def test_no_number_of_a_device(number: int) -> None:
    with pytest.raises(UsageError, match="virtual device"):
        vdev_name(number)


@pytest.mark.parametrize("number", [0, 1, 9 << 8, 3 << 8 | 128, 22 << 8 | 255, 1 << 28, 1 << 28 | 15 << 8 | 15])
def test_a_number_without_a_name_of_its_own_stays_a_number(number: int) -> None:
    assert vdev_name(number) == str(number)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, MAX_VDEV) | st.integers(0, 0xffff) | st.integers(51712, 51967))
def test_every_number_comes_back(number: int) -> None:
    assert vdev_number(vdev_name(number)) == number
