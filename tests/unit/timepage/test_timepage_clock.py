"""The reader's own clock, tied to ticks that it sees late."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from xenpv.timepage import OwnClock
from xenpv.timepage.clock import AGREED, WINDOW

NSEC = 4_000_000
AHEAD = 123_456_789_000


def see(clock: OwnClock, lates: Iterable[int], first: int = 0, ahead: int = AHEAD) -> int:
    """Ticks one after the other, each seen as late as `lates` says. The own time of the last."""
    own = 0
    for tick, late in enumerate(lates, first):
        own = tick * NSEC + late + ahead
        clock.saw(tick, tick * NSEC, own)
    return own


def test_nothing_is_offered_before_eight_ticks_agree() -> None:
    clock = OwnClock(NSEC)
    # The first tick was there already, the second is what the others agree with.
    see(clock, [0] * (AGREED + 1))
    assert (clock.agrees, clock.ns(AHEAD)) == (False, None)
    see(clock, [0], AGREED + 1)
    assert clock.agrees


def test_the_least_late_change_ties() -> None:
    clock = OwnClock(NSEC)
    own = see(clock, [0, 900, 800, 40, 700, 600, 900, 500, 400, 300, 200])
    assert clock.ns(own) == own - AHEAD - 40


def test_the_tick_that_was_there_already_says_nothing() -> None:
    clock = OwnClock(NSEC)
    clock.saw(0, 0, AHEAD - NSEC // 2)
    own = see(clock, [100] * 9, 1)
    assert clock.ns(own) == own - AHEAD - 100


def test_looks_within_a_tick_count_once() -> None:
    clock = OwnClock(NSEC)
    for look in range(100):
        clock.saw(5, 5 * NSEC, AHEAD + look)
    assert not clock.agrees


def test_clocks_of_other_speed_do_not_agree() -> None:
    clock = OwnClock(NSEC)
    for tick in range(100):
        clock.saw(tick, tick * NSEC, AHEAD + tick * NSEC * 3 // 2)
    assert not clock.agrees


def test_a_reader_that_is_late_once_keeps_its_tie() -> None:
    clock = OwnClock(NSEC)
    see(clock, [10] * 20)
    see(clock, [5 * NSEC], 20)
    assert clock.agrees


def test_a_page_that_jumped_is_tied_anew() -> None:
    clock = OwnClock(NSEC)
    see(clock, [10] * 20)
    see(clock, [10], 1000, ahead=AHEAD - 980 * NSEC)
    assert not clock.agrees
    see(clock, [10] * AGREED, 1001, ahead=AHEAD - 980 * NSEC)
    assert clock.agrees


def test_a_clock_that_stays_behind_is_tied_anew() -> None:
    clock = OwnClock(NSEC)
    see(clock, [10] * 20)
    see(clock, [10] * AGREED, 20, ahead=AHEAD + 10 * NSEC)
    assert clock.agrees  # until now that may be a reader without CPU time
    see(clock, [10], 20 + AGREED, ahead=AHEAD + 10 * NSEC)
    assert not clock.agrees


def test_it_never_goes_back_unnoticed() -> None:
    clock = OwnClock(NSEC)
    see(clock, [0, 10, *[900] * 8])
    first = clock.ns(AHEAD + 100 * NSEC)
    see(clock, [900] * WINDOW, 10)
    assert clock.ns(AHEAD + 100 * NSEC) == first
    assert clock.held == 1


def test_reset_forgets_all() -> None:
    clock = OwnClock(NSEC)
    own = see(clock, [0] * 20)
    clock.reset()
    assert clock.ns(own) is None


@pytest.mark.parametrize("ppm", [-500, 500])
def test_slewed_clocks_still_agree(ppm: int) -> None:
    clock = OwnClock(NSEC)
    for tick in range(1000):
        clock.saw(tick, tick * NSEC, AHEAD + tick * NSEC * (1_000_000 + ppm) // 1_000_000)
    assert clock.agrees
