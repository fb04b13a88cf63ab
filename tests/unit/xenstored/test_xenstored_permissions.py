"""Permissions of the emulated xenstored."""

import pytest
from tests.support.store_client import Client, run

from xenpv.hypervisors.emulated.xenstored import Xenstored


@pytest.mark.parametrize("permissions, reads, writes", [
    ("n0|", False, False), ("r0|", True, False), ("w0|", False, True), ("b0|", True, True),
    ("n0|r3|", True, False), ("n0|w3|", False, True), ("n0|b3|", True, True), ("b0|n3|", False, False),
    ("n0|r4|", False, False), ("r0|r4|", True, False), ("n3|", True, True), ("n4|b3|", True, True),
    ("n0|r32757|", True, False), ("b0|r32757|", True, False), ("n0|n3|b32757|", False, False),
])
def test_access(dom0: Client, guest: Client, permissions: str, reads: bool, writes: bool) -> None:
    dom0.ask("WRITE /node|1")
    assert dom0.ask(f"SET_PERMS /node|{permissions}") == "OK|"
    assert dom0.ask("GET_PERMS /node|") == permissions
    run([(guest, 0, "READ /node|", "1" if reads else "EACCES"),
         (guest, 0, "DIRECTORY /node|", "" if reads else "EACCES"),
         (guest, 0, "GET_PERMS /node|", permissions if reads else "EACCES"),
         (guest, 0, "WRITE /node|2", "OK|" if writes else "EACCES"),
         (guest, 0, "MKDIR /node/new|", "OK|" if writes else "EACCES")])


@pytest.mark.parametrize("permissions", ["", "x0|", "r|", "r-1|", "r65536|", "r32752|", "r0", "r0|r|", "r32757|",
                                         "r100000|", "r0x1|", "R0|"])
def test_bad_permissions(dom0: Client, permissions: str) -> None:
    assert dom0.ask(f"SET_PERMS /tool|{permissions}") == "EINVAL"


@pytest.mark.parametrize("request_", ["READ /|", "DIRECTORY /|", "GET_PERMS /|", "WRITE /|1", "MKDIR /new|", "RM /|",
                                      "SET_PERMS /|n3|", "MKDIR /|", "DIRECTORY_PART /|0|"])
def test_root_is_checked(guest: Client, request_: str) -> None:
    assert guest.ask(request_) == "EACCES"


def test_missing_nodes_are_told_only_where_the_parent_allows_it(dom0: Client, guest: Client) -> None:
    dom0.ask("MKDIR /open|")
    dom0.ask("SET_PERMS /open|r0|")
    run([
        (guest, 0, "READ /none|", "EACCES"),
        (guest, 0, "READ /local/domain/4/x|", "EACCES"),
        (guest, 0, "READ /open/none/below|", "ENOENT"),
        (guest, 0, "WRITE /open/none|1", "EACCES"),
        (guest, 0, "READ none|", "ENOENT"),
        (guest, 0, "RM none/below|", "ENOENT"),
        (guest, 0, "RM none|", "OK|"),
    ])


def test_children_inherit_and_belong_to_their_maker(dom0: Client, guest: Client) -> None:
    dom0.ask("MKDIR /open|")
    dom0.ask("SET_PERMS /open|b0|r4|")
    run([
        (guest, 0, "WRITE /open/a/b|1", "OK|"),
        (guest, 0, "GET_PERMS /open/a|", "b3|r4|"),
        (dom0, 0, "GET_PERMS /open/a/b|", "b3|r4|"),
        (dom0, 0, "WRITE /local/domain/3/x/y|1", "OK|"),
        (guest, 0, "GET_PERMS x/y|", "n3|"),
    ])


def test_only_the_control_domain_changes_the_owner(dom0: Client, guest: Client) -> None:
    run([
        (guest, 0, "WRITE x|1", "OK|"),
        (guest, 0, "SET_PERMS x|n4|", "EPERM"),
        (guest, 0, "SET_PERMS x|r3|b4|", "OK|"),
        (guest, 0, "SET_PERMS none|r3|", "ENOENT"),
        (dom0, 0, "SET_PERMS /local/domain/3/x|r4|b3|", "OK|"),
        (guest, 0, "SET_PERMS x|r3|", "EACCES"),
        (guest, 0, "WRITE x|2", "OK|"),
    ])


def test_owner_needs_no_entry(guest: Client) -> None:
    run([(guest, 0, "WRITE x|1", "OK|"), (guest, 0, "SET_PERMS x|n3|n3|", "OK|"), (guest, 0, "READ x|", "1")])


def test_everybody_entry_needs_the_feature(dom0: Client) -> None:
    dom0.ask("SET_FEATURE 4|4|")
    dom0.ask("WRITE /x|1")
    dom0.ask("SET_PERMS /x|n4|")
    assert Client(dom0.store, 4).ask("SET_PERMS /x|n4|r32757|") == "EINVAL"


def test_target_gives_its_permissions(dom0: Client, guest: Client, store: Xenstored) -> None:
    store.introduce(7)
    model = Client(store, 7)
    dom0.ask("WRITE /shared|1")
    dom0.ask("SET_PERMS /shared|n0|r3|")
    guest.ask("WRITE x|1")
    run([
        (model, 0, "READ /local/domain/3/x|", "EACCES"),
        (dom0, 0, "SET_TARGET 7|3|", "OK|"),
        (model, 0, "READ /local/domain/3/x|", "1"),
        (model, 0, "READ /shared|", "1"),
        (dom0, 0, "RELEASE 3|", "OK|"),
        (dom0, 0, "WRITE /shared|2", "OK|"),
        (dom0, 0, "SET_PERMS /shared|n0|r3|", "OK|"),
        (model, 0, "READ /shared|", "EACCES"),
    ])


def test_target_domain_0_is_not_the_control_domain(dom0: Client, guest: Client) -> None:
    run([
        (dom0, 0, "SET_TARGET 3|0|", "OK|"),
        (dom0, 0, "WRITE /shared|1", "OK|"),
        (dom0, 0, "SET_PERMS /shared|n4|", "OK|"),
        (guest, 0, "READ /shared|", "EACCES"),
        (guest, 0, "RELEASE 3|", "EACCES"),
    ])
