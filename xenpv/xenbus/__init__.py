"""Xenbus: the states of both ends of a vbd, what follows from which, and every key of the store as a typed record.

Nothing here touches a store: records go from mappings and to mappings, steps come from situations.
"""

from .nodes import HANDOVER, HANDOVER_SCRIPT, MAX_DOMID, BackendNode, Directory, FrontendNode, VbdNodes, VbdPlace, vbd_nodes
from .records import (MAX_PORT, MAX_QUEUES, MAX_SECTORS, BackendAdverts, DiskFacts, FrontendRings, RingKeys,
                      agreed_stamp, default_protocol)
from .states import XenbusState, parse_state
from .transitions import CLOSING_PATIENCE, FAILED, RULES, Action, Role, Rule, Situation, Step, Wish, next_step
from .vdev import MAX_VDEV, vdev_name, vdev_number

__all__ = [
    "Action", "BackendAdverts", "BackendNode", "CLOSING_PATIENCE", "Directory", "DiskFacts", "FAILED", "FrontendNode",
    "FrontendRings", "HANDOVER", "HANDOVER_SCRIPT", "MAX_DOMID", "MAX_PORT", "MAX_QUEUES", "MAX_SECTORS", "MAX_VDEV", "RULES",
    "RingKeys", "Role", "Rule", "Situation", "Step", "VbdNodes", "VbdPlace", "Wish", "XenbusState", "agreed_stamp",
    "default_protocol", "next_step", "parse_state", "vbd_nodes", "vdev_name", "vdev_number",
]
