"""mirror: what it answers, what it writes down before, and how a leg comes back; time and legs in the test's hand."""

from __future__ import annotations

import pytest

from tests.support.crashing import CrashingDisk, CrashingFile, Platter
from tests.support.storages import ManualWorker, buffer, discard, flush, read, write
from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status
from xenpv_backend.storage.base import StorageRequest, SubRequest
from xenpv_backend.storage.mirror import ACTIVE, STALE, Metadata, Mirror

REGION = 4096
SIZE = 16 * REGION


class World:
    """A mirror and what is under it. Everything runs in run() and pass_time()."""

    def __init__(self, legs: int = 2, copies: int = 1, same: bool = True) -> None:
        self.file = CrashingFile(Platter(0))
        self.legs = [CrashingDisk(f"leg{n}", Platter(SIZE)) for n in range(legs)]
        Metadata.create(self.file, [leg.name for leg in self.legs], SIZE, copies=copies, same=same, region=REGION)
        self.answers: list[StorageRequest] = []
        self.open()

    def open(self, rate: int = 1 << 40) -> Mirror:
        self.worker, self.opener = ManualWorker(), ManualWorker()
        self.metadata = Metadata(self.file, "m")
        self.mirror = Mirror("m", self.metadata, lambda name: self.legs[int(name[3:])].open(), rate=rate,
                             worker=self.worker, opener=self.opener)
        return self.mirror

    def run(self, seconds: float = 0.0) -> None:
        """Both threads' turns, and time."""
        for _ in range(10):
            self.worker.run()
            self.opener.run()
        while seconds > 0:
            self.worker.pass_time(0.5)
            self.opener.run()
            self.worker.run()
            seconds -= 0.5

    def do(self, *requests: SubRequest) -> list[int]:
        self.mirror.submit(requests, self.answers.append)
        self.run()
        return [request.status for request in requests]

    def content(self, sector: int, size: int = 512) -> bytes:
        request = read(sector, size)
        assert self.do(request) == [0] and request.data is not None
        return bytes(request.data)

    def states(self) -> list[str]:
        return [leg.state for leg in Metadata(self.file, "m").header.legs]

    def marked(self) -> list[int]:
        return list(Metadata(self.file, "m").marked())

    def equal(self) -> bool:
        return all(leg.platter.now == self.legs[0].platter.now for leg in self.legs)


def test_a_write_is_on_every_leg() -> None:
    world = World(3)
    assert world.do(write(5, b"x" * 512), discard(7, 512), flush(), write(9, b"y" * 512, True)) == [0] * 4
    assert world.equal() and world.legs[2].platter.now[5 * 512:6 * 512] == b"x" * 512


def test_legs_that_may_differ_after_a_discard_are_offered_none() -> None:
    world = World()
    assert world.mirror.facts.discard
    world.legs[1].discard_zeroes = False
    assert not world.open().facts.discard


def test_the_bit_is_durable_before_any_leg_is_written() -> None:
    world = World()
    world.file.story.clear()
    seen: list[list[str]] = []
    world.legs[0].story = SpyList(lambda: seen.append(list(world.file.story)))
    world.do(write(0, bytes(512)))
    assert seen == [["write", "sync"]]
    assert world.marked() == [0]


class SpyList(list[tuple[int, int]]):
    """Tells when something is appended."""

    def __init__(self, tell: object) -> None:
        super().__init__()
        self._tell = tell

    def append(self, item: tuple[int, int]) -> None:
        assert callable(self._tell)
        self._tell()


def test_one_sync_for_all_writes_that_came_together() -> None:
    world = World()
    world.file.story.clear()
    world.do(*[write(8 * n, bytes(512)) for n in range(8)])
    assert world.file.story.count("sync") == 1


def test_a_write_without_its_bit_is_not_begun() -> None:
    world = World()
    world.file.fails = True
    world.legs[0].story.clear()
    assert world.do(write(0, bytes(512))) == [Status.ERROR]
    assert not world.legs[0].story
    world.file.fails = False
    assert world.do(write(0, bytes(512))) == [0]


# A leg that fails

@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("request_", [write(0, b"x" * 512), discard(0, 512), flush()], ids=["write", "discard", "flush"])
def test_the_guest_does_not_see_a_leg_fail(which: int, request_: SubRequest) -> None:
    world = World()
    world.legs[which].broken = True
    assert world.do(request_) == [0]
    assert world.states()[which] == STALE and world.states()[1 - which] == ACTIVE
    assert world.do(write(8, b"y" * 512)) == [0] and world.content(8) == b"y" * 512
    assert "1 of 2 legs" in world.mirror.describe()["degraded"]


def test_a_stale_leg_is_written_down_before_the_answer() -> None:
    world = World()
    world.legs[1].broken = True
    states: list[list[str]] = []
    world.mirror.submit([write(0, bytes(512))], lambda request: states.append(world.states()))
    world.run()
    assert states == [[ACTIVE, STALE]]


def test_what_cannot_be_written_down_is_not_acknowledged() -> None:
    world = World()
    world.do(write(0, bytes(512)))
    world.legs[1].broken = True
    world.file.fails = True
    assert world.do(write(0, bytes(512))) == [Status.ERROR]
    assert world.do(flush()) == [Status.ERROR]
    world.file.fails = False
    assert world.do(write(0, bytes(512))) == [0]
    assert world.states() == [ACTIVE, STALE]


@pytest.mark.parametrize(("copies", "broken", "status"), [(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, -1), (3, 0, 0), (3, 1, -1)])
def test_never_acknowledged_on_fewer_legs_than_promised(copies: int, broken: int, status: int) -> None:
    world = World(3, copies=copies)
    for leg in world.legs[3 - broken:]:
        leg.broken = True
    assert world.do(write(0, b"x" * 512)) == [status]
    assert world.do(flush()) == [status]


def test_a_leg_that_recovers_does_not_count() -> None:
    world = World(copies=2, same=False)
    world.open(rate=1)
    assert world.do(write(0, bytes(512))) == [Status.ERROR]


def test_the_last_leg_is_kept_and_its_errors_are_the_guests() -> None:
    world = World()
    for leg in world.legs:
        leg.broken = True
    assert world.do(write(0, bytes(512)), read(0)) == [Status.ERROR] * 2
    assert world.states().count(ACTIVE) == 1
    for leg in world.legs:
        leg.broken = False
    assert world.do(write(0, bytes(512))) == [0]


def test_a_read_goes_on_with_the_next_leg_and_the_bad_one_is_written_anew() -> None:
    world = World()
    world.do(write(0, b"x" * 512), flush())
    world.legs[0].broken = frozenset({Op.READ})
    assert world.content(0) == b"x" * 512
    assert world.states() == [STALE, ACTIVE] and world.marked() == [0]
    world.legs[0].broken = False
    world.legs[0].platter.now[:512] = b"?" * 512
    world.run(5)
    assert world.states() == [ACTIVE, ACTIVE] and world.equal()


# A leg that comes back

def test_what_a_leg_missed_is_copied_and_no_more() -> None:
    world = World()
    world.legs[1].broken = True
    world.do(write(0, b"a" * 512), write(8 * 5, b"b" * 512))
    world.legs[1].broken = False
    world.legs[1].story.clear()
    world.run(5)
    assert world.equal() and world.states() == [ACTIVE, ACTIVE]
    written = [sector for op, sector in world.legs[1].story if op == Op.WRITE]
    assert written == [0, 40]


def test_bits_are_cleared_when_every_leg_has_it_durable() -> None:
    world = World()
    world.do(write(0, b"a" * 512))
    world.run(4)
    assert world.marked() == [0]
    world.run(12)
    assert world.marked() == []
    assert all(leg.platter.durable[:512] == b"a" * 512 for leg in world.legs)


def test_bits_stay_while_a_leg_is_away() -> None:
    world = World()
    world.legs[1].broken, world.legs[1].absent = True, True
    world.do(write(0, b"a" * 512))
    world.run(60)
    assert world.marked() == [0]
    world.legs[1].broken, world.legs[1].absent = False, False
    world.run(120)
    assert world.equal() and world.marked() == [] and world.states() == [ACTIVE, ACTIVE]


def test_an_idle_mirror_has_nothing_to_do() -> None:
    world = World()
    world.do(write(0, b"a" * 512))
    world.run(30)
    assert not world.worker._timers


def test_the_guest_goes_on_while_a_leg_is_copied_at_its_rate() -> None:
    world = World(same=False)
    world.open(rate=REGION)
    world.run()
    world.legs[1].story.clear()
    world.run(4)
    copied = len([op for op, _ in world.legs[1].story if op == Op.WRITE])
    assert 3 <= copied <= 5
    assert world.do(write(8 * 15, b"z" * 512)) == [0]
    world.run(30)
    assert world.equal() and world.states() == [ACTIVE, ACTIVE]


def test_the_rate_does_not_change_what_is_copied() -> None:
    world = World(same=False)
    world.legs[0].platter.now[:] = bytes(range(256)) * (SIZE // 256)
    world.open()
    world.run(2)
    assert world.equal() and world.states() == [ACTIVE, ACTIVE]


def test_a_write_waits_for_the_piece_that_is_copied() -> None:
    world = World(same=False)
    held: list[tuple[StorageRequest, object]] = []
    disk = world.legs[1]
    submit = disk.submit
    disk.submit = lambda requests, done: held.extend((r, done) for r in requests)  # type: ignore[method-assign]
    world.open()
    world.run()
    assert [request.op for request, _ in held] == [Op.WRITE]
    late, other = write(0, b"n" * 512), write(8 * 15, b"o" * 512)
    world.mirror.submit([late, other], world.answers.append)
    world.run()
    assert [request.sector for request, _ in held] == [0, 120], "only the other one is on its way"
    disk.submit = submit  # type: ignore[method-assign]
    for request, done in held:
        submit([request], done)  # type: ignore[arg-type]
    world.run(5)
    assert (late.status, other.status) == (0, 0) and world.equal()


def test_a_leg_that_fails_while_it_is_copied_is_begun_anew() -> None:
    world = World(same=False)
    world.open(rate=REGION)
    world.run(3)
    world.legs[1].broken = True
    world.do(write(0, b"n" * 512))
    world.legs[1].broken = False
    world.run(60)
    assert world.equal() and world.states() == [ACTIVE, ACTIVE]


def test_a_write_that_only_a_recovering_leg_has_is_taken_back_from_it() -> None:
    """The guest was told that it failed; what counts is what the leg that has everything holds."""
    world = World(same=False)
    world.open(rate=REGION)
    world.run(6)
    world.legs[0].broken = frozenset({Op.WRITE})
    assert world.do(write(0, b"n" * 512)) == [Status.ERROR]
    assert world.legs[1].platter.now[:512] == b"n" * 512
    world.legs[0].broken = False
    world.run(60)
    assert world.equal() and world.states() == [ACTIVE, ACTIVE] and world.content(0) == bytes(512)


# Opened again

def test_a_clean_close_leaves_nothing_to_copy() -> None:
    world = World()
    world.do(write(0, b"x" * 512))
    world.mirror.close()
    assert world.marked() == [] and all(leg.platter.durable[:512] == b"x" * 512 for leg in world.legs)


def test_a_stale_leg_alone_is_refused() -> None:
    world = World()
    world.legs[1].broken = True
    world.do(write(0, b"x" * 512))
    world.legs[0].absent, world.legs[1].broken = True, False
    with pytest.raises(StorageError, match="no leg that has everything can be opened: leg0 is not there; leg1 is stale"):
        world.open()


def test_a_leg_that_is_not_there_at_first() -> None:
    world = World()
    world.mirror.close()
    world.legs[0].absent = True
    world.open()
    assert world.do(write(0, b"x" * 512)) == [0]
    assert world.states() == [STALE, ACTIVE]
    world.legs[0].absent = False
    world.run(60)
    assert world.equal() and world.states() == [ACTIVE, ACTIVE]


@pytest.mark.parametrize("size", [SIZE - 512, 512])
def test_a_leg_that_is_too_small_is_left_out(size: int) -> None:
    world = World()
    world.mirror.close()
    world.legs[1].platter = Platter(size)
    world.open()
    assert world.states() == [ACTIVE, STALE]
    assert f"has {size} bytes, and the mirror {SIZE}" in world.mirror.describe()["mirror"]["legs"][1]["error"]


def test_status_says_how_much_is_left() -> None:
    world = World(same=False)
    world.open(rate=REGION)
    world.run(2)
    shown = world.mirror.describe()
    assert shown["mirror"]["legs"][1]["state"] == "recovering"
    assert 0 < shown["mirror"]["legs"][1]["left_bytes"] < SIZE
    assert "bytes to copy" in shown["degraded"]


def test_data_of_a_write_is_not_needed_after_the_answer() -> None:
    world = World()
    data = buffer(b"x" * 512)
    world.do(SubRequest(Op.WRITE, 0, 512, data))
    data[:] = b"?" * 512
    assert world.content(0) == b"x" * 512
