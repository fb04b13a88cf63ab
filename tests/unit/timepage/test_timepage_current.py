"""Which page is in force, and which ones stay mapped; the publisher is a scene."""

from __future__ import annotations

import pytest

from xenpv.errors import TimeAbsentError, TimeMalformedError
from xenpv.testing.timepage import Fault, Scene
from xenpv.timepage import CurrentPage
from xenpv.timepage.page import PageView


class Located:
    """Every view that was given."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.views: list[PageView] = []

    def __call__(self) -> PageView:
        self.views.append(self.scene.locate())
        return self.views[-1]

    def mapped(self) -> int:
        return sum(view._memory is not None for view in self.views)


@pytest.fixture
def located() -> Located:
    return Located(Scene())


@pytest.fixture
def current(located: Located) -> CurrentPage:
    current = CurrentPage(located)
    assert current.address == 0 and current.renew()
    return current


def test_the_same_generation_is_the_same_page(current: CurrentPage, located: Located) -> None:
    address = current.address
    assert not current.renew()
    assert (current.address, located.mapped()) == (address, 1)


def test_another_generation_is_in_force_at_once_and_the_old_page_stays_mapped(current: CurrentPage, located: Located) -> None:
    old = current.address
    located.scene.restart()
    assert current.renew()
    assert current.address != old and current.generation == located.scene.facts.generation
    assert located.mapped() == 2


def test_what_nobody_reads_any_more_is_unmapped(current: CurrentPage, located: Located) -> None:
    old = current.address
    located.scene.restart()
    current.renew()
    current.release({old})
    assert located.mapped() == 2
    current.release()
    assert located.mapped() == 1 and current.view is located.views[-1]


def test_without_a_page_all_is_as_it_was(current: CurrentPage, located: Located) -> None:
    address = current.address
    located.scene.do(Fault.KILL)
    with pytest.raises(TimeAbsentError):
        current.renew()
    assert current.address == address


def test_what_is_no_page_is_refused(current: CurrentPage, located: Located) -> None:
    address = current.address
    located.scene.restart()
    located.scene.memory[:4] = b"page"
    with pytest.raises(TimeMalformedError):
        current.renew()
    assert (current.address, located.mapped()) == (address, 1)


def test_close_unmaps_them_all(current: CurrentPage, located: Located) -> None:
    located.scene.restart()
    current.renew()
    current.close()
    assert located.mapped() == 0 and current.address == 0
