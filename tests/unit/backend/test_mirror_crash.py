"""mirror's bitmap after crashes: at every moment, of the process or of the whole machine.

What must hold: whichever leg is read afterwards, a sector has the last value that was flushed, or one written since; and
when recovery is done, all legs are equal and their file says so.
"""

from __future__ import annotations

import random

import pytest

from tests.support.crashing import CrashingDisk, CrashingFile, Platter
from tests.support.storages import ManualWorker, flush, write
from xenpv.errors import StorageError
from xenpv_backend.storage.base import StorageRequest
from xenpv_backend.storage.mirror import ACTIVE, Metadata, Mirror
from xenpv_backend.storage.mirror.recovery import Recovery

REGION = 2048
SECTORS = 32
SIZE = SECTORS * 512


class Crash(Exception):
    """The machine or the process ends here."""


class Limited(CrashingFile):
    """Crashes before its `left`th change."""

    def __init__(self, platter: Platter, left: list[int]) -> None:
        super().__init__(platter)
        self._left = left

    def _do(self, what: str) -> None:
        count_down(self._left)
        super()._do(what)


class LimitedDisk(CrashingDisk):
    def __init__(self, name: str, platter: Platter, left: list[int]) -> None:
        super().__init__(name, platter)
        self._left = left

    def _do(self, request: StorageRequest) -> int:
        count_down(self._left)
        return super()._do(request)


def count_down(left: list[int]) -> None:
    if left[0] == 0:
        raise Crash
    left[0] -= 1


class Story:
    """Lives of one mirror, and what a guest may find on it."""

    def __init__(self, seed: int, legs: int) -> None:
        self.chance = random.Random(seed)
        self.file = Platter(0)
        self.platters = [Platter(SIZE) for _ in range(legs)]
        Metadata.create(CrashingFile(self.file), [f"leg{n}" for n in range(legs)], SIZE, same=True, region=REGION)
        self.allowed: list[list[int]] = [[0] for _ in range(SECTORS)]
        """What may be found in each sector, in the order in which it was written; the first was flushed."""
        self.acknowledged = [0] * SECTORS
        self.number = 0

    def live(self, changes: int, faults: bool) -> bool:
        """One life, which ends at its `changes`th change to a disk or a file. False: it found no leg to live on."""
        left = [changes]
        disks = [LimitedDisk(f"leg{n}", platter, left) for n, platter in enumerate(self.platters)]
        worker, opener = ManualWorker(), ManualWorker()
        try:
            mirror = Mirror("m", Metadata(Limited(self.file, left), "m"), lambda name: disks[int(name[3:])].open(),
                            rate=1 << 40, worker=worker, opener=opener)
        except Crash:
            return True
        except StorageError:
            return False
        try:
            for _ in range(200):
                if faults and self.chance.random() < 0.1:
                    disk = self.chance.choice(disks)
                    disk.broken = disk.absent = not disk.broken
                self._step(mirror, worker)
                worker.pass_time(self.chance.choice((0.0, 0.1, 3.0)))
                opener.run()
                worker.run()
        except Crash:
            pass
        return True

    def _step(self, mirror: Mirror, worker: ManualWorker) -> None:
        if self.chance.random() < 0.2:
            before = list(self.acknowledged)
            mirror.submit([flush()], lambda request: self._flushed(request, before))
        else:
            self.number += 1
            first = self.chance.randrange(SECTORS)
            sectors = range(first, min(first + self.chance.randrange(1, 6), SECTORS))
            for sector in sectors:
                self.allowed[sector].append(self.number)
            number = self.number

            def done(request: StorageRequest) -> None:
                if request.status == 0:
                    for sector in sectors:
                        self.acknowledged[sector] = number

            mirror.submit([write(first, number.to_bytes(2, "little") * 256 * len(sectors))], done)
        worker.run()

    def _flushed(self, request: StorageRequest, before: list[int]) -> None:
        if request.status == 0:
            for sector, number in enumerate(before):
                if number in self.allowed[sector]:
                    del self.allowed[sector][:self.allowed[sector].index(number)]

    def check(self, power: bool) -> None:
        """After a crash: recover, and look."""
        for platter in [self.file, *self.platters]:
            platter.crash(self.chance if power else None)
        disks = [CrashingDisk(f"leg{n}", platter) for n, platter in enumerate(self.platters)]
        worker, opener = ManualWorker(), ManualWorker()
        metadata = Metadata(CrashingFile(self.file), "m")
        mirror = Mirror("m", metadata, lambda name: disks[int(name[3:])].open(), rate=1 << 40, worker=worker, opener=opener)
        worker.run()
        source = mirror.legs_in("active")[0]
        self._look(self.platters[int(source.target[3:])])
        for _ in range(60):
            worker.pass_time(1.0)
            opener.run()
        assert [leg.state for leg in metadata.header.legs] == [ACTIVE] * len(disks)
        assert not metadata.count_marked()
        assert all(platter.now == self.platters[0].now for platter in self.platters)
        self._look(self.platters[0])
        mirror.close()
        # What was found is what the guest goes on from.
        found = [int.from_bytes(self.platters[0].now[512 * sector:512 * sector + 2], "little") for sector in range(SECTORS)]
        self.acknowledged, self.allowed = list(found), [[number] for number in found]

    def _look(self, platter: Platter) -> None:
        for sector in range(SECTORS):
            content = platter.now[512 * sector:512 * (sector + 1)]
            number = int.from_bytes(content[:2], "little")
            assert content == content[:2] * 256 and number in self.allowed[sector], f"sector {sector}: {number}"


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("faults", [False, True], ids=["whole", "failing"])
@pytest.mark.parametrize("seed", range(12))
def test_lives_that_end_anywhere(seed: int, faults: bool, power: bool) -> None:
    story = Story(seed, legs=2 + seed % 2)
    for _ in range(12):
        assert story.live(story.chance.randrange(1, 400), faults)
        story.check(power)


@pytest.mark.parametrize("changes", range(1, 60))
def test_the_first_moments_one_by_one(changes: int) -> None:
    story = Story(100, legs=2)
    assert story.live(changes, False)
    story.check(True)


def clear_without_a_flush(mirror: Mirror) -> None:
    mirror._flushed = mirror._number


@pytest.mark.parametrize(("where", "name", "wrong", "power"), [
    (Metadata, "mark", lambda self, regions: None, True),
    (Metadata, "set_states", lambda self, states: None, False),
    (Mirror, "_tidy_later", lambda self: (clear_without_a_flush(self), self._worker.later(0.1, self._tidy)), True),
    (Recovery, "_end", lambda self, leg: self._mirror.recovered(leg), True),
], ids=["no bits", "no stale legs", "bits cleared without a flush", "a leg is whole without a flush"])
def test_a_mirror_that_is_wrong_is_caught(monkeypatch: pytest.MonkeyPatch, where: type, name: str, wrong: object,
                                          power: bool) -> None:
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        for seed in range(60):
            story = Story(seed, legs=2)
            for _ in range(4):
                story.live(300, True)
                story.check(power)
