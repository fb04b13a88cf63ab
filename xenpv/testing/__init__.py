"""The contract of xenpv.domain as plain functions: what holds on one hypervisor must hold on the other.

A check takes a maker of two connected domains, ``make_pair()``, a context manager that gives a granter (which is also
the first to offer event channels) and a foreign domain. It raises ContractError, an AssertionError, naming what did not
hold. `GRANT_CHECKS` and `EVENT_CHECKS` are the single claims, for a test runner to name one by one. `check_store` takes a
maker of a connection to a store instead (store.py), `check_ring` one of a ring's two ends (ring.py), `check_storage` one of
a storage (storage.py). `NEED_TWO_DOMAINS` are the claims about a third party, which two places in one and the same domain
cannot show.
"""

from .contract import Check, ContractError, MakePair
from .events import EVENT_CHECKS, check_events, the_wrong_domain_is_refused
from .grants import GRANT_CHECKS, check_grants, what_was_granted_to_another_cannot_be_mapped
from .ring import RING_CHECKS, check_ring
from .storage import check_storage
from .store import check_store

NEED_TWO_DOMAINS: frozenset[Check] = frozenset({what_was_granted_to_another_cannot_be_mapped, the_wrong_domain_is_refused})

__all__ = ["EVENT_CHECKS", "GRANT_CHECKS", "NEED_TWO_DOMAINS", "RING_CHECKS", "ContractError", "MakePair", "check_events",
           "check_grants", "check_ring", "check_storage", "check_store"]
