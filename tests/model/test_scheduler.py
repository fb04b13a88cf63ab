"""The tools themselves: store buffers, the search, and the rules that let a generator's state be compared."""

import ast
from pathlib import Path
from typing import Iterable, TypeVar, cast

import pytest

from . import ring_model
from .machine import RingMachine, Scenario
from .memory import Buffer, Cells, Order, drain, drainable, read
from .mutant_table import MUTANTS, Mutant
from .operations import FENCE, LOAD, RELEASE, Process, fence, load, release, store
from .properties import ENDS
from .ring_model import Ring
from .scheduler import Program, State, Step, explore

X, Y = 0, 1
T = TypeVar("T")
LitmusState = tuple[Cells, tuple[Buffer, Buffer], tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]]
HERE = Path(__file__).parent


class Litmus:
    """Two processes over two cells; `outcome` collects what their loads have seen, in the state."""

    def __init__(self, first: "Maker", second: "Maker", order: Order) -> None:
        self.programs = (Program(first), Program(second))
        self.order = order
        self.outcomes: set[tuple[tuple[int, ...], ...]] = set()

    def initial(self) -> State:
        return ((0, 0), ((), ()), (0, 0), ((), ()))

    def steps(self, state: State) -> Iterable[Step]:
        cells, buffers, at, seen = cast(LitmusState, state)
        for who in (0, 1):
            for position in drainable(buffers[who], self.order):
                landed, rest = drain(cells, buffers[who], position)
                yield Step(("drain", who), (landed, _set(buffers, who, rest), at, seen))
            op = self.programs[who].op(at[who])
            if op is None or (op.kind == FENCE and buffers[who]):
                continue
            result, after_buffers, after_seen = 0, buffers, seen
            if op.kind == LOAD:
                result = read(cells, buffers[who], op.a)
                after_seen = _set(seen, who, seen[who] + (result,))
            elif op.kind != FENCE:
                after_buffers = _set(buffers, who, buffers[who] + ((op.a, op.b, op.kind == RELEASE),))
            after_at = _set(at, who, self.programs[who].step(at[who], result))
            yield Step((who, op), (cells, after_buffers, after_at, after_seen))

    def judge_end(self, state: State) -> str | None:
        self.outcomes.add(cast(LitmusState, state)[3])
        return None


def _set(pair: tuple[T, T], who: int, value: T) -> tuple[T, T]:
    return (value, pair[1]) if who == 0 else (pair[0], value)


class Maker:
    """Makes a process that yields the operations given."""

    def __init__(self, *steps: object) -> None:
        self.steps = steps

    def __call__(self) -> Process:
        at = 0
        while at < len(self.steps):
            yield self.steps[at]  # type: ignore[misc]
            at += 1


def outcomes(first: Maker, second: Maker, order: Order) -> set[tuple[tuple[int, ...], ...]]:
    litmus = Litmus(first, second, order)
    explore(litmus)
    return litmus.outcomes


def test_stores_may_be_seen_after_later_loads() -> None:
    seen = outcomes(Maker(store(X, 1), load(Y)), Maker(store(Y, 1), load(X)), Order.TSO)
    assert seen == {((0,), (0,)), ((0,), (1,)), ((1,), (0,)), ((1,), (1,))}


def test_fences_forbid_it() -> None:
    seen = outcomes(Maker(store(X, 1), fence(), load(Y)), Maker(store(Y, 1), fence(), load(X)), Order.TSO)
    assert seen == {((0,), (1,)), ((1,), (0,)), ((1,), (1,))}


def test_one_fence_of_two_is_not_enough() -> None:
    seen = outcomes(Maker(store(X, 1), fence(), load(Y)), Maker(store(Y, 1), load(X)), Order.TSO)
    assert ((0,), (0,)) in seen


def test_a_process_sees_its_own_store_first() -> None:
    seen = outcomes(Maker(store(X, 1), load(X)), Maker(), Order.TSO)
    assert seen == {((1,), ())}


@pytest.mark.parametrize("order, index, overtakes", [(Order.TSO, store, False), (Order.PSO, store, True),
                                                     (Order.PSO, release, False)])
def test_message_passing(order: Order, index: object, overtakes: bool) -> None:
    seen = outcomes(Maker(store(X, 1), index(Y, 1)), Maker(load(Y), load(X)), order)  # type: ignore[operator]
    assert (((), (1, 0)) in seen) is overtakes


def test_stores_to_one_cell_keep_their_order_under_pso() -> None:
    assert ((), (2, 1)) not in outcomes(Maker(store(X, 1), store(X, 2)), Maker(load(X), load(X)), Order.PSO)


class Circle:
    """Goes round for ever behind its first state."""

    def initial(self) -> State:
        return 0

    def steps(self, state: State) -> Iterable[Step]:
        return [Step(("on",), {0: 1, 1: 2, 2: 1}[state])]  # type: ignore[index]

    def judge_end(self, state: State) -> str | None:
        return None


def test_a_run_without_end_is_found() -> None:
    assert list(explore(Circle()).broken) == [ENDS]


def test_a_search_that_is_cut_short_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="bounds are too wide"):
        explore(RingMachine(Scenario(flag=False)), limit=100)


def test_equal_states_are_one() -> None:
    program = Program(lambda: Ring(ring_model.BACK, False, 0, 0).consumer())
    first = program.step(0, 0)
    looked = program.step(first, 0)
    assert program.step(first, 0) == looked
    assert program.step(first, 1) != looked


@pytest.mark.parametrize("name", ("ring_model.py", "mutants.py"))
def test_processes_hide_nothing_outside_their_locals(name: str) -> None:
    tree = ast.parse((HERE / name).read_text())
    allowed = {node.value for node in ast.walk(tree) if isinstance(node, (ast.Expr, ast.Assign))}
    yields = [node for node in ast.walk(tree) if isinstance(node, (ast.Yield, ast.YieldFrom))]
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.With, ast.Try))]
    assert len(yields) > 30
    assert [node.lineno for node in yields if node not in allowed] == []
    assert [loop.lineno for loop in loops for node in ast.walk(loop) if node in yields] == []


SMALL = [Scenario(False, messages=2, crashes=1), Scenario(True, messages=2, spurious=1),
         Scenario(False, whole=True, messages=1)]
# Standard mode is enough here, and a successor's faults need ten times the states.
CHEAP = [mutant for mutant in MUTANTS if not mutant.scenario.crashes and not mutant.scenario.flag]


@pytest.mark.parametrize("scenario", SMALL, ids=str)
def test_the_reduction_leaves_out_states_and_no_verdict(scenario: Scenario) -> None:
    whole, reduced = explore(RingMachine(scenario, reduced=False)), explore(RingMachine(scenario))
    assert reduced.states < whole.states
    assert (reduced.broken, reduced.ends) == (whole.broken, whole.ends) == ({}, whole.ends)


@pytest.mark.parametrize("mutant", CHEAP, ids=lambda mutant: f"{mutant.kind.__name__}")
def test_mutants_are_caught_without_the_reduction_too(mutant: Mutant) -> None:
    machine = RingMachine(mutant.scenario, mutant.kind, reduced=False)
    assert mutant.caught_by in explore(machine, mutant.caught_by).broken
