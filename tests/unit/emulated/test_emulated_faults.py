"""Faults on purpose strike where and when they were told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.emulated import domains
from xenpv.errors import EventChannelError, GrantError, HypervisorError
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.faults import Fault, Faults


def test_the_nth_map_fails_with_the_status(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("map", 1, skip=2, times=2, status=-12))) as (granter, foreign):
        with granter.grants.share(foreign.domid) as shared:
            statuses = []
            for _ in range(6):
                try:
                    foreign.grants.map(granter.domid, shared.refs).close()
                    statuses.append(0)
                except GrantError as error:
                    statuses.append(error.status)
    assert statuses == [0, 0, -12, -12, 0, 0]


def test_a_struck_map_leaves_nothing_mapped(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("map", 1, skip=1))) as (granter, foreign):
        shared = granter.grants.share(foreign.domid, 3)
        refs = shared.refs
        with pytest.raises(GrantError):
            foreign.grants.map(granter.domid, refs)
        shared.close()
        with granter.grants.share(foreign.domid, 3) as again:
            assert again.refs == refs


def test_maps_of_segments_that_are_there_can_be_struck(tmp_path: Path) -> None:
    with domains(tmp_path / "r") as (granter, foreign), granter.grants.share(foreign.domid) as shared:
        host.request(tmp_path / "r", "fault", kind="map", domid=1, status=-3)
        with pytest.raises(GrantError) as caught:
            foreign.grants.map(granter.domid, shared.refs)
        foreign.grants.map(granter.domid, shared.refs).close()
    assert caught.value.status == -3


def test_sharing_can_have_no_space(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("share", 1, times=1))) as (granter, foreign):
        with pytest.raises(GrantError) as caught:
            granter.grants.share(foreign.domid)
        granter.grants.share(foreign.domid).close()
    assert caught.value.status == -13


def test_binding_can_be_refused(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("bind", 2))) as (first, second):
        with first.events.bind_unbound(second.domid) as ours:
            with pytest.raises(EventChannelError):
                second.events.bind_interdomain(first.domid, ours.port)
            assert second.events.bind_interdomain(first.domid, ours.port).port


def test_a_notification_can_be_lost(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("notify", 1, skip=1, times=1))) as (first, second):
        ours = first.events.bind_unbound(second.domid)
        theirs = second.events.bind_interdomain(first.domid, ours.port)
        assert theirs.wait(5)
        arrived = []
        for _ in range(3):
            theirs.unmask()
            ours.notify()
            host.status(tmp_path / "r")  # one turn of the host's loop has seen it
            host.status(tmp_path / "r")
            arrived.append(theirs.wait(0))
        assert arrived == [True, False, True]
        theirs.notify()
        assert ours.wait(5), "the other direction is whole"


def test_a_notification_can_be_held(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("notify", 1, hold=True))) as (first, second):
        ours = first.events.bind_unbound(second.domid)
        theirs = second.events.bind_interdomain(first.domid, ours.port)
        assert theirs.wait(5)
        theirs.unmask()
        ours.notify()
        host.status(tmp_path / "r")
        host.status(tmp_path / "r")
        assert not theirs.wait(0)
        assert host.request(tmp_path / "r", "faults", action="release")["released"] == 1
        assert theirs.wait(5)


def test_channels_without_a_fault_do_not_pass_the_host(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("notify", 7))) as (first, second):
        ours = first.events.bind_unbound(second.domid)
        theirs = second.events.bind_interdomain(first.domid, ours.port)
        assert theirs.wait(0), "binding and taking need no turn of the host's loop"
        theirs.unmask()
        ours.notify()
        assert theirs.wait(0)


def test_relayed_channels_come_and_go(tmp_path: Path) -> None:
    with domains(tmp_path / "r", faults=Faults(Fault("notify", 1, times=0))) as (first, second):
        for _ in range(5):
            with first.events.bind_unbound(second.domid) as ours:
                with second.events.bind_interdomain(first.domid, ours.port) as theirs:
                    assert theirs.wait(5)
                    ours.notify()
        assert len(host.status(tmp_path / "r")["domains"]) == 3


@pytest.mark.parametrize("fault", [
    {"kind": "none", "domid": 1}, {"kind": "map"}, {"kind": "map", "domid": -1}, {"kind": "map", "domid": True},
    {"kind": "map", "domid": 1, "skip": "1"}, {"kind": "map", "domid": 1, "times": 65536},
    {"kind": "map", "domid": 1, "status": 0},
])
def test_a_fault_that_cannot_be_is_refused(tmp_path: Path, fault: dict[str, object]) -> None:
    with host.running(tmp_path / "r"), pytest.raises(HypervisorError) as caught:
        host.request(tmp_path / "r", "fault", **fault)
    assert "\n" not in str(caught.value)
