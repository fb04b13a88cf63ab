"""The contract of a ring: what both ends may rely on, with event indices and with the notify-suppression flag.

A check takes a maker of a fresh ring's two ends, the frontend's first, and raises ContractError, an AssertionError. It
knows an end by its shape alone, so that other implementations of the protocol may be checked too.

Source: io/ring.h (RING_PUSH_*_AND_CHECK_NOTIFY, RING_FINAL_CHECK_FOR_*).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from xenpv.errors import LocalProtocolError
from xenpv.ring import BackRing, FrontRing, initialise

from .contract import hold, refused

PAGE_SIZE = 4096


class End(Protocol):
    """One end of a ring, as `xenpv.ring` has it."""

    @property
    def entries(self) -> int: ...
    def available(self) -> int: ...
    def arm(self) -> int: ...
    def run(self) -> None: ...
    def publish(self) -> bool: ...
    def put(self, entry: bytes) -> None: ...
    def take(self) -> bytes | None: ...


MakeRing = Callable[[], AbstractContextManager[tuple[End, End]]]
"""Makes a fresh ring: the frontend's end and the backend's, both attached and awake."""

RingCheck = Callable[[MakeRing], None]


def _entry(number: int) -> bytes:
    return number.to_bytes(8, "little") + b"entry"


def _pass(producer: End, consumer: End, number: int = 0) -> None:
    """One entry from one end to the other."""
    producer.put(_entry(number))
    producer.publish()
    found = consumer.take()
    hold(found is not None and found.startswith(_entry(number)), f"entry {number} did not arrive as it was put")


def _asleep(consumer: End) -> None:
    hold(consumer.arm() == 0, "an end that took everything may sleep")


def check_entries_arrive_in_order(make: MakeRing) -> None:
    """Entries arrive whole and in order, both ways, also around the end of the ring."""
    with make() as (front, back):
        for number in range(3 * front.entries):
            _pass(front, back, number)
            _pass(back, front, number)
        hold(front.take() is None and back.take() is None, "something came that nobody put")


def check_nothing_is_seen_before_publish(make: MakeRing) -> None:
    """What was put and not published is not there."""
    with make() as (front, back):
        front.put(_entry(1))
        hold(back.available() == 0 and back.take() is None, "an entry was seen before it was published")


def check_a_full_ring_refuses(make: MakeRing) -> None:
    """A frontend has as many requests out as there are entries; a backend answers no more than it took."""
    with make() as (front, back):
        with refused(LocalProtocolError, "a response without a request was put"):
            back.put(_entry(0))
        for number in range(front.entries):
            front.put(_entry(number))
        with refused(LocalProtocolError, "a request was put into a full ring"):
            front.put(_entry(0))
        front.publish()
        hold(back.available() == front.entries, "a full ring was published and is not full")


def check_who_sleeps_is_notified_once(make: MakeRing) -> None:
    """After arm() the next publish says notify, and further ones do not, until the next sleep."""
    with make() as (front, back):
        _pass(front, back)
        for _ in range(2):
            _asleep(back)
            front.put(_entry(1))
            hold(front.publish(), "a sleeping backend is not notified")
            front.put(_entry(2))
            hold(not front.publish(), "one sleep costs two notifications")
            back.run()
            hold(back.take() is not None and back.take() is not None, "what it was woken for is there")
        _asleep(front)
        back.put(_entry(3))
        hold(back.publish(), "a sleeping frontend is not notified")


def check_who_is_awake_is_not_notified(make: MakeRing) -> None:
    """An end that has not armed since it last took is left alone."""
    with make() as (front, back):
        _pass(front, back)
        _pass(back, front)
        front.put(_entry(1))
        hold(not front.publish(), "a backend that is awake is notified")
        hold(back.take() is not None, "it finds the entry all the same")
        back.put(_entry(1))
        hold(not back.publish(), "a frontend that is awake is notified")


def check_arm_looks_again(make: MakeRing) -> None:
    """What came before arm() keeps its caller from sleeping."""
    with make() as (front, back):
        _pass(front, back)
        front.put(_entry(1))
        front.publish()
        hold(back.arm() == 1, "arm() did not see what was published before it")


RING_CHECKS: tuple[RingCheck, ...] = (
    check_entries_arrive_in_order, check_nothing_is_seen_before_publish, check_a_full_ring_refuses,
    check_who_sleeps_is_notified_once, check_who_is_awake_is_not_notified, check_arm_looks_again,
)


def check_ring(make: MakeRing) -> None:
    """Every claim about a ring. Raises ContractError."""
    for check in RING_CHECKS:
        check(make)


@contextmanager
def own_ring(*, flag: bool, abi: int = 64, order: int = 0) -> Iterator[tuple[End, End]]:
    """A fresh ring of `xenpv.ring` in this process's own memory."""
    memory = memoryview(bytearray(PAGE_SIZE << order))
    initialise(memory)
    with FrontRing(memory, abi=abi, flag=flag) as front, BackRing(memory, abi=abi, flag=flag) as back:
        yield front, back
