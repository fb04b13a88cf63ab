"""Waits that a signal may end anywhere."""

import threading
from pathlib import Path

import xenpv.waiting
from tests.support.interrupt import Interrupt, returns
from xenpv.waiting import Changes, Latch

OURS = [str(Path(xenpv.waiting.__file__))]


def test_a_latch_opens_once_for_everybody() -> None:
    latch = Latch()
    assert not latch.wait(0) and not latch.is_open
    came: list[bool] = []
    waiters = [threading.Thread(target=lambda: came.append(latch.wait(20))) for _ in range(8)]
    for waiter in waiters:
        waiter.start()
    latch.open()
    latch.open()
    for waiter in waiters:
        waiter.join()
    assert came == [True] * 8 and latch.wait(0) and latch.wait()


def test_nobody_is_kept_by_a_waiter_that_an_interrupt_struck() -> None:
    came: list[bool] = []
    after, struck = 0, True
    while struck:
        interrupt, latch = Interrupt(after, OURS), Latch()

        def waits() -> None:
            try:
                with interrupt:
                    latch.wait(20)
            except KeyboardInterrupt:
                pass

        one = threading.Thread(target=waits)
        one.start()
        latch.open()
        one.join()
        returns(lambda: came.append(latch.wait()))
        struck = interrupt.struck
        after += 1
    assert after > 2 and came == [True] * after


def test_a_change_opens_what_was_asked_for_before_it() -> None:
    changes = Changes()
    changes.tell()
    first, same = changes.next(), changes.next()
    assert first is same and not first.is_open
    changes.tell()
    assert first.is_open and not changes.next().is_open
