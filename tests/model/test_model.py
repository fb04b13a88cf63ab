"""The algorithm keeps every property in every state; each mutant breaks the one named for it."""

import pytest

from . import mutants
from .machine import RingMachine, Scenario
from .memory import Order
from .mutant_table import FLAG, HARMLESS, MUTANTS, STANDARD, Mutant
from .properties import NO_LOST_WAKE_UP, ONE_NOTIFICATION
from .ring_model import Ring
from .scheduler import Report, explore

WIDE = [
    STANDARD.but(crashes=1, spurious=1),
    STANDARD.but(crashes=2),
    STANDARD.but(spurious=2, order=Order.PSO),
    STANDARD.but(whole=True, messages=2),
    STANDARD.but(whole=True, messages=2, crashes=1),
    FLAG.but(crashes=1),
    FLAG.but(messages=2, crashes=1, spurious=1),
    FLAG.but(messages=2, crashes=2),
    FLAG.but(spurious=1, order=Order.PSO),
    FLAG.but(whole=True, messages=2),
    FLAG.but(whole=True, messages=1, crashes=1),
]
NARROW = [STANDARD.but(start=0), FLAG.but(start=0), FLAG.but(word=0xfffffffe)]
# No mutant may be caught in bounds within which the algorithm itself was not tried.
OF_MUTANTS = [scenario for scenario in dict.fromkeys(mutant.scenario for mutant in MUTANTS)
              if scenario not in WIDE + NARROW]


def report_of(scenario: Scenario, kind: type[Ring] = Ring) -> Report:
    return explore(RingMachine(scenario, kind))


@pytest.mark.parametrize("scenario", WIDE + NARROW + OF_MUTANTS, ids=str)
def test_the_algorithm_keeps_every_property(scenario: Scenario) -> None:
    report = report_of(scenario)
    assert not report.broken, report.explain()
    assert report.ends > 0


def mutant_id(mutant: Mutant) -> str:
    mode = "flag" if mutant.scenario.flag else "standard"
    return f"{mutant.kind.__name__}-{mode}-{mutant.caught_by.partition(':')[0].replace(' ', '_')}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=mutant_id)
def test_mutant_is_caught(mutant: Mutant) -> None:
    report = explore(RingMachine(mutant.scenario, mutant.kind), mutant.caught_by)
    assert mutant.caught_by in report.broken, f"{mutant.kind.__doc__} passes {report.states} states"
    assert len(report.broken[mutant.caught_by]) > 5, "a trace leads to the fault"


@pytest.mark.parametrize("kind, scenario", HARMLESS, ids=str)
def test_what_looks_like_a_fault_and_is_none(kind: type[Ring], scenario: Scenario) -> None:
    report = report_of(scenario, kind)
    assert not report.broken, report.explain()


def test_every_mutant_has_its_place_in_the_table() -> None:
    listed = {mutant.kind for mutant in MUTANTS} | {kind for kind, _ in HARMLESS}
    defined = {value for value in vars(mutants).values() if isinstance(value, type) and issubclass(value, Ring)}
    assert defined - {Ring} == listed


@pytest.mark.parametrize("kind, scenario", [(mutants.SignedDifference, STANDARD), (mutants.SignedAvailable, STANDARD),
                                            (mutants.SignedAvailable, FLAG)])
def test_only_the_wrap_shows_a_signed_difference(kind: type[Ring], scenario: Scenario) -> None:
    assert NO_LOST_WAKE_UP not in report_of(scenario.but(start=0), kind).broken
    assert NO_LOST_WAKE_UP in explore(RingMachine(scenario, kind), NO_LOST_WAKE_UP).broken


@pytest.mark.parametrize("scenario", (STANDARD, FLAG), ids=("standard", "flag"))
def test_only_relaxed_stores_show_a_missing_release(scenario: Scenario) -> None:
    assert not report_of(scenario, mutants.IndexNotReleased).broken


def test_a_two_state_word_loses_nothing_but_costs_more() -> None:
    report = report_of(FLAG, mutants.TwoStateWord)
    assert list(report.broken) == [ONE_NOTIFICATION]
