"""Faults of a time page, on purpose.

`Scene` is a page, its publisher and a reader's clock that move by hand: what a reader and the doctor say of each fault
can be tried with time as a parameter. `inject` does the same to the pages of a running publisher.
"""

from __future__ import annotations

import os
import signal
import struct
import uuid
from dataclasses import replace
from enum import StrEnum

from xenpv.domain import PAGE_SIZE
from xenpv.errors import TimeAbsentError
from xenpv.timepage.page import ALIVE, Facts, PageView, PageWriter
from xenpv.timepage.publisher import Publisher
from xenpv.wire.timepage import Kind, layout

__all__ = ["Fault", "JUMP_TICKS", "Scene", "inject"]

JUMP_TICKS = 1000
WRAP_TICKS = 100
_SEQUENCE = layout()["time.sequence"]
_WORD = struct.Struct("<I")


class Fault(StrEnum):
    """What can be done to a page."""

    TEAR = "tear"
    FREEZE = "freeze"
    FORWARD = "jump-forward"
    BACK = "jump-back"
    WRAP = "wrap"
    KILL = "kill"
    MIGRATE = "migrate"


def tear(memory: memoryview) -> None:
    """Leave the sequence word odd, as a writer does that dies in the middle of a write."""
    word, = _WORD.unpack_from(memory, _SEQUENCE)
    _WORD.pack_into(memory, _SEQUENCE, word | 1)


class Scene:
    """The page of a dom0 with HZ 250 whose kernel has counted `tick` ticks; a reader whose clock stands at `now_ns`."""

    tick_nsec = 4_000_000

    def __init__(self, tick: int = (1 << 32) - 75_000, *, kind: Kind = Kind.JIFFIES) -> None:
        self.now_ns = 7_000_000_000
        self.tick = tick
        self.missed = 0
        self.frozen = False
        self.gone = False
        self.facts = Facts(self.tick_nsec, 250, kind, uuid.UUID(int=1), 1, 500_000_000)
        self.offset = 0
        """What dom0's clock says more than the reader's, in nanoseconds."""
        self._start()

    def _start(self) -> None:
        self.memory = memoryview(bytearray(PAGE_SIZE))
        self.writer = PageWriter(self.memory, self.facts)
        self._next_ns = self.now_ns
        self._write()

    def _write(self) -> None:
        self.writer.write(self.tick, self._next_ns + self.offset, missed=self.missed)
        self._next_ns += self.tick_nsec

    def clock(self) -> int:
        """The reader's."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Time goes on, and whoever publishes writes what is due."""
        until = self.now_ns + round(seconds * 1e9)
        while self._next_ns <= until:
            self.now_ns = self._next_ns
            self.tick += 1
            if self.frozen:
                self._next_ns += self.tick_nsec
            else:
                self._write()
        self.now_ns = until

    def locate(self) -> PageView:
        """The page that the store tells of."""
        if self.gone:
            raise TimeAbsentError("nobody publishes a page")
        return PageView(self.memory)

    def restart(self, boot_id: uuid.UUID | None = None) -> None:
        """A publisher starts: with a page of its own."""
        self.facts = replace(self.facts, generation=self.facts.generation + 1, boot_id=boot_id or self.facts.boot_id)
        self.frozen = self.gone = False
        self._start()

    def do(self, fault: Fault) -> None:
        """Make it happen."""
        match fault:
            case Fault.TEAR:
                tear(self.memory)
                self.frozen = True
            case Fault.FREEZE:
                self.frozen = True
            case Fault.FORWARD:
                self.tick += JUMP_TICKS
            case Fault.BACK:
                self.tick -= JUMP_TICKS
            case Fault.WRAP:
                self.tick = (1 << 32) - WRAP_TICKS
                self.memory[ALIVE] = 0
                self.restart()
            case Fault.KILL:
                self.memory[ALIVE] = 0
                self.frozen = self.gone = True
            case Fault.MIGRATE:
                self.memory[ALIVE] = 0
                self.restart(uuid.UUID(int=2))


def inject(publisher: Publisher, fault: Fault) -> None:
    """Do it to every page of a running publisher. `KILL` does not return."""
    if fault is Fault.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault is Fault.MIGRATE:
        publisher.boot_id = uuid.UUID(int=publisher.boot_id.int ^ 1)
        publisher.replace()
        return
    now = publisher.kernel.coarse_ns()
    if fault is Fault.WRAP:
        publisher.free_running()
        for page in publisher.pages.values():
            publisher.ticker.remove(page.writer)
        publisher.ticker.calibrate((1 << 32) - WRAP_TICKS, now)
        publisher.replace()
        return
    tick = publisher.ticker.tick(now)
    pages = [page for page in publisher.pages.values() if page.ticking]
    for page in pages:
        publisher.ticker.remove(page.writer)
        if fault is Fault.TEAR:
            with page.shared.memory[:PAGE_SIZE] as memory:
                tear(memory)
    if fault in (Fault.TEAR, Fault.FREEZE):
        return
    jumped = tick + (JUMP_TICKS if fault is Fault.FORWARD else -JUMP_TICKS)
    publisher.free_running()
    publisher.ticker.calibrate(jumped, now)
    for page in pages:
        page.writer.write(jumped, now)
        publisher.ticker.add(page.writer, now)
