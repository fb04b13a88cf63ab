"""The reader, with time as a parameter: each fault has its own error, and leaves the reader usable."""

from __future__ import annotations

import pytest

from xenpv.errors import (TimeAbsentError, TimeDisruptedError, TimeMalformedError, TimePageError, TimeStaleError,
                          TimeTornError)
from xenpv.testing.timepage import JUMP_TICKS, WRAP_TICKS, Fault, Scene
from xenpv.timepage import Kernel, Reader
from xenpv.timepage.page import PageView

TICK = Scene.tick_nsec / 1e9


def reader_of(scene: Scene) -> Reader:
    return Reader(scene.locate, clock=scene.clock, sleep=scene.advance)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def reader(scene: Scene) -> Reader:
    made = reader_of(scene)
    made.read()
    return made


def test_a_reading_is_the_page_s(scene: Scene, reader: Reader) -> None:
    scene.advance(10 * TICK)
    reading = reader.read()
    assert (reading.tick, reading.tick_ns) == (scene.tick, scene.now_ns)
    assert reading.stamp == scene.tick & 0xFFFFFFFF


def test_ticks_between_two_readings(scene: Scene, reader: Reader) -> None:
    before = reader.read()
    scene.advance(25 * TICK)
    assert reader.read().ticks_since(before) == 25


def test_nanoseconds_are_offered_once_eight_ticks_agree(scene: Scene, reader: Reader) -> None:
    offered = []
    for _ in range(12):
        scene.advance(TICK)
        offered.append(reader.read().ns is not None)
    assert offered == [False] * 8 + [True] * 4


def test_nanoseconds_go_on_between_ticks(scene: Scene, reader: Reader) -> None:
    reader.settle()
    scene.advance(TICK)
    first = reader.read()
    scene.advance(TICK / 4)
    second = reader.read()
    assert first.ns is not None and second.ns is not None
    assert (second.tick - first.tick, second.ns - first.ns) == (0, Scene.tick_nsec // 4)


def test_nanoseconds_are_dom0_s(scene: Scene) -> None:
    scene.offset = 10**12
    reader = reader_of(scene)
    reading = reader.settle()
    assert reading.ns is not None
    assert 0 <= scene.now_ns + scene.offset - reading.ns <= Scene.tick_nsec


def test_a_page_of_this_kernel_has_the_own_clock_and_nothing_is_tied(scene: Scene) -> None:
    scene.restart(Kernel().boot_id())
    reader = reader_of(scene)
    assert (reader.one_clock, reader.ahead_ns) == (False, None)
    reader.read()
    assert (reader.one_clock, reader.ahead_ns) == (True, 0)


def test_another_kernel_s_clock_is_tied_however_close_it_is(scene: Scene, reader: Reader) -> None:
    assert not reader.one_clock
    reader.settle()
    assert reader.ahead_ns is not None and 0 <= reader.ahead_ns <= Scene.tick_nsec


def test_a_time_namespace_of_this_kernel_is_another_clock(scene: Scene) -> None:
    scene.offset = 10**10
    scene.restart(Kernel().boot_id())
    reader = reader_of(scene)
    reader.settle()
    assert not reader.one_clock
    assert reader.ahead_ns is not None and abs(reader.ahead_ns + 10**10) <= Scene.tick_nsec


class Watched:
    """Time that goes on by 2 us at each look, and by `over` seconds more than was meant in each sleep."""

    def __init__(self, scene: Scene) -> None:
        self.over = 0.0
        self.slept = 0.0
        self._scene = scene

    def look(self) -> int:
        self._scene.advance(2e-6)
        return self._scene.now_ns

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self._scene.advance(seconds + self.over)

    def reader(self) -> Reader:
        return Reader(self._scene.locate, clock=self.look, sleep=self.sleep)

    def tied(self, reader: Reader) -> int:
        """What its clock is then said to be ahead more than it is."""
        ahead = reader.tie()
        assert ahead is not None
        return ahead + self._scene.offset


@pytest.mark.parametrize("drift", [-2_000_000, -300_000, 0, 300_000, 2_000_000])
def test_a_tie_is_as_good_as_the_look_at_the_clock(scene: Scene, drift: int) -> None:
    watched = Watched(scene)
    reader = watched.reader()
    for _ in range(5):
        assert 0 <= watched.tied(reader) < 10_000
        scene.advance(1)
        scene.offset += drift


@pytest.mark.parametrize("away", [0.0003, 0.0011])
def test_no_change_is_noted_before_it_was_there(scene: Scene, away: float) -> None:
    """Whoever reads the page may lose the processor between the look at the clock and the copy."""
    def look() -> int:
        now = scene.now_ns
        scene.advance(away)
        return now

    reader = Reader(scene.locate, clock=look, sleep=scene.advance)
    reader.settle()
    for _ in range(100):
        scene.advance(TICK / 7)
        reader.read()
        assert reader.ahead_ns is not None and 0 <= reader.ahead_ns <= Scene.tick_nsec


def test_a_tie_sleeps_but_for_a_millisecond_a_tick(scene: Scene) -> None:
    watched = Watched(scene)
    reader = watched.reader()
    reader.tie()
    before, watched.slept = scene.now_ns, 0.0
    reader.tie()
    took = (scene.now_ns - before) / 1e9
    assert 2 * TICK <= took <= 4 * TICK and took - watched.slept < 3 * 0.0011


def test_ticks_that_were_slept_through_tie_nothing_worse(scene: Scene) -> None:
    watched = Watched(scene)
    reader = watched.reader()
    good = watched.tied(reader)
    watched.over = TICK / 2
    for _ in range(5):
        assert watched.tied(reader) == good


def test_clocks_that_do_not_agree_are_not_tied(scene: Scene) -> None:
    assert Reader(scene.locate, clock=lambda: scene.now_ns * 3 // 2, sleep=scene.advance).tie() is None


def test_a_clock_that_does_not_agree_gives_ticks_alone(scene: Scene) -> None:
    reader = Reader(scene.locate, clock=lambda: scene.now_ns * 3 // 2, sleep=scene.advance)
    readings = []
    for _ in range(50):
        scene.advance(TICK)
        readings.append(reader.read())
    assert {reading.ns for reading in readings} == {None}
    assert readings[-1].ticks_since(readings[0]) == 49


# ---- faults


def test_absent(scene: Scene) -> None:
    scene.gone = True
    with pytest.raises(TimeAbsentError):
        reader_of(scene).read()


def test_what_was_absent_comes(scene: Scene) -> None:
    scene.gone = True
    reader = reader_of(scene)
    with pytest.raises(TimeAbsentError):
        reader.read()
    scene.gone = False
    assert reader.read().tick == scene.tick


def test_malformed(scene: Scene, reader: Reader) -> None:
    scene.memory[0] ^= 1
    with pytest.raises(TimeMalformedError):
        reader.read()


def test_tear(scene: Scene, reader: Reader) -> None:
    scene.do(Fault.TEAR)
    before = scene.now_ns
    with pytest.raises(TimeTornError, match="in the middle of a write"):
        reader.read()
    assert 100_000_000 <= scene.now_ns - before < 110_000_000, "the deadline, by the reader's own clock"


def test_a_publisher_that_died_in_a_write_has_a_successor(scene: Scene, reader: Reader) -> None:
    scene.advance(1)
    scene.do(Fault.TEAR)
    scene.do(Fault.KILL)
    scene.restart()
    with pytest.raises(TimeDisruptedError, match="started again"):
        reader.read()
    assert reader.read().tick == scene.tick


def test_a_tear_that_ends_within_the_deadline_is_not_seen(scene: Scene, reader: Reader) -> None:
    scene.do(Fault.TEAR)
    scene.frozen = False  # the writer goes on at the next tick
    tick = scene.tick
    assert reader.read().tick == tick + 1


def test_freeze(scene: Scene, reader: Reader) -> None:
    scene.do(Fault.FREEZE)
    scene.advance(0.5)
    last = reader.read()
    scene.advance(TICK)
    with pytest.raises(TimeStaleError, match="has not changed for 504 ms, and 500 ms are allowed"):
        reader.read()
    scene.frozen = False
    scene.advance(TICK)
    assert reader.read().ticks_since(last) == 127


def test_jump_forward(scene: Scene, reader: Reader) -> None:
    scene.advance(1)
    before = reader.read()
    scene.do(Fault.FORWARD)
    scene.advance(TICK)
    with pytest.raises(TimeDisruptedError, match=f"{JUMP_TICKS + 1} ticks passed in 4 ms"):
        reader.read()
    assert reader.read().tick == before.tick + JUMP_TICKS + 1
    assert reader.disrupted == 1


def test_jump_back(scene: Scene, reader: Reader) -> None:
    scene.advance(1)
    reader.read()
    scene.do(Fault.BACK)
    scene.advance(TICK)
    with pytest.raises(TimeDisruptedError, match=f"went back by {JUMP_TICKS - 1}"):
        reader.read()
    assert (reader.backwards, reader.read().tick) == (1, scene.tick)


def test_a_jump_ends_the_tie_of_the_clocks(scene: Scene, reader: Reader) -> None:
    assert reader.settle().ns is not None
    scene.do(Fault.FORWARD)
    scene.advance(TICK)
    with pytest.raises(TimeDisruptedError):
        reader.read()
    assert reader.read().ns is None
    assert reader.settle().ns is not None


def test_wrap_of_the_stamp(scene: Scene) -> None:
    scene.do(Fault.WRAP)
    reader = reader_of(scene)
    before = reader.read()
    scene.advance(2 * WRAP_TICKS * TICK)
    after = reader.read()
    assert (before.stamp, after.stamp) == ((1 << 32) - WRAP_TICKS, WRAP_TICKS)
    assert after.ticks_since(before) == 2 * WRAP_TICKS


def test_kill(scene: Scene, reader: Reader) -> None:
    scene.advance(1)
    reader.read()
    scene.do(Fault.KILL)
    with pytest.raises(TimeAbsentError):
        reader.read()


def test_a_page_that_is_dead_and_still_told_is_stale(scene: Scene, reader: Reader) -> None:
    scene.advance(1)
    scene.do(Fault.KILL)
    scene.gone = False
    with pytest.raises(TimeStaleError, match="publisher has ended"):
        reader.read()


def test_the_store_is_not_asked_again_and_again(scene: Scene) -> None:
    asked: list[int] = []

    def locate() -> PageView:
        asked.append(1)
        return scene.locate()

    reader = Reader(locate, clock=scene.clock, sleep=scene.advance)
    reader.read()
    scene.do(Fault.FREEZE)
    scene.advance(1)
    for _ in range(100):
        scene.advance(TICK)
        with pytest.raises(TimeStaleError):
            reader.read()
    assert len(asked) == 2


def test_a_successor_s_page_is_found(scene: Scene, reader: Reader) -> None:
    before = reader.read()
    scene.advance(1)
    scene.do(Fault.KILL)
    scene.restart()
    with pytest.raises(TimeDisruptedError, match="started again"):
        reader.read()
    after = reader.read()
    assert after.epoch.generation == before.epoch.generation + 1
    with pytest.raises(TimeDisruptedError, match="unknown"):
        after.ticks_since(before)


def test_migrate(scene: Scene, reader: Reader) -> None:
    scene.advance(1)
    reader.read()
    scene.do(Fault.MIGRATE)
    with pytest.raises(TimeDisruptedError, match="another dom0"):
        reader.read()
    assert reader.read().epoch.boot_id.int == 2


def test_what_the_publisher_declares_disrupted(scene: Scene, reader: Reader) -> None:
    scene.writer.write(scene.tick, scene.now_ns, disruptions=1)
    with pytest.raises(TimeDisruptedError, match="was disrupted"):
        reader.read()
    assert reader.read().epoch.disruptions == 1


def test_a_pause_is_stale_in_its_own_words(scene: Scene, reader: Reader) -> None:
    scene.writer.pause(True)
    with pytest.raises(TimeStaleError, match="pauses"):
        reader.read()


def test_wait_gives_the_last_reason(scene: Scene) -> None:
    scene.gone = True
    with pytest.raises(TimeAbsentError):
        reader_of(scene).wait(1)
    assert scene.now_ns >= 8_000_000_000


def test_closing_ends_the_subscription_once(scene: Scene) -> None:
    ended: list[int] = []
    reader = Reader(scene.locate, clock=scene.clock, on_close=lambda: ended.append(1))
    reader.read()
    reader.close()
    reader.close()
    assert ended == [1]


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_is_met_within_a_second_and_survived(scene: Scene, fault: Fault) -> None:
    reader = reader_of(scene)
    scene.advance(1)
    reader.read()
    scene.do(fault)
    met: list[str] = []
    for _ in range(250):
        scene.advance(TICK)
        try:
            reader.read()
        except TimePageError as error:
            met.append(type(error).__name__)
    assert met
    scene.restart()
    scene.advance(1)
    with pytest.raises(TimeDisruptedError):
        reader.read()
    assert reader.read().tick == scene.tick
