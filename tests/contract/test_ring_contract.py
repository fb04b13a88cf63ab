"""The contract of a ring, on the core's; and that it catches rings that break it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from xenpv.testing import RING_CHECKS, ContractError, check_ring
from xenpv.testing.ring import End, RingCheck, own_ring


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("abi", [32, 64])
@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("check", RING_CHECKS, ids=lambda check: str(check.__name__))
def test_claim(check: RingCheck, order: int, abi: int, flag: bool) -> None:
    made = []

    @contextmanager
    def make() -> Iterator[tuple[End, End]]:
        with own_ring(flag=flag, abi=abi, order=order) as ends:
            made.append(ends[0].entries)
            yield ends

    check(make)
    assert made == [32 << order]


class Chatty:
    """An end that always says notify."""

    def __init__(self, end: End) -> None:
        self._end = end

    def publish(self) -> bool:
        self._end.publish()
        return True

    def __getattr__(self, name: str) -> object:
        return getattr(self._end, name)


class Mute(Chatty):
    """An end that never does."""

    def publish(self) -> bool:
        self._end.publish()
        return False


class Hasty(Chatty):
    """An end that sleeps without a second look."""

    publish = property(lambda self: self._end.publish)  # type: ignore[assignment]

    def arm(self) -> int:
        self._end.arm()
        return 0


@pytest.mark.parametrize("kind", [Chatty, Mute, Hasty])
@pytest.mark.parametrize("flag", [False, True])
def test_a_ring_that_breaks_it_is_caught(kind: type[Chatty], flag: bool) -> None:
    @contextmanager
    def make() -> Iterator[tuple[End, End]]:
        with own_ring(flag=flag) as (front, back):
            yield kind(front), kind(back)  # type: ignore[misc]

    with pytest.raises(ContractError):
        check_ring(make)


def test_the_checks_as_a_whole() -> None:
    check_ring(partial(own_ring, flag=True))
    assert len(RING_CHECKS) == len(set(RING_CHECKS))
