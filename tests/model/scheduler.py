"""Generators as processes whose state can be compared, and the search through all states.

RULES
1. A process's state is where each of its nested generators stands and what their locals hold. So that nothing hides
   outside the locals, a process yields only as a whole statement or the whole right side of an assignment, and has no
   `for` loop around a yield (test_scheduler.py reads the sources for it).
2. A generator cannot be copied. A state is reached again by running a new generator through the results that led to
   it once; each step of each state is computed once and then looked up.
3. The search is breadth first, so that the trace of a fault is a short one.
4. A step that the algorithm may not count on (a crash, a spurious wake) is marked; a state from which only such steps
   lead on is an end.
"""

import gc
from collections import deque
from typing import Callable, Hashable, Iterable, NamedTuple, Protocol

from .operations import Op, Process
from .properties import ENDS

__all__ = ["Machine", "Program", "Report", "State", "Step", "explore"]

State = Hashable


class Program:
    """The states of one process: small integers, 0 the first."""

    def __init__(self, make: Callable[[], Process]) -> None:
        self._make = make
        self._logs: list[tuple[int, ...]] = []
        self._ops: list[Op | None] = []
        self._known: dict[Hashable, int] = {}
        self._next: dict[tuple[int, int], int] = {}
        self._enter(())

    def op(self, state: int) -> Op | None:
        """The operation that the process does next, or None when it has ended."""
        return self._ops[state]

    def step(self, state: int, result: int) -> int:
        """The state after the next operation has returned `result`."""
        key = (state, result)
        found = self._next.get(key)
        if found is None:
            found = self._next[key] = self._enter(self._logs[state] + (result,))
        return found

    def _enter(self, log: tuple[int, ...]) -> int:
        process = self._make()
        op: Op | None
        try:
            op = next(process)
            for result in log:
                op = process.send(result)
        except StopIteration:
            op = None
        key = _identity(process)
        state = self._known.setdefault(key, len(self._logs))
        if state == len(self._logs):
            self._logs.append(log)
            self._ops.append(op)
        process.close()
        return state


def _identity(process: Process) -> Hashable:
    parts: list[Hashable] = []
    inner: object = process
    while inner is not None:
        frame = getattr(inner, "gi_frame")
        if frame is None:
            break
        held = tuple((name, _value(value)) for name, value in sorted(frame.f_locals.items()))
        parts.append((frame.f_code, frame.f_lasti, held))
        inner = getattr(inner, "gi_yieldfrom")
    return tuple(parts)


def _value(value: object) -> Hashable:
    snapshot = getattr(value, "snapshot", None)
    held: Hashable = snapshot() if snapshot is not None else value
    hash(held)
    return held


class Step(NamedTuple):
    """One way on from a state: what happens, what follows, the property it breaks, and whether it may be counted on."""

    label: tuple[object, ...]
    state: State
    broken: str | None = None
    certain: bool = True


class Machine(Protocol):
    """What the search needs to know."""

    def initial(self) -> State:
        """Where every run begins."""

    def steps(self, state: State) -> Iterable[Step]:
        """Everything that can happen next."""

    def judge_end(self, state: State) -> str | None:
        """The property broken by a run that stops here, or None for a good end."""


class Report(NamedTuple):
    """What a search found: for each broken property the steps of a run that breaks it."""

    states: int
    transitions: int
    ends: int
    broken: dict[str, list[str]]

    def explain(self) -> str:
        """The traces, for a person."""
        found = (f"{name}\n    " + "\n    ".join(trace) for name, trace in self.broken.items())
        return "\n".join(found) or "all properties hold"


def explore(machine: Machine, wanted: str | None = None, limit: int = 2_000_000) -> Report:
    """`search` without the cyclic collector, which would walk the growing set of states again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        return search(machine, wanted, limit)
    finally:
        if was_on:
            gc.enable()


def search(machine: Machine, wanted: str | None, limit: int) -> Report:
    """Visit every state; stop early only when `wanted` is found broken.

    A run is not followed beyond the step that breaks a property. Raises RuntimeError when more than `limit` states turn
    up: a search that was cut short must not look like a proof.
    """
    first = machine.initial()
    numbers: dict[State, int] = {first: 0}
    came_from: list[tuple[int, tuple[object, ...]]] = [(-1, ())]
    following: list[list[int]] = []
    broken: dict[str, list[str]] = {}
    waiting = deque([first])
    transitions = ends = 0

    def trace(number: int, last: tuple[object, ...] = ()) -> list[str]:
        labels = [last] if last else []
        while number > 0:
            number, label = came_from[number]
            labels.append(label)
        return [" ".join(map(str, label)) for label in reversed(labels)]

    while waiting:
        state = waiting.popleft()
        number = len(following)
        following.append([])
        goes_on = False
        for label, after, fault, certain in machine.steps(state):
            transitions += 1
            goes_on = goes_on or certain
            if fault is not None:
                if fault not in broken:
                    broken[fault] = trace(number, label)
                continue
            known = numbers.get(after)
            if known is None:
                known = numbers[after] = len(numbers)
                came_from.append((number, label))
                waiting.append(after)
                if known >= limit:
                    raise RuntimeError(f"more than {limit} states: the bounds are too wide")
            following[number].append(known)
        if not goes_on:
            ends += 1
            fault = machine.judge_end(state)
            if fault is not None and fault not in broken:
                broken[fault] = trace(number)
        if wanted is not None and wanted in broken:
            return Report(len(numbers), transitions, ends, broken)
    round_trip = _on_a_cycle(following)
    if round_trip is not None:
        broken[ENDS] = trace(round_trip)
    return Report(len(numbers), transitions, ends, broken)


def _on_a_cycle(following: list[list[int]]) -> int | None:
    """The number of a state on a cycle or behind one, or None: states are taken away as long as one has no way in."""
    ways_in = [0] * len(following)
    for targets in following:
        for target in targets:
            ways_in[target] += 1
    free = [number for number, count in enumerate(ways_in) if count == 0]
    gone = 0
    while free:
        gone += 1
        for target in following[free.pop()]:
            ways_in[target] -= 1
            if ways_in[target] == 0:
                free.append(target)
    if gone == len(following):
        return None
    return next(number for number, count in enumerate(ways_in) if count)
