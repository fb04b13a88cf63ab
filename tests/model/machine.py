"""Two processes at one ring: what can happen next, in every state.

RULES of the reduction (test_scheduler.py compares verdicts with and without it)
1. A step that nobody else can see, help or hinder is taken at once: a store into the own buffer, a fence with nothing
   to wait for, a free choice, a load of a cell that nobody else writes, a hand-over noted in a private cell, the
   writing back of a port, waking by a delivered event. Every order of such a step and another process's steps leads
   to the same state.
2. A crash stands beside such a step, never behind it: before the store and after it are two different deaths. It
   commutes with what others do, for an event sent before it is lost with the port and one sent after it is dropped.
3. What a property counts is counted at steps that are never taken early: a notification at its sending, a sleep when
   the wish for an event reaches memory.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from . import channel
from . import operations as ops
from . import ring_model as ring
from .memory import Buffer, Cells, Order, drain, drainable, read, write
from .properties import MASK, NO_DEADLOCK, NO_LOST_WAKE_UP, ONE_NOTIFICATION, Ledger, Stream
from .scheduler import Program, Step

__all__ = ["RingMachine", "Scenario"]

_NAMES = ("front", "back ")
_OWN = ((ring.REQ_PROD, ring.RSP_EVENT, ring.FRONT_WORD),
        (ring.RSP_PROD, ring.REQ_EVENT, ring.BACK_WORD, *range(ring.JOURNAL, ring.JOURNAL + ring.ENTRIES)))
T = TypeVar("T")


@dataclass(frozen=True)
class Scenario:
    """Bounds of one search. `whole`: both directions; else one, from front to back."""

    flag: bool
    whole: bool = False
    start: int = 0
    word: int = 0
    messages: int = 3
    crashes: int = 0
    spurious: int = 0
    order: Order = Order.TSO

    def but(self, **changes: object) -> "Scenario":
        """The same with some bounds changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def __str__(self) -> str:
        parts = ["whole" if self.whole else "half", "flag" if self.flag else "standard", f"start {self.start:#x}",
                 f"{self.messages} messages", f"{self.crashes} crashes", f"{self.spurious} spurious", self.order.value]
        return ", ".join(parts)


class _State(NamedTuple):
    cells: Cells
    buffers: tuple[Buffer, Buffer]
    at: tuple[int, int]
    ports: tuple[int, int]
    ledger: Ledger
    crashes: int
    spurious: int


class RingMachine:
    """A frontend and a backend of class `kind` (the algorithm, or a mutant of it) within a scenario's bounds.

    Only the backend crashes: a frontend that dies takes its ring with it. Either may wake for no reason.
    """

    def __init__(self, scenario: Scenario, kind: type[ring.Ring] = ring.Ring, reduced: bool = True) -> None:
        self.scenario = s = scenario
        self.reduced = reduced
        self.kind = kind

        def end(which: int) -> ring.Ring:
            return kind(which, s.flag, s.start, s.word)

        self.programs = (Program(lambda: end(ring.FRONT).front(s.messages) if s.whole
                                 else end(ring.FRONT).producer(s.messages)),
                         Program(lambda: end(ring.BACK).back() if s.whole else end(ring.BACK).consumer()))

    def initial(self) -> _State:
        """A fresh page; the frontend's port is bound, the backend's not yet."""
        cells = ring.fresh_page(self.scenario.start, self.scenario.word)
        return _State(cells, ((), ()), (0, 0), (channel.bound(False), 0), (Stream(), Stream()), self.scenario.crashes,
                      self.scenario.spurious)

    def steps(self, state: object) -> list[Step]:
        """Every step of every process, every drain, every delivery, and what may befall the two."""
        assert isinstance(state, _State)
        found: list[Step] = []
        ready = (self.programs[0].op(state.at[0]), self.programs[1].op(state.at[1]))
        for who in (ring.FRONT, ring.BACK):
            op = ready[who]
            if self.reduced and op is not None and self._unseen(state, who, op):
                self._operation(state, who, op, found)
                if who == ring.BACK:
                    self._crash(state, found)
                return found
        for who in (ring.FRONT, ring.BACK):
            op = ready[who]
            if op is not None:
                self._operation(state, who, op, found)
            for position in drainable(state.buffers[who], self.scenario.order):
                cells, buffer = drain(state.cells, state.buffers[who], position)
                address, value, _ = state.buffers[who][position]
                after = state._replace(cells=cells, buffers=_put(state.buffers, who, buffer),
                                       ledger=self._sleep_begins(state.ledger, address, value))
                found.append(Step((_NAMES[who], "store lands:", address, value), after))
            if channel.can_deliver(state.ports[who]):
                ports = _put(state.ports, who, channel.delivered(state.ports[who]))
                found.append(Step((_NAMES[who], "event delivered"), state._replace(ports=ports)))
        self._crash(state, found)
        return found

    def _crash(self, state: _State, found: list[Step]) -> None:
        """The backend may die anywhere: its stores still land, its port is closed, a successor begins."""
        if state.crashes and state.at[ring.BACK]:
            after = state._replace(at=(state.at[ring.FRONT], 0), ports=(state.ports[ring.FRONT], 0),
                                   crashes=state.crashes - 1)
            found.append(Step(("back  crashes",), after, None, False))

    def _unseen(self, state: _State, who: int, op: ops.Op) -> bool:
        """Whether rule 1 of the reduction holds for a process's next operation."""
        kind = op.kind
        if kind == ops.LOAD:
            return op.a in _OWN[who]
        if kind == ops.FENCE:
            return not state.buffers[who]
        if kind == ops.CONSUME:
            return op.d < 0 or op.d >= ring.JOURNAL
        if kind == ops.WAIT:
            return state.ports[op.a] & channel.DELIVERED != 0
        return kind in (ops.STORE, ops.RELEASE, ops.CHOOSE, ops.UNMASK)

    def _operation(self, state: _State, who: int, op: ops.Op, found: list[Step]) -> None:
        """Add what the process's next operation can do; nothing while it blocks."""
        kind, a, b, c, d = op
        buffer = state.buffers[who]
        result = 0
        broken: str | None = None
        certain = True
        if kind == ops.LOAD:
            result = read(state.cells, buffer, a)
        elif kind in (ops.STORE, ops.RELEASE):
            state = state._replace(buffers=_put(state.buffers, who, buffer + ((a, b, kind == ops.RELEASE),)))
        elif kind == ops.FENCE:
            if buffer:
                return
        elif kind == ops.CHOOSE:
            for result in range(1, a):
                self._add(state, who, op, result, found)
            result = 0
        elif kind == ops.ROOM:
            if (b - state.cells[a] & MASK) >= c:
                return
        elif kind == ops.CONSUME:
            again = self.scenario.whole and a == ring.REQUESTS
            stream, broken = state.ledger[a].consume(a, self.scenario.start, b, c, again)
            state = state._replace(ledger=_put(state.ledger, a, stream))
            if d == ring.RSP_PROD:
                state = state._replace(cells=write(state.cells, d, b + 1 & MASK))
            elif d >= 0:
                state = state._replace(cells=write(state.cells, d, c))
        elif kind == ops.NOTIFY:
            stream = state.ledger[who]
            broken = ONE_NOTIFICATION if not stream.credit else None
            state = state._replace(ports=_put(state.ports, a, channel.sent(state.ports[a])),
                                   ledger=_put(state.ledger, who, stream._replace(credit=stream.credit - 1)))
        elif kind == ops.WAIT:
            result = 1
            if state.ports[a] & channel.DELIVERED:
                state = state._replace(ports=_put(state.ports, a, channel.taken(state.ports[a])))
            elif state.spurious:
                result, certain = 0, False
                state = state._replace(spurious=state.spurious - 1)
            else:
                return
        elif kind == ops.UNMASK:
            state = state._replace(ports=_put(state.ports, a, channel.unmasked(state.ports[a])))
        elif kind == ops.CLEAR:
            state = state._replace(ports=_put(state.ports, a, channel.cleared(state.ports[a])))
        elif kind == ops.BIND:
            if buffer:
                return
            # A new process may send what its predecessor sent, and once more because it is new.
            stream = state.ledger[ring.RESPONSES]
            state = state._replace(ports=_put(state.ports, a, channel.bound(self.kind.binding_pends)),
                                   ledger=_put(state.ledger, ring.RESPONSES, stream._replace(credit=stream.credit + 2)))
        self._add(state, who, op, result, found, broken, certain)

    def _add(self, state: _State, who: int, op: ops.Op, result: int, found: list[Step], broken: str | None = None,
             certain: bool = True) -> None:
        at = _put(state.at, who, self.programs[who].step(state.at[who], result))
        found.append(Step((_NAMES[who], op, "->", result), state._replace(at=at), broken, certain))

    def _sleep_begins(self, ledger: Ledger, address: int, value: int) -> Ledger:
        """One more notification may be sent for each time that a consumer asks for an event."""
        if self.scenario.flag:
            asked = {ring.BACK_WORD: ring.REQUESTS, ring.FRONT_WORD: ring.RESPONSES}.get(address)
        else:
            asked = {ring.REQ_EVENT: ring.REQUESTS, ring.RSP_EVENT: ring.RESPONSES}.get(address)
        if asked is None or (self.scenario.flag and value & 1):
            return ledger
        return _put(ledger, asked, ledger[asked]._replace(credit=ledger[asked].credit + 1))

    def judge_end(self, state: object) -> str | None:
        """A run may stop when all is consumed; else somebody sleeps on messages, or all are stuck otherwise."""
        assert isinstance(state, _State)
        last = ring.RESPONSES if self.scenario.whole else ring.REQUESTS
        if state.ledger[last].taken == self.scenario.messages:
            return None
        for who, prod, stream in ((ring.BACK, ring.REQ_PROD, ring.REQUESTS),
                                  (ring.FRONT, ring.RSP_PROD, ring.RESPONSES)):
            op = self.programs[who].op(state.at[who])
            published = state.cells[prod] - self.scenario.start & MASK
            if op is not None and op.kind == ops.WAIT and published > state.ledger[stream].taken:
                return NO_LOST_WAKE_UP
        return NO_DEADLOCK


def _put(pair: tuple[T, T], who: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if who == 0 else (pair[0], value)
