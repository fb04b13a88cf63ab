"""add, rm, replace and repair, killed at every write: the bundle is the old or the new one, or repair makes it so."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support import bundles
from tests.support.bundles import Killed, KilledMedium, MemoryMedium, opened
from xenpv_tools.bundle.reader import Bundle
from xenpv_tools.bundle.update import change, repair
from xenpv_tools.progress import Progress

CONTENT = {name: random.Random(name).randbytes(size) for name, size in
           {"kernel": 9000, "root": 70000, "empty": 0, "last": 4096}.items()}
OTHER = random.Random("other").randbytes(50001)
LARGER = random.Random("larger").randbytes(200000)


@dataclass(frozen=True)
class Change:
    """What is put in and taken out."""

    put_in: dict[str, bytes]
    take_out: tuple[str, ...] = ()
    cmdline: str | None = None

    def __call__(self, bundle: Bundle, medium: MemoryMedium) -> None:
        change(bundle, medium, bundles.inputs(self.put_in), self.take_out, cmdline=self.cmdline, created=5, sign=None,
               progress=Progress("test", None))

    def result(self) -> dict[str, bytes]:
        kept = {name: data for name, data in CONTENT.items() if name not in self.take_out}
        return {**kept, **self.put_in}


CHANGES = {
    "replace the first": Change({"kernel": OTHER}),
    "replace the last by a smaller one": Change({"last": b"x"}),
    "replace by a larger one": Change({"root": LARGER}),
    "replace two": Change({"kernel": OTHER, "root": b"small"}),
    "replace by nothing": Change({"root": b""}),
    "add": Change({"more": OTHER}),
    "remove the last": Change({}, ("last",)),
    "remove the largest": Change({}, ("root",)),
    "remove all": Change({}, tuple(CONTENT)),
    "command line": Change({}, cmdline="quiet"),
}


def killed(start: bytearray, work: Callable[[Bundle, MemoryMedium], object], at: int | None, *, reordered: bool,
           fixed: bool) -> tuple[bytearray, int, bool]:
    """What the disk holds, how many operations there were, and whether it came to the end."""
    medium = KilledMedium(bytearray(start), at, random.Random(f"{at} {reordered}"), reordered=reordered, fixed=fixed)
    try:
        # The source sees what the process wrote, as a file does.
        work(Bundle(bundles.MemorySource(medium.data)), medium)
    except Killed:
        return medium.survived, medium.operations, False
    return medium.data, medium.operations, True


def device(fixed: bool) -> bytearray:
    """The bundle; on a device, one with room behind it."""
    data = bundles.bundle(CONTENT)
    if not fixed:
        return data
    medium = MemoryMedium(bytearray(600000 // 512 * 512), fixed=True)
    bundles.create(medium, bundles.inputs(CONTENT), bundles.SMALL, None, Progress("test", None))
    return medium.data


@pytest.mark.parametrize("fixed", [False, True], ids=["file", "device"])
@pytest.mark.parametrize("reordered", [False, True], ids=["torn", "reordered"])
@pytest.mark.parametrize("name", CHANGES)
def test_killed_at_every_write(name: str, reordered: bool, fixed: bool) -> None:
    work, start = CHANGES[name], device(fixed)
    old, new = CONTENT, work.result()
    end, total, done = killed(start, work, None, reordered=reordered, fixed=fixed)
    assert done and total >= 8 and not bundles.reasons(end) and bundles.contents(end) == new
    seen = set()
    for at in range(1, total + 1):
        survived, _, finished = killed(start, work, at, reordered=reordered, fixed=fixed)
        assert not finished
        found = bundles.contents(survived)
        assert found in (old, new), f"killed at {at}: neither the old nor the new images"
        seen.add(found == new)
        if bundles.reasons(survived) or len(survived) != opened(survived).index.size:
            medium = MemoryMedium(survived, fixed=fixed)
            repair(opened(survived), medium)
        assert bundles.reasons(survived) == [], f"killed at {at}: repair does not mend it"
        assert bundles.contents(survived) == found
    assert seen == {False, True} or old == new


@pytest.mark.parametrize("reordered", [False, True], ids=["torn", "reordered"])
@pytest.mark.parametrize("damage", ["slot A", "slot B", "primary", "backup", "both tables"])
def test_repair_killed_at_every_write(damage: str, reordered: bool) -> None:
    start = bundles.bundle(CONTENT)
    places = {"slot A": [40000 - 7000], "slot B": [32768 + 16384 + 10], "primary": [600], "backup": [len(start) - 400],
              "both tables": [1100, len(start) - 100]}
    for place in places[damage]:
        start[place] ^= 0x55
    assert bundles.reasons(start)
    at, finished = 0, False
    while not finished:
        at += 1
        survived, _, finished = killed(start, repair, at, reordered=reordered, fixed=False)
        repair(opened(survived), MemoryMedium(survived))
        assert bundles.reasons(survived) == [] and bundles.contents(survived) == CONTENT
    assert at > 2


def test_a_change_after_an_interrupted_one() -> None:
    start = bundles.bundle(CONTENT)
    work = CHANGES["replace the first"]
    for at in range(1, 8):
        survived, _, _ = killed(start, work, at, reordered=False, fixed=False)
        CHANGES["add"](opened(survived), MemoryMedium(survived))
        assert bundles.reasons(survived) == []
        assert bundles.contents(survived)["more"] == OTHER


def test_a_full_device_is_refused_before_anything_is_written() -> None:
    start = device(True)
    medium = MemoryMedium(bytearray(start), fixed=True)
    with pytest.raises(bundles.StorageError, match="no gap for 900000 bytes"):
        Change({"huge": bytes(900000)})(opened(medium.data), medium)
    assert medium.data == start
