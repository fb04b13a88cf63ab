"""The emulated Xen's state, without sockets."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator

import pytest

from tests.support.emulated import greeted
from xenpv.hypervisors.emulated.calls import WRITABLE, Call, Op, Refused, Reply
from xenpv.hypervisors.emulated.hypervisor import Client, Hypervisor, Limits


@pytest.fixture
def hv() -> Iterator[Hypervisor]:
    made = Hypervisor(limits=Limits(domains=8, connections=3, segments=4, openings=3, ports=4))
    yield made
    made.close()


@pytest.fixture
def guest(hv: Hypervisor) -> Client:
    return greeted(hv, hv.create("guest").domid)


@pytest.fixture
def zero(hv: Hypervisor) -> Client:
    return greeted(hv, 0)


def refused(hv: Hypervisor, client: Client, call: Call) -> int:
    with pytest.raises(Refused) as caught:
        hv.call(client, call)
    return caught.value.code


def pending(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def segment(hv: Hypervisor, granter: Client, foreign: int, flags: int = WRITABLE) -> int:
    number = hv.call(granter, Call(Op.SEGMENT_NEW, foreign, flags=flags)).number
    hv.call(granter, Call(Op.SEGMENT_READY, number=number))
    return number


def test_domids_count_up(hv: Hypervisor) -> None:
    assert [hv.create(name).domid for name in "abc"] == [1, 2, 3]


def test_a_domid_is_not_used_again_at_once(hv: Hypervisor) -> None:
    hv.destroy(hv.create("a").domid)
    assert hv.create("a").domid == 2


def test_domids_wrap_to_a_free_one(hv: Hypervisor) -> None:
    first = hv.create("first").domid
    hv._last_domid = 0x7FEF
    assert (first, hv.create("next").domid) == (1, 2)


def test_names_are_unique(hv: Hypervisor) -> None:
    with pytest.raises(Refused) as caught:
        hv.create("Domain-0")
    assert caught.value.code == errno.EEXIST


def test_domains_are_limited(hv: Hypervisor) -> None:
    for number in range(7):
        hv.create(f"d{number}")
    with pytest.raises(Refused) as caught:
        hv.create("one-more")
    assert caught.value.code == errno.ENOSPC


def test_hello_names_the_domain(hv: Hypervisor, guest: Client) -> None:
    assert hv.call(guest, Call(Op.HELLO, number=1)) == Reply(domid=1, number=1)


def test_another_version_is_refused(hv: Hypervisor, guest: Client) -> None:
    assert refused(hv, guest, Call(Op.HELLO, number=2)) == errno.EPROTONOSUPPORT


@pytest.mark.parametrize(("domid", "byte"), [(1, 1 << 20), (2, 0), (1, 0xFFFFFFFF)])
def test_a_byte_to_clear_is_within_the_segment(hv: Hypervisor, guest: Client, domid: int, byte: int) -> None:
    number = segment(hv, guest, 0)
    assert refused(hv, guest, Call(Op.UNMAP_CLEAR, domid, number, byte)) == errno.EINVAL


def test_only_the_granter_has_a_byte_cleared(hv: Hypervisor, guest: Client, zero: Client) -> None:
    assert refused(hv, zero, Call(Op.UNMAP_CLEAR, 1, segment(hv, guest, 0), 0)) == errno.ENOENT


def test_nothing_before_hello(hv: Hypervisor) -> None:
    assert refused(hv, hv.connect(0), Call(Op.EVENT_UNBOUND, 0)) == errno.EPROTO


@pytest.mark.parametrize("op", [0, 12, 0xFFFFFFFF])
def test_an_unknown_call_is_refused(hv: Hypervisor, guest: Client, op: int) -> None:
    assert refused(hv, guest, Call(op)) == errno.ENOSYS


@pytest.mark.parametrize("op", list(Op))
def test_numbers_of_nonsense_are_refused_or_harmless(hv: Hypervisor, guest: Client, op: Op) -> None:
    try:
        reply = hv.call(guest, Call(op, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    except Refused:
        return
    assert (op, reply.fds) == (Op.EVENT_STATUS, ())


def test_connections_are_limited(hv: Hypervisor, guest: Client) -> None:
    hv.connect(1)
    hv.connect(1)
    with pytest.raises(Refused):
        hv.connect(1)


def test_a_segment_opens_for_its_foreign_domain_alone(hv: Hypervisor, zero: Client, guest: Client) -> None:
    number = segment(hv, zero, guest.domid)
    assert len(hv.call(guest, Call(Op.SEGMENT_OPEN, 0, number)).fds) == 3
    assert refused(hv, zero, Call(Op.SEGMENT_OPEN, 0, number)) == errno.EACCES


def test_a_segment_opens_when_it_is_ready(hv: Hypervisor, zero: Client, guest: Client) -> None:
    number = hv.call(zero, Call(Op.SEGMENT_NEW, guest.domid)).number
    assert refused(hv, guest, Call(Op.SEGMENT_OPEN, 0, number)) == errno.EACCES


def test_what_is_not_there_does_not_open(hv: Hypervisor, guest: Client) -> None:
    assert refused(hv, guest, Call(Op.SEGMENT_OPEN, 5, 1)) == errno.ESRCH
    assert refused(hv, guest, Call(Op.SEGMENT_OPEN, 0, 1)) == errno.ENOENT


def test_a_segment_may_be_for_nobody_yet(hv: Hypervisor, guest: Client) -> None:
    assert hv.call(guest, Call(Op.SEGMENT_NEW, 5)).number == 1
    assert refused(hv, guest, Call(Op.SEGMENT_NEW, 0x7FF0)) == errno.ESRCH


def test_segments_are_limited(hv: Hypervisor, zero: Client, guest: Client) -> None:
    numbers = [segment(hv, zero, 1) for _ in range(4)]
    assert refused(hv, zero, Call(Op.SEGMENT_NEW, 1)) == errno.ENOSPC
    hv.call(zero, Call(Op.SEGMENT_FREE, number=numbers[0]))
    assert segment(hv, zero, 1) not in numbers, "a number is not used again at once"


def test_openings_are_limited_and_shut(hv: Hypervisor, zero: Client, guest: Client) -> None:
    number = segment(hv, zero, 1)
    openings = [hv.call(guest, Call(Op.SEGMENT_OPEN, 0, number)).number for _ in range(3)]
    assert refused(hv, guest, Call(Op.SEGMENT_OPEN, 0, number)) == errno.ENOSPC
    hv.call(guest, Call(Op.SEGMENT_SHUT, number=openings[0]))
    assert refused(hv, guest, Call(Op.SEGMENT_SHUT, number=openings[0])) == errno.ENOENT
    assert hv.call(guest, Call(Op.SEGMENT_OPEN, 0, number)).number not in openings


def test_another_connections_segment_is_not_ours(hv: Hypervisor, zero: Client, guest: Client) -> None:
    number = segment(hv, zero, 1)
    for op in (Op.SEGMENT_READY, Op.SEGMENT_FREE):
        assert refused(hv, guest, Call(op, number=number)) == errno.ENOENT
        assert refused(hv, greeted(hv, 0), Call(op, number=number)) == errno.ENOENT


def test_a_closed_connection_ends_what_it_had(hv: Hypervisor, zero: Client, guest: Client) -> None:
    number = segment(hv, zero, 1)
    port = hv.call(zero, Call(Op.EVENT_UNBOUND, 1)).number
    hv.call(guest, Call(Op.SEGMENT_OPEN, 0, number))
    hv.disconnect(zero)
    hv.disconnect(zero)
    assert not hv.domains[0].segments and not hv.domains[0].ports
    assert refused(hv, guest, Call(Op.SEGMENT_OPEN, 0, number)) == errno.EACCES
    assert refused(hv, guest, Call(Op.EVENT_BIND, 0, port)) == errno.ENOENT


def test_a_dead_domain_ends_what_was_granted_to_it(hv: Hypervisor, zero: Client, guest: Client) -> None:
    number = segment(hv, zero, 1)
    hv.destroy(1)
    assert hv.domains[0].segments[number].ended
    hv.call(zero, Call(Op.SEGMENT_FREE, number=number))
    assert not hv.domains[0].segments


def test_ports_take_the_lowest_free_number(hv: Hypervisor, zero: Client) -> None:
    numbers = [hv.call(zero, Call(Op.EVENT_UNBOUND, 1)).number for _ in range(3)]
    hv.call(zero, Call(Op.EVENT_CLOSE, number=2))
    assert numbers == [1, 2, 3]
    assert hv.call(zero, Call(Op.EVENT_UNBOUND, 1)).number == 2


def test_ports_are_limited(hv: Hypervisor, zero: Client, guest: Client) -> None:
    for _ in range(4):
        hv.call(zero, Call(Op.EVENT_UNBOUND, 1))
    assert refused(hv, zero, Call(Op.EVENT_UNBOUND, 1)) == errno.ENOSPC


def test_no_port_for_a_reserved_domid(hv: Hypervisor, zero: Client) -> None:
    assert refused(hv, zero, Call(Op.EVENT_UNBOUND, 0x7FF0)) == errno.ESRCH


def test_status_of_a_port(hv: Hypervisor, zero: Client, guest: Client) -> None:
    port = hv.call(zero, Call(Op.EVENT_UNBOUND, 1)).number
    assert hv.call(zero, Call(Op.EVENT_STATUS, number=port)) == Reply(0, 1, 0, 1)
    theirs = hv.call(guest, Call(Op.EVENT_BIND, 0, port)).number
    assert hv.call(zero, Call(Op.EVENT_STATUS, number=port)) == Reply(0, 1, theirs, 2)
    hv.call(guest, Call(Op.EVENT_CLOSE, number=theirs))
    assert hv.call(zero, Call(Op.EVENT_STATUS, number=port)) == Reply(0, 1, 0, 1)
    hv.call(zero, Call(Op.EVENT_CLOSE, number=port))
    assert hv.call(zero, Call(Op.EVENT_STATUS, number=port)).flags == 0


def test_another_connections_port_cannot_be_closed(hv: Hypervisor, zero: Client) -> None:
    port = hv.call(zero, Call(Op.EVENT_UNBOUND, 1)).number
    assert refused(hv, greeted(hv, 0), Call(Op.EVENT_CLOSE, number=port)) == errno.ENOENT


def test_a_dead_domain_leaves_its_peers_port_unbound(hv: Hypervisor, zero: Client, guest: Client) -> None:
    ours = hv.call(zero, Call(Op.EVENT_UNBOUND, 1))
    hv.call(guest, Call(Op.EVENT_BIND, 0, ours.number))
    hv.destroy(1)
    assert hv.call(zero, Call(Op.EVENT_STATUS, number=ours.number)).flags == 1
    os.eventfd_write(ours.fds[1], 1)
    assert not pending(ours.fds[0])


def test_binding_does_not_wait_for_a_counter_that_its_peer_filled(hv: Hypervisor, zero: Client, guest: Client) -> None:
    ours = hv.call(zero, Call(Op.EVENT_UNBOUND, 1))
    os.eventfd_write(ours.fds[1], 0xFFFFFFFFFFFFFFFE)
    os.set_blocking(ours.fds[1], True)
    theirs = hv.call(guest, Call(Op.EVENT_BIND, 0, ours.number))
    assert pending(theirs.fds[0])


def test_without_descriptors_a_call_is_refused(hv: Hypervisor, zero: Client, guest: Client,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left)
    monkeypatch.setattr(os, "eventfd", none_left)
    assert refused(hv, zero, Call(Op.SEGMENT_NEW, 1)) == errno.ENOSPC
    assert refused(hv, zero, Call(Op.EVENT_UNBOUND, 1)) == errno.ENOSPC
    assert not hv.domains[0].segments and not hv.domains[0].ports


def test_everything_is_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Hypervisor()
    guest = greeted(made, made.create("guest").domid)
    zero = greeted(made, 0)
    made.call(guest, Call(Op.SEGMENT_OPEN, 0, segment(made, zero, 1)))
    segment(made, guest, 0, 0)
    made.call(guest, Call(Op.EVENT_BIND, 0, made.call(zero, Call(Op.EVENT_UNBOUND, 1)).number))
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
