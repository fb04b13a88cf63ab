"""Waiting for whoever leads, struck by a signal anywhere."""

from __future__ import annotations

from pathlib import Path

import xenpv_frontend
from tests.support.interrupt import Interrupt, returns
from xenpv_frontend.reaper import Reaper

FRONTEND = [str(Path(xenpv_frontend.__file__).parent)]


def test_an_interrupt_while_it_follows_leaves_the_lock() -> None:
    after, struck = 0, True
    while struck:
        reaper, interrupt = Reaper(), Interrupt(after, FRONTEND)
        reaper.led = True

        def follows() -> None:
            try:
                with interrupt:
                    reaper.follow(lambda: False, 0.001)
            except KeyboardInterrupt:
                pass

        returns(follows)
        returns(reaper.tell)
        struck = interrupt.struck
        after += 1
    assert after > 10
