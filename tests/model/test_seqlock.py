"""The sequence word of the time page keeps every property in every state; each mutant breaks the one named for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from . import seqlock_mutants
from .memory import Order
from .scheduler import explore
from .seqlock_model import Reader, SeqlockMachine, Writer
from .seqlock_mutants import MUTANTS

HERE = Path(__file__).parent


def machine(order: Order, kind: type[Writer] | type[Reader], start: int = 0) -> SeqlockMachine:
    if issubclass(kind, Writer):
        return SeqlockMachine(order, start, writer=kind)
    return SeqlockMachine(order, start, reader=kind)


@pytest.mark.parametrize("order", Order, ids=str)
@pytest.mark.parametrize("start", [0, 0xfffffffe], ids=hex)
def test_the_algorithm_keeps_every_property(order: Order, start: int) -> None:
    report = explore(SeqlockMachine(order, start))
    assert not report.broken, report.explain()
    assert report.ends > 0


def test_a_writer_that_died_while_writing_is_survived_by_its_word() -> None:
    """The next write starts from an odd word and leaves an even one."""
    report = explore(SeqlockMachine(Order.PSO, start=7))
    assert not report.broken, report.explain()


@pytest.mark.parametrize("kind, order, caught_by", MUTANTS, ids=lambda value: getattr(value, "__name__", str(value)[:8]))
def test_mutant_is_caught(kind: type[Writer] | type[Reader], order: Order, caught_by: str) -> None:
    report = explore(machine(order, kind), caught_by)
    assert caught_by in report.broken, f"{kind.__doc__} passes {report.states} states"


def test_every_mutant_has_its_place_in_the_table() -> None:
    defined = {value for value in vars(seqlock_mutants).values()
               if isinstance(value, type) and issubclass(value, (Writer, Reader))}
    assert defined - {Writer, Reader} == {kind for kind, _, _ in MUTANTS}


@pytest.mark.parametrize("kind", [seqlock_mutants.NoFenceBehindOdd, seqlock_mutants.OddReleased,
                                  seqlock_mutants.EvenNotReleased])
def test_only_relaxed_stores_show_a_missing_order(kind: type[Writer]) -> None:
    assert not explore(machine(Order.TSO, kind)).broken


@pytest.mark.parametrize("name", ["seqlock_model.py", "seqlock_mutants.py"])
def test_processes_hide_nothing_outside_their_locals(name: str) -> None:
    tree = ast.parse((HERE / name).read_text())
    processes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
                 and ast.unparse(node.returns or ast.Constant(None)).startswith(("Steps", "Process"))]
    allowed = {node.value for node in ast.walk(tree) if isinstance(node, (ast.Expr, ast.Assign))}
    yields = [node for each in processes for node in ast.walk(each) if isinstance(node, (ast.Yield, ast.YieldFrom))]
    loops = [node for each in processes for node in ast.walk(each) if isinstance(node, (ast.For, ast.With, ast.Try))]
    assert len(yields) > 10 and not loops
    assert all(node in allowed for node in yields)
