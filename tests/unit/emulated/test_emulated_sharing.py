"""The granter's allocator, and what only the emulated Xen shows of grants."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.emulated import counts, domains, memfds
from xenpv.core import ffi
from xenpv.errors import ClosedError, GrantError, HypervisorError, LocalProtocolError
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.client import EmulatedDomain
from xenpv.hypervisors.emulated.sharing import find_run

Pair = tuple[EmulatedDomain, EmulatedDomain]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "r"


@pytest.fixture
def pair(run: Path) -> Iterator[Pair]:
    with domains(run) as (granter, foreign):
        yield granter, foreign


@given(free=st.integers(0, (1 << 40) - 1), count=st.integers(1, 41))
def test_find_run_finds_the_first(free: int, count: int) -> None:
    mask = (1 << count) - 1
    expected = next((first for first in range(41) if free >> first & mask == mask), -1)
    assert find_run(free, count) == expected


@pytest.mark.parametrize(("refs", "status"), [([0], -1), ([255], -1), ([300], -1), ([512], -3), ([0xFFFFFFFF], -3)])
def test_status_of_what_is_not_granted(pair: Pair, refs: list[int], status: int) -> None:
    granter, foreign = pair
    with granter.grants.share(foreign.domid):
        with pytest.raises(GrantError) as caught:
            foreign.grants.map(granter.domid, refs)
    assert caught.value.status == status


def break_connection(domain: EmulatedDomain) -> None:
    """As the kernel does for a process that was killed."""
    assert domain._link._sock is not None
    domain._link._sock.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("writable", [False, True])
def test_a_byte_is_cleared_when_the_connection_breaks(pair: Pair, writable: bool, until: Callable[..., None]) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid, writable=writable)
    shared.memory[16] = 1
    shared.on_unmap(clear=16)
    with foreign.grants.map(granter.domid, shared.refs, writable=False) as mapped:
        break_connection(granter)
        until(lambda: mapped.read(16, 1) == b"\0", "the host clears the byte")


def test_closed_pages_are_cleared_no_more(pair: Pair, until: Callable[..., None]) -> None:
    granter, foreign = pair
    first = granter.grants.share(foreign.domid)
    first.on_unmap(clear=16)
    with granter.grants.share(foreign.domid) as held:
        held.on_unmap(clear=0)
        first.close()
        again = granter.grants.share(foreign.domid)
        assert again.refs == first.refs
        again.memory[16] = held.memory[0] = 1
        with foreign.grants.map(granter.domid, [*again.refs, *held.refs]) as mapped:
            break_connection(granter)
            until(lambda: mapped.read(4096, 1) == b"\0", "the host clears the other's byte")
            assert mapped.read(16, 1) == b"\1"


def test_status_of_nobody(pair: Pair) -> None:
    with pytest.raises(GrantError) as caught:
        pair[1].grants.map(77, [256])
    assert caught.value.status == -2


def test_status_of_anothers_grant(pair: Pair) -> None:
    granter, foreign = pair
    with granter.grants.share(granter.domid) as shared, pytest.raises(GrantError) as caught:
        foreign.grants.map(granter.domid, shared.refs)
    assert caught.value.status == -1


def test_status_of_writing_what_is_read_only(pair: Pair) -> None:
    granter, foreign = pair
    with granter.grants.share(foreign.domid, writable=False) as shared, pytest.raises(GrantError) as caught:
        foreign.grants.map(granter.domid, shared.refs)
    assert caught.value.status == -1


@pytest.mark.parametrize("good_first", [True, False])
def test_a_refused_map_leaves_nothing_mapped(pair: Pair, good_first: bool) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid, 2)
    refs = [*shared.refs, 9] if good_first else [9, *shared.refs]
    with pytest.raises(GrantError):
        foreign.grants.map(granter.domid, refs)
    first = shared.refs
    shared.close()
    with granter.grants.share(foreign.domid, 2) as again:
        assert again.refs == first, "the pages were free at once"


def test_an_ended_page_is_used_again_after_its_unmap(pair: Pair) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid)
    refs = shared.refs
    mapped = foreign.grants.map(granter.domid, refs)
    shared.close()
    with granter.grants.share(foreign.domid) as other:
        assert other.refs != refs
    mapped.close()
    with granter.grants.share(foreign.domid) as other:
        assert other.refs == refs


def test_a_page_can_be_mapped_4095_times(pair: Pair) -> None:
    granter, foreign = pair
    with granter.grants.share(foreign.domid) as shared:
        with foreign.grants.map(granter.domid, list(shared.refs) * 4095) as mapped:
            with pytest.raises(GrantError) as caught:
                foreign.grants.map(granter.domid, shared.refs)
            assert caught.value.status == -1
            mapped.write(4094 * 4096, b"last")
            assert bytes(shared.memory[:4]) == b"last"
        foreign.grants.map(granter.domid, shared.refs).close()


def test_segments_are_given_back(run: Path, pair: Pair) -> None:
    granter, foreign = pair
    shares = [granter.grants.share(foreign.domid, 200) for _ in range(3)]
    shares.append(granter.grants.share(foreign.domid, 1000))
    most = counts(run, granter.domid)["segments"]
    for shared in shares:
        shared.close()
    assert (most, counts(run, granter.domid)["segments"]) == (7, 1)


def test_the_granter_keeps_no_descriptors(run: Path) -> None:
    host.start(run)
    try:
        with EmulatedDomain(f"emulated:{run}") as zero, zero.grants.share(0, 600) as shared:
            with zero.grants.map(0, shared.refs) as mapped:
                names = memfds()
                assert mapped.read(0, 1) == b"\0"
        assert names and all("memfd" in name for name in names)
        assert memfds() == []
    finally:
        host.stop(run)


def test_a_long_handle_lets_go_of_segments(run: Path, pair: Pair) -> None:
    """A peer that comes and goes a hundred times."""
    granter, foreign = pair
    for _ in range(100):
        with granter.grants.share(foreign.domid, 257) as shared:
            foreign.grants.map(granter.domid, [shared.refs[0], shared.refs[256]]).close()
    assert counts(run, foreign.domid)["openings"] <= 66


def test_many_idle_segments_are_bounded(run: Path, pair: Pair) -> None:
    granter, foreign = pair
    with granter.grants.share(foreign.domid, 100 * 256) as shared:
        for ref in shared.refs[::256]:
            foreign.grants.map(granter.domid, [ref]).close()
        assert counts(run, foreign.domid)["openings"] <= 64
        with foreign.grants.map(granter.domid, shared.refs[::256]) as mapped:
            assert mapped.read(99 * 4096, 1) == b"\0"
            assert counts(run, foreign.domid)["openings"] == 100, "what is mapped stays open"


def test_pages_for_a_domain_that_died_are_not_used_again(run: Path, pair: Pair) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid)
    host.request(run, "destroy", domid=foreign.domid)
    with granter.grants.share(foreign.domid) as other:
        assert not set(other.refs) & set(shared.refs)
    shared.close()
    with granter.grants.share(foreign.domid):
        assert counts(run, granter.domid)["segments"] == 1


def test_mapped_pages_outlive_their_granter(pair: Pair) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid)
    shared.memory[:4] = b"stay"
    mapped = foreign.grants.map(granter.domid, shared.refs)
    refs, domid = shared.refs, granter.domid
    granter.close()
    assert mapped.read(0, 4) == b"stay"
    with pytest.raises(GrantError):
        foreign.grants.map(domid, refs)


@pytest.mark.parametrize("use", [lambda memory: memory[5:9], memoryview, ffi.from_buffer],
                         ids=["slice", "view", "core"])
def test_memory_in_use_holds_the_grant(pair: Pair, use: Callable[[memoryview], Any]) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid)
    user = use(shared.memory)
    with pytest.raises(LocalProtocolError):
        shared.close()
    foreign.grants.map(granter.domid, shared.refs).close()
    shared.memory[0] = 1
    del user
    shared.close()
    with pytest.raises(GrantError):
        foreign.grants.map(granter.domid, shared.refs)


def test_memory_in_use_outlives_the_domain(pair: Pair) -> None:
    granter, foreign = pair
    shared = granter.grants.share(foreign.domid)
    user = shared.memory[:3]
    granter.close()
    user[:] = b"own"
    assert bytes(user) == b"own"
    shared.close()


def test_a_closed_domain_refuses_everything(pair: Pair) -> None:
    granter, foreign = pair
    grants, events = granter.grants, granter.events
    granter.close()
    granter.close()
    for use in (lambda: grants.share(2), lambda: grants.map(2, [256]), lambda: events.bind_unbound(2),
                lambda: granter.grants, lambda: granter.events, lambda: granter.store, granter.open_core):
        with pytest.raises(ClosedError):
            use()


@pytest.mark.parametrize("count", [0, -1, 1 << 40])
def test_a_share_has_a_size(pair: Pair, count: int) -> None:
    with pytest.raises(ValueError):
        pair[0].grants.share(2, count)


@pytest.mark.parametrize(("domid", "refs"), [(-1, [1]), (0, []), (0, [-1]), (0, [1 << 32]), (1 << 32, [1])])
def test_a_map_has_numbers_of_32_bits(pair: Pair, domid: int, refs: list[int]) -> None:
    with pytest.raises(ValueError):
        pair[1].grants.map(domid, refs)


def test_too_many_pages_are_refused_and_given_back(run: Path, pair: Pair) -> None:
    granter, foreign = pair
    with granter.grants.share(foreign.domid), pytest.raises(GrantError) as caught:
        granter.grants.share(foreign.domid, 1024 * 256)
    assert (caught.value.status, counts(run, granter.domid)["segments"]) == (-13, 1)


def test_without_a_host_calls_fail_in_one_line(run: Path) -> None:
    with domains(run) as (granter, foreign):
        shared = granter.grants.share(foreign.domid)
        mapped = foreign.grants.map(granter.domid, shared.refs)
        channel = granter.events.bind_unbound(foreign.domid)
        host.stop(run)
        for use in (lambda: granter.grants.share(foreign.domid, 300), lambda: granter.events.bind_unbound(2),
                    lambda: foreign.grants.map(granter.domid, [7000]), granter.open_core):
            with pytest.raises(HypervisorError) as caught:
                use()
            assert "\n" not in str(caught.value) and str(run) in str(caught.value)
        mapped.close()
        shared.close()
        channel.close()
    gc.collect()
    assert memfds() == []
