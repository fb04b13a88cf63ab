"""Every opcode of the emulated xenstored, as tables of who asks what and is answered what."""

import pytest
from tests.support.store_client import Client, run


def test_read_and_write(dom0: Client) -> None:
    run([
        (dom0, 0, "READ /a|", "ENOENT"),
        (dom0, 0, "WRITE /a/b/c|x", "OK|"),
        (dom0, 0, "READ /a/b/c|", "x"),
        (dom0, 0, "READ /a/b|", ""),
        (dom0, 0, "WRITE /a/b/c|", "OK|"),
        (dom0, 0, "READ /a/b/c|", ""),
        (dom0, 0, "WRITE /a|in|between", "OK|"),
        (dom0, 0, "READ /a|", "in|between"),
        (dom0, 0, "WRITE /a", "EINVAL"),
        (dom0, 0, "READ /a", "EINVAL"),
        (dom0, 0, "READ /a|b|", "EINVAL"),
        (dom0, 0, "READ ", "EINVAL"),
    ])


def test_values_are_any_bytes(dom0: Client) -> None:
    value = bytes(set(range(256)) - {ord("|")})
    assert dom0.ask(b"WRITE /a|" + value) == "OK|"
    dom0.send("READ /a|")
    dom0.read()
    assert dom0.answers.pop().payload == value


def test_directories(dom0: Client) -> None:
    run([
        (dom0, 0, "MKDIR /a/b|", "OK|"),
        (dom0, 0, "WRITE /a/c|1", "OK|"),
        (dom0, 0, "MKDIR /a/c|", "OK|"),
        (dom0, 0, "READ /a/c|", "1"),
        (dom0, 0, "DIRECTORY /a|", "b|c|"),
        (dom0, 0, "DIRECTORY /a/b|", ""),
        (dom0, 0, "DIRECTORY /|", "tool|a|"),
        (dom0, 0, "DIRECTORY /none|", "ENOENT"),
    ])


def test_remove(dom0: Client) -> None:
    run([
        (dom0, 0, "WRITE /a/b/c|1", "OK|"),
        (dom0, 0, "RM /a/b|", "OK|"),
        (dom0, 0, "READ /a/b/c|", "ENOENT"),
        (dom0, 0, "DIRECTORY /a|", ""),
        (dom0, 0, "RM /a/b|", "OK|"),
        (dom0, 0, "RM /a/b/c|", "ENOENT"),
        (dom0, 0, "RM /|", "EINVAL"),
    ])
    assert dom0.store.check() == []


def test_relative_paths_start_at_the_domain(dom0: Client, guest: Client) -> None:
    run([
        (guest, 0, "WRITE data/x|1", "OK|"),
        (dom0, 0, "READ /local/domain/3/data/x|", "1"),
        (dom0, 0, "WRITE y|2", "OK|"),
        (dom0, 0, "READ /local/domain/0/y|", "2"),
    ])


@pytest.mark.parametrize("path", ["", "//", "/a/", "/a//b", "a/", "/a b", "/a.b", "/a\n", "@introduceDomain", "/\xe4",
                                  "/local/domain/", "/" + "x" * 3072])
def test_bad_paths(dom0: Client, path: str) -> None:
    assert dom0.ask(f"READ {path}|") == "EINVAL"
    assert dom0.ask(f"WRITE {path}|1") == "EINVAL"


def test_long_directory_needs_parts(dom0: Client) -> None:
    names = [f"entry-{number:04}" for number in range(700)]
    for name in names:
        assert dom0.ask(f"MKDIR /big/{name}|") == "OK|"
    assert dom0.ask("DIRECTORY /big|") == "E2BIG"
    found, offset, generations = "", 0, set()
    while not found.endswith("||"):
        generation, _, part = dom0.ask(f"DIRECTORY_PART /big|{offset}|").partition("|")
        assert len(generation) + 1 + len(part) <= 4096
        generations.add(generation)
        found += part
        offset = len(found)
    assert found.split("|")[:-2] == names
    assert len(generations) == 1
    assert dom0.ask("MKDIR /big/one-more|") == "OK|"
    assert dom0.ask("DIRECTORY_PART /big|0|").partition("|")[0] not in generations


def test_directory_part_arguments(dom0: Client) -> None:
    dom0.ask("MKDIR /a/b|")
    assert dom0.ask("DIRECTORY_PART /a|0|").partition("|")[2] == "b||"
    assert dom0.ask("DIRECTORY_PART /a|99|").partition("|")[2] == "|"
    run([
        (dom0, 0, "DIRECTORY_PART /a|", "EINVAL"),
        (dom0, 0, "DIRECTORY_PART /a|x|", "EINVAL"),
        (dom0, 0, "DIRECTORY_PART /a|-1|", "EINVAL"),
        (dom0, 0, "DIRECTORY_PART /none|0|", "ENOENT"),
    ])


def test_domain_requests(dom0: Client) -> None:
    run([
        (dom0, 0, "IS_DOMAIN_INTRODUCED 5|", "F|"),
        (dom0, 0, "IS_DOMAIN_INTRODUCED 0|", "T|"),
        (dom0, 0, "IS_DOMAIN_INTRODUCED 32752|", "T|"),
        (dom0, 0, "INTRODUCE 5|-1|0|", "EINVAL"),
        (dom0, 0, "INTRODUCE 5|-1|", "EINVAL"),
        (dom0, 0, "INTRODUCE 0|-1|3|", "EINVAL"),
        (dom0, 0, "INTRODUCE 32753|-1|3|", "EINVAL"),
        (dom0, 0, "RELEASE 5|", "ENOENT"),
        (dom0, 0, "INTRODUCE 5|-1|3|", "OK|"),
        (dom0, 0, "IS_DOMAIN_INTRODUCED 5|", "T|"),
        (dom0, 0, "RESUME 5|", "OK|"),
        (dom0, 0, "RESUME 6|", "ENOENT"),
        (dom0, 0, "SET_TARGET 5|6|", "ENOENT"),
        (dom0, 0, "RELEASE 5|", "OK|"),
        (dom0, 0, "RELEASE 0|", "EINVAL"),
        (dom0, 0, "IS_DOMAIN_INTRODUCED 5|", "F|"),
        (dom0, 0, "GET_DOMAIN_PATH 7|", "/local/domain/7|"),
        (dom0, 0, "GET_DOMAIN_PATH 007|", "/local/domain/7|"),
        (dom0, 0, "GET_DOMAIN_PATH x|", "EINVAL"),
        (dom0, 0, "GET_DOMAIN_PATH 65536|", "EINVAL"),
        (dom0, 0, "GET_DOMAIN_PATH |", "EINVAL"),
    ])


def test_only_the_control_domain(guest: Client) -> None:
    run((guest, 0, request, "EACCES") for request in [
        "INTRODUCE 5|-1|3|", "RELEASE 3|", "RESUME 3|", "SET_TARGET 3|0|", "IS_DOMAIN_INTRODUCED 3|", "CONTROL help|",
        "SET_FEATURE 3|0|", "GET_FEATURE 3|", "GET_QUOTA |", "SET_QUOTA nodes|0|"])
    assert guest.ask("GET_DOMAIN_PATH 3|") == "/local/domain/3|"


def test_features(dom0: Client, guest: Client) -> None:
    run([
        (dom0, 0, "GET_FEATURE |", "12|"),
        (dom0, 0, "GET_FEATURE ", "12|"),
        (guest, 0, "GET_FEATURE |", "12|"),
        (dom0, 0, "SET_FEATURE 3|4|", "EBUSY"),
        (dom0, 0, "SET_FEATURE 4|1|", "EINVAL"),
        (dom0, 0, "SET_FEATURE 4|0|", "OK|"),
        (dom0, 0, "GET_FEATURE 4|", "0|"),
        (Client(dom0.store, 4), 0, "WATCH a|t|1|", "EINVAL"),
    ])


def test_quotas_by_name(dom0: Client) -> None:
    run([
        (dom0, 0, "GET_QUOTA |", "nodes watches outstanding memory transactions transaction-nodes node-permissions "
                                 "path-max node-size|"),
        (dom0, 0, "GET_QUOTA nodes|", "1000|"),
        (dom0, 0, "GET_QUOTA node_size|", "EINVAL"),
        (dom0, 0, "SET_QUOTA 5|nodes|7|", "OK|"),
        (dom0, 0, "GET_QUOTA 5|nodes|", "7|"),
        (dom0, 0, "GET_QUOTA nodes|", "1000|"),
        (dom0, 0, "SET_QUOTA nodes|9|", "OK|"),
        (dom0, 0, "GET_QUOTA 6|nodes|", "9|"),
        (dom0, 0, "GET_QUOTA 5|nodes|", "7|"),
        (dom0, 0, "SET_QUOTA 32753|nodes|7|", "EINVAL"),
    ])


def test_control(dom0: Client) -> None:
    run([
        (dom0, 0, "CONTROL help|", "check\nhelp\nprint <string>|"),
        (dom0, 0, "CONTROL check|", "OK|"),
        (dom0, 0, "CONTROL print|hello|", "OK|"),
        (dom0, 0, "CONTROL live-update|", "EINVAL"),
        (dom0, 0, "CONTROL ", "EINVAL"),
    ])


@pytest.mark.parametrize("opcode", [15, 16, 20, 27, 128, 0xFFFF, 0xFFFFFFFF])
def test_unknown_opcodes(dom0: Client, opcode: int) -> None:
    assert dom0.ask(f"{opcode} /a|") == "ENOSYS"
    assert not dom0.connection.closed


def test_transaction_that_is_not_there(dom0: Client) -> None:
    run([
        (dom0, 9, "READ /tool|", "ENOENT"),
        (dom0, 9, "TRANSACTION_START |", "ENOENT"),
        (dom0, 9, "TRANSACTION_END T|", "ENOENT"),
        (dom0, 0, "TRANSACTION_END T|", "ENOENT"),
        (dom0, 9, "WATCH /a|t|", "OK|"),
        (dom0, 9, "UNWATCH /a|t|", "OK|"),
    ])
