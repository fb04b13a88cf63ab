"""Xen's own tables, from what its tools print."""

from __future__ import annotations

import pytest

from xenpv.errors import HypervisorError
from xenpv_tools.xen_tables import parse_grants, parse_ports

PORTS = """   1: VCPU 0: Virtual IRQ 1
   3: VCPU 0: IPI
   9: VCPU 1: Physical IRQ 16
  27: VCPU 0: Interdomain (Connected) - Remote Domain 2, Port 8
  28: VCPU 0: Interdomain (Waiting connection) - Remote Domain 5
"""
LIST = """(XEN) gnttab_usage_print_all [ key 'g' pressed
(XEN)       -------- active --------       -------- shared --------
(XEN) [ref] localdom mfn      pin          localdom gmfn     flags
(XEN) grant-table for remote d0 (v1)
(XEN)   1 frames (64 max), 3 maptrack frames (1024 max)
(XEN) no active grant table entries
(XEN) grant-table for remote d3 (v1)
(XEN)   1 frames (256 max), 0 maptrack frames (1024 max)
(XEN) [0x008]      0 0x1234ab 0x00000101          0 0x00f00d 0x19
(XEN) [0x1f0]      0 0x1234ac 0x00000001          0 0x00f00e 0x1d
(XEN) gnttab_usage_print_all ] done
"""


def test_ports() -> None:
    rows = [(port["port"], port["status"], port["remote"], port["remote_port"]) for port in parse_ports(4, PORTS)]
    assert rows == [(1, "virq", None, None), (3, "ipi", None, None), (9, "pirq", None, None), (27, "interdomain", 2, 8),
                    (28, "unbound", 5, None)]


def test_grants_are_those_of_the_domain() -> None:
    assert parse_grants(0, LIST) == []
    assert parse_grants(3, LIST) == [
        {"domid": 3, "ref": 8, "foreign": 0, "readonly": False, "mapped": 2},
        {"domid": 3, "ref": 0x1f0, "foreign": 0, "readonly": True, "mapped": 1}]


def test_the_last_list_counts() -> None:
    assert parse_grants(3, LIST + LIST.replace("[0x008]", "[0x009]"))[0]["ref"] == 9


@pytest.mark.parametrize("log", ["", LIST[60:], LIST[:-40], LIST + "(XEN) gnttab_usage_print_all [ key 'g' pressed\n"])
def test_a_list_that_is_not_whole_is_an_error(log: str) -> None:
    with pytest.raises(HypervisorError, match="conring_size"):
        parse_grants(3, log)
