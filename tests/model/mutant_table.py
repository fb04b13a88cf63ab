"""Where each mutant shows, and the property that must catch it there."""

from typing import NamedTuple

from . import mutants
from .machine import Scenario
from .memory import Order
from .properties import EXACTLY_ONCE, INTACT, NO_LOST_WAKE_UP, ONE_NOTIFICATION
from .ring_model import Ring

__all__ = ["FLAG", "HARMLESS", "MUTANTS", "Mutant", "STANDARD"]

WRAP = 0xfffffffe
STANDARD = Scenario(flag=False, start=WRAP)
FLAG = Scenario(flag=True, start=WRAP)
STANDARD_CRASH = STANDARD.but(crashes=1)
FLAG_CRASH = FLAG.but(crashes=1)
STANDARD_PSO = STANDARD.but(order=Order.PSO)
FLAG_PSO = FLAG.but(order=Order.PSO)
WHOLE_STANDARD_CRASH = STANDARD.but(whole=True, messages=1, crashes=1)
WHOLE_FLAG_CRASH = FLAG.but(whole=True, messages=1, crashes=1)


class Mutant(NamedTuple):
    """A fault, the bounds within which it shows, and the property that it breaks there."""

    kind: type[Ring]
    scenario: Scenario
    caught_by: str


def _both(kind: type[Ring], caught_by: str, standard: Scenario = STANDARD, flag: Scenario = FLAG) -> list[Mutant]:
    return [Mutant(kind, standard, caught_by), Mutant(kind, flag, caught_by)]


MUTANTS = [
    *_both(mutants.NoFenceInPublish, NO_LOST_WAKE_UP),
    *_both(mutants.FenceBeforeIndex, NO_LOST_WAKE_UP),
    *_both(mutants.WishReadBeforeIndex, NO_LOST_WAKE_UP),
    *_both(mutants.NotifyBeforePublish, NO_LOST_WAKE_UP),
    *_both(mutants.IndexBeforeEntry, INTACT),
    *_both(mutants.IndexNotReleased, INTACT, STANDARD_PSO, FLAG_PSO),
    Mutant(mutants.SignedDifference, STANDARD, NO_LOST_WAKE_UP),
    Mutant(mutants.TwoStateWord, FLAG, ONE_NOTIFICATION),
    Mutant(mutants.TwoStateWordRemembered, FLAG, NO_LOST_WAKE_UP),
    *_both(mutants.NoFenceInArm, NO_LOST_WAKE_UP),
    *_both(mutants.FenceBeforeWish, NO_LOST_WAKE_UP),
    *_both(mutants.NoSecondLook, NO_LOST_WAKE_UP),
    *_both(mutants.LookBeforeWish, NO_LOST_WAKE_UP),
    *_both(mutants.SleepsWithoutWish, NO_LOST_WAKE_UP),
    Mutant(mutants.EventAtCons, STANDARD, NO_LOST_WAKE_UP),
    *_both(mutants.SignedAvailable, NO_LOST_WAKE_UP),
    *_both(mutants.EntryReadBeforeIndex, INTACT),
    *_both(mutants.SlotGivenBackEarly, INTACT),
    Mutant(mutants.WakesWithoutRun, FLAG, NO_LOST_WAKE_UP),
    *_both(mutants.PortNotWrittenBack, NO_LOST_WAKE_UP),
    *_both(mutants.EventClearedBeforeWait, NO_LOST_WAKE_UP),
    Mutant(mutants.StaleRunning, FLAG_CRASH, NO_LOST_WAKE_UP),
    Mutant(mutants.StaleRunningCounted, FLAG_CRASH, NO_LOST_WAKE_UP),
    Mutant(mutants.EpochRestarts, FLAG_CRASH, NO_LOST_WAKE_UP),
    *_both(mutants.AttachSleepsFirst, NO_LOST_WAKE_UP, STANDARD_CRASH, FLAG_CRASH),
    *_both(mutants.AttachAtProducer, EXACTLY_ONCE, STANDARD_CRASH, FLAG_CRASH),
    *_both(mutants.NoJournal, INTACT, WHOLE_STANDARD_CRASH, WHOLE_FLAG_CRASH),
    *_both(mutants.NoNotifyAtAttach, NO_LOST_WAKE_UP, WHOLE_STANDARD_CRASH, WHOLE_FLAG_CRASH),
]

HARMLESS = [(kind, scenario)
            for kind in (mutants.WrittenBackBeforeArm, mutants.BindingDoesNotPend, mutants.AttachWaitsForBinding)
            for scenario in (STANDARD.but(crashes=1, messages=2), FLAG.but(crashes=1, messages=2))]
