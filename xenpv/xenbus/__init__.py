"""Xenbus: the states of both ends of a vbd, what follows from which, and every key of the store as a typed record.

Nothing here touches a store: records go from mappings and to mappings, steps come from situations.
"""

from .states import XenbusState, parse_state
from .transitions import CLOSING_PATIENCE, FAILED, RULES, Action, Role, Rule, Situation, Step, Wish, next_step
from .vdev import MAX_VDEV, vdev_name, vdev_number

__all__ = [
    "Action", "CLOSING_PATIENCE", "FAILED", "MAX_VDEV", "RULES", "Role", "Rule", "Situation", "Step", "Wish",
    "XenbusState", "next_step", "parse_state", "vdev_name", "vdev_number",
]
