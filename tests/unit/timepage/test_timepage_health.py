"""What the doctor says of each fault, with time as a parameter."""

from __future__ import annotations

import pytest

from xenpv.testing.timepage import Fault, Scene
from xenpv.timepage import Finding, Kernel, against_kernel, judge, observe, trouble
from xenpv.timepage.health import Level
from xenpv.wire.timepage import Kind

TICK = Scene.tick_nsec / 1e9


class Watched:
    """A scene that is watched for 1.2 seconds; `fault` happens after `at` of them."""

    def __init__(self, fault: Fault | None = None, scene: Scene | None = None, at: float = 0.4) -> None:
        self.scene = scene or Scene()
        self._fault = fault
        self._when = self.scene.now_ns + round(at * 1e9)

    def sleep(self, seconds: float) -> None:
        self.scene.advance(seconds)
        if self._fault is not None and self.scene.now_ns >= self._when:
            fault, self._fault = self._fault, None
            self.scene.do(fault)

    def judged(self) -> dict[str, Finding]:
        seen = observe(self.scene.locate, 1.2, clock=self.scene.clock, sleep=self.sleep)
        return {finding.name: finding for finding in judge(seen)}


def bad(found: dict[str, Finding]) -> set[str]:
    return {name for name, finding in found.items() if finding.level is Level.BAD}


def test_a_page_that_is_well() -> None:
    found = Watched().judged()
    assert {name: finding.level for name, finding in found.items()} == dict.fromkeys(
        ["pace", "missed", "kind", "clock"], Level.GOOD)


@pytest.mark.parametrize(("fault", "names", "words"), [
    (Fault.TEAR, {"torn"}, "the sequence word has been odd for"),
    (Fault.FREEZE, {"frozen", "pace"}, "the tick stood still at"),
    (Fault.FORWARD, {"jump", "apart", "pace"}, "the tick jumped forward by 1001, which is 4004 ms, within"),
    (Fault.BACK, {"back", "history"}, "the tick went back by 999"),
    (Fault.KILL, {"dead", "absent"}, "the publisher has ended"),
    (Fault.MIGRATE, {"migrated"}, "another dom0 publishes the page"),
], ids=lambda value: value.value if isinstance(value, Fault) else "")
def test_a_fault_is_named(fault: Fault, names: set[str], words: str) -> None:
    found = Watched(fault).judged()
    assert bad(found) & names, found
    assert bad(found) <= names
    assert any(words in finding.text for finding in found.values())


def test_the_worst_comes_first() -> None:
    scene = Watched(Fault.FREEZE)
    levels = [finding.level for finding in scene.judged().values()]
    assert levels == sorted(levels, key=[Level.BAD, Level.NOTE, Level.GOOD].index)


def test_the_wrap_is_no_fault() -> None:
    scene = Scene()
    scene.do(Fault.WRAP)
    found = Watched(scene=scene).judged()
    assert not bad(found)
    assert found["wrap"].level is Level.NOTE


def test_a_restart_is_noted() -> None:
    watched = Watched(Fault.KILL)
    seen = observe(watched.scene.locate, 1.5, clock=watched.scene.clock, sleep=watched.sleep)
    watched.scene.restart()
    seen += observe(watched.scene.locate, 1.5, clock=watched.scene.clock, sleep=watched.sleep)
    found = {finding.name: finding for finding in judge(seen)}
    assert found["restarted"].level is Level.NOTE


def test_a_publisher_that_ends_right_after_a_look_is_named() -> None:
    scene = Scene()
    seen = observe(scene.locate, 0.1, clock=scene.clock, sleep=scene.advance, begun=lambda: scene.do(Fault.KILL))
    assert "dead" in bad({finding.name: finding for finding in judge(seen)})


def test_a_declared_disruption() -> None:
    scene = Scene()
    first = observe(scene.locate, 0.1, clock=scene.clock, sleep=scene.advance)
    scene.writer.write(scene.tick, scene.now_ns, disruptions=1)
    second = observe(scene.locate, 0.1, clock=scene.clock, sleep=scene.advance)
    assert "disrupted" in {finding.name for finding in judge(first + second) if finding.level is Level.BAD}


def test_many_missed_ticks_are_noted() -> None:
    scene = Scene()

    def sleep(seconds: float) -> None:
        scene.advance(seconds)
        scene.missed += 1

    found = {each.name: each for each in judge(observe(scene.locate, 2.0, clock=scene.clock, sleep=sleep))}
    assert found["missed"].level is Level.NOTE


def test_a_coarse_clock_is_noted() -> None:
    assert Watched(scene=Scene(kind=Kind.COARSE)).judged()["kind"].level is Level.NOTE


def test_a_page_of_another_pace_is_bad() -> None:
    scene = Scene()
    seen = observe(scene.locate, 3.0, clock=lambda: scene.now_ns * 21 // 20, sleep=scene.advance)
    assert "pace" in {finding.name for finding in judge(seen) if finding.level is Level.BAD}


def test_nobody_publishes() -> None:
    scene = Scene()
    scene.gone = True
    found = judge(observe(scene.locate, 0.1, clock=scene.clock, sleep=scene.advance))
    assert [(finding.level, finding.name) for finding in found] == [(Level.BAD, "absent")]


def test_a_pause_is_named() -> None:
    scene = Scene()
    scene.writer.pause(True)
    assert "paused" in bad(Watched(scene=scene).judged())


def test_no_time_at_all_is_one_look() -> None:
    assert len(observe(Scene().locate, 0.0)) == 1


@pytest.mark.parametrize(("fault", "words"), [
    (Fault.TEAR, "died in the middle of a write"), (Fault.FREEZE, "stands still"), (Fault.KILL, "nobody publishes"),
    (None, ""), (Fault.FORWARD, ""), (Fault.BACK, ""), (Fault.WRAP, ""), (Fault.MIGRATE, "")])
def test_why_a_page_does_not_tick_now(fault: Fault | None, words: str) -> None:
    """What happened before is no trouble any more once the page ticks."""
    scene = Scene()
    if fault is not None:
        scene.do(fault)
    told = trouble(scene.locate, clock=scene.clock, sleep=scene.advance)
    assert words in told and bool(words) == bool(told)


def test_a_page_that_ticks_costs_a_tick() -> None:
    scene = Scene()
    begun = scene.now_ns
    trouble(scene.locate, clock=scene.clock, sleep=scene.advance)
    assert scene.now_ns - begun <= 2 * Scene.tick_nsec


def test_a_page_whose_publisher_pauses_is_told() -> None:
    scene = Scene()
    scene.writer.pause(True)
    assert "pauses" in trouble(scene.locate, clock=scene.clock, sleep=scene.advance)


class Counts(Kernel):
    """Its jiffies are those of a scene, and `ahead`; of every third look alone with `rarely`."""

    def __init__(self, scene: Scene, ahead: int = 0, *, readable: bool = True, rarely: bool = False) -> None:
        self.scene, self.ahead, self.readable, self.rarely = scene, ahead, readable, rarely
        self.looks = 0

    def jiffies(self) -> int | None:
        self.looks += 1
        off = self.ahead if not self.rarely or self.looks % 3 == 0 else 0
        return self.scene.tick + off if self.readable else None


@pytest.mark.parametrize(("ahead", "rarely", "level"), [
    (0, False, Level.GOOD), (1, False, Level.GOOD), (-1, False, Level.GOOD), (2, False, Level.BAD), (-1000, False, Level.BAD),
    (2, True, Level.BAD)])
def test_the_page_beside_the_kernels_jiffies(ahead: int, rarely: bool, level: Level) -> None:
    """Nine of ten looks are to be within a tick."""
    scene = Scene()
    with scene.locate() as view:
        found = against_kernel(view, Counts(scene, ahead, rarely=rarely))
    assert found is not None and (found.name, found.level) == ("jiffies", level)
    assert f"the furthest {-ahead:+d}" in found.text


@pytest.mark.parametrize(("readable", "fault"), [(False, None), (True, Fault.TEAR)])
def test_what_cannot_be_compared_is_no_finding(readable: bool, fault: Fault | None) -> None:
    scene = Scene()
    with scene.locate() as view:
        if fault is not None:
            scene.do(fault)
        assert against_kernel(view, Counts(scene, readable=readable)) is None
