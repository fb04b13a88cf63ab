"""Where a load's I/Os go, and how their times are taken, over a batch that is none."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import pytest
from xenpv_tools.bench import load
from xenpv_tools.bench.cases import Case

from xenpv.errors import DeviceError
from xenpv.wire.blkif import Op

RANDOM = Case("random", 4096, 4)


def test_random_sectors_are_whole_blocks_of_the_disk_each_once() -> None:
    found = load.sectors_of(100 * 4096, RANDOM, 1)
    assert sorted(found) == [8 * block for block in range(100)]


def test_random_sectors_are_not_in_order_and_the_seed_decides() -> None:
    one, same, other = (load.sectors_of(1 << 20, RANDOM, seed) for seed in (1, 1, 2))
    assert one == same != other and list(one) != sorted(one)


def test_sequential_sectors_are_in_order() -> None:
    case = Case("sequential", 8192, 2, sequential=True)
    assert list(load.sectors_of(4 * 8192 + 512, case, 1)) == [0, 16, 32, 48]


def test_there_is_a_sector_for_each_of_depth() -> None:
    assert len(load.sectors_of(4096, Case("deep", 4096, 5), 1)) >= 5


def test_a_disk_without_a_block_is_refused() -> None:
    with pytest.raises(DeviceError, match="no block"):
        load.sectors_of(4095, RANDOM, 1)


class Clock:
    """Moves 1 us with each exchange, of whichever batch."""

    now = 1000


class Batch:
    """Brings back what it is told to, as Batch does."""

    def __init__(self, answers: list[list[int]], depth: int = 4, clock: Clock | None = None) -> None:
        self.answers = iter(answers)
        self.depth = depth
        self.clock = clock or Clock()
        self.in_flight = 0
        self.submitted: list[int] = []
        self.slots = memoryview(array("I"))

    def exchange(self, op: int, sectors: memoryview, *, at_least: int) -> int:
        self.submitted += sectors
        self.clock.now += 1000
        self.slots = memoryview(array("I", next(self.answers)))
        self.in_flight += len(sectors) - len(self.slots)
        assert at_least <= len(self.slots)
        return len(self.slots)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Batch]:
    batch = Batch([[0], [1, 0], [2, 3, 1], [0]])
    monkeypatch.setattr(load, "perf_counter_ns", lambda: batch.clock.now)
    yield batch


def run(batch: Batch, seconds: float, *more: Batch) -> load._Loop:
    loop = load._Loop([batch, *more], RANDOM, load.sectors_of(1 << 20, RANDOM, 1))  # type: ignore[list-item]
    loop.run(seconds)
    loop.digest()
    return loop


def test_each_io_is_counted_once(clocked: Batch) -> None:
    loop = run(clocked, 3e-6)
    assert (loop.ios, loop.seconds) == (len(clocked.submitted), pytest.approx(4e-6))


def test_a_mix_has_its_share_of_reads_whatever_a_turn_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Counting()
    monkeypatch.setattr(load, "perf_counter_ns", lambda: batch.now)
    case = Case("mix", 4096, 3, reads=70)
    loop = load._Loop([batch], case, load.sectors_of(1 << 20, case, 1))  # type: ignore[list-item]
    loop.run(1000e-6)
    loop.digest()
    assert batch.count[Op.READ] == pytest.approx(0.7 * loop.ios, abs=1)
    assert batch.count[Op.READ] + batch.count[Op.WRITE] == loop.ios > 1000


class Counting:
    """Answers at once what it is given, oldest first, and counts by operation; the clock moves 1 us each time."""

    depth = 3

    def __init__(self) -> None:
        self.count = {Op.READ: 0, Op.WRITE: 0}
        self.now = 1000
        self.in_flight = 0
        self.slots = memoryview(array("I"))

    def exchange(self, op: Op, sectors: memoryview, *, at_least: int) -> int:
        self.now += 1000
        self.count[op] += len(sectors)
        self.slots = memoryview(array("I", range(len(sectors))))
        return len(sectors)


def test_the_disk_is_idle_at_the_end(clocked: Batch) -> None:
    run(clocked, 3e-6)
    assert clocked.in_flight == 0


def test_an_ios_time_runs_from_when_its_slot_was_free(clocked: Batch) -> None:
    loop = run(clocked, 3e-6)
    # In us, slot 0: 1, 1, 2; slot 1: 2, 1; slots 2 and 3: 3.
    assert [loop.percentile_us(percent) for percent in (40, 50, 70, 100)] == [
        pytest.approx(value, rel=0.016) for value in (1, 2, 2, 3)]


def test_sectors_begin_anew_at_the_end() -> None:
    sectors = load._Sectors(array("Q", range(5)))
    assert [list(sectors.next(count)) for count in (3, 2, 4)] == [[0, 1, 2], [3, 4], [0, 1, 2, 3]]


@pytest.mark.parametrize(("depth", "queues", "each"), [
    (32, 1, [32]), (32, 4, [8, 8, 8, 8]), (8, 3, [3, 3, 2]), (1, 4, [1]), (3, 16, [1, 1, 1])])
def test_queues_share_the_depth(depth: int, queues: int, each: list[int]) -> None:
    assert load.shares(depth, queues) == each


def test_queues_have_their_turns_and_go_on_through_the_same_sectors(clocked: Batch) -> None:
    """The one of two slots is asked while there is time, and both until nothing is in flight."""
    other = Batch([[0], [1], [0, 1]], 2, clocked.clock)
    loop = run(clocked, 5e-6, other)
    both = clocked.submitted + other.submitted
    assert loop.ios == len(both) and len(set(both)) == len(both)
    assert (clocked.in_flight, other.in_flight) == (0, 0)
    assert loop.seconds == pytest.approx(7e-6)


def test_times_of_two_queues_are_counted_together(clocked: Batch) -> None:
    """In us: 1, 2, 4; 3, 2; 5; 5 of the first one's slots, 2, 4; 4, 2 of the second one's."""
    loop = run(clocked, 5e-6, Batch([[0], [1], [0, 1]], 2, clocked.clock))
    assert [loop.percentile_us(percent) for percent in (9, 45, 50, 80, 100)] == [
        pytest.approx(value, rel=0.016) for value in (1, 2, 3, 4, 5)]
