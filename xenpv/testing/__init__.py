"""The contract of xenpv.domain as plain functions: what holds on one hypervisor must hold on the other.

A check takes a maker of two connected domains, ``make_pair()``, a context manager that gives a granter (which is also
the first to offer event channels) and a foreign domain. It raises ContractError, an AssertionError, naming what did not
hold. `GRANT_CHECKS` and `EVENT_CHECKS` are the single claims, for a test runner to name one by one. `check_store` takes a
maker of a connection to a store instead (store.py), `check_ring` one of a ring's two ends (ring.py), `check_storage` one of
a storage (storage.py).
"""

from .contract import ContractError, MakePair
from .events import EVENT_CHECKS, check_events
from .grants import GRANT_CHECKS, check_grants
from .ring import RING_CHECKS, check_ring
from .storage import check_storage
from .store import check_store

__all__ = ["EVENT_CHECKS", "GRANT_CHECKS", "RING_CHECKS", "ContractError", "MakePair", "check_events", "check_grants",
           "check_ring", "check_storage", "check_store"]
