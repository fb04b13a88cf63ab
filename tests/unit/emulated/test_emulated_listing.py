"""What the host shows of a domain's grants and ports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.emulated import domains
from xenpv.errors import HypervisorError
from xenpv.hypervisors.emulated import host, listing


def test_a_grant_is_listed_with_its_mappings(tmp_path: Path) -> None:
    with domains(tmp_path) as (granter, foreign):
        with granter.grants.share(foreign.domid, 2) as shared:
            with foreign.grants.map(granter.domid, shared.refs[:1]):
                found = host.request(tmp_path, "grants", domid=granter.domid)
                assert found["grants"] == [
                    {"domid": granter.domid, "ref": ref, "foreign": foreign.domid, "readonly": False, "mapped": mapped}
                    for ref, mapped in zip(shared.refs, (1, 0), strict=True)]
        assert host.request(tmp_path, "grants", domid=granter.domid)["grants"] == []


def test_a_read_only_grant_says_so(tmp_path: Path) -> None:
    with domains(tmp_path) as (granter, foreign):
        with granter.grants.share(foreign.domid, writable=False):
            found = host.request(tmp_path, "grants", domid=granter.domid)["grants"]
            assert [grant["readonly"] for grant in found] == [True]


def test_what_is_left_out_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "GRANTS_MAX", 3)
    with domains(tmp_path) as (granter, foreign):
        with granter.grants.share(foreign.domid, 5):
            found = host.request(tmp_path, "grants", domid=granter.domid)
            assert len(found["grants"]) == 3 and found["left_out"] == 2


def test_ports_are_listed_with_their_peers(tmp_path: Path) -> None:
    with domains(tmp_path) as (first, second):
        with first.events.bind_unbound(second.domid) as ours:
            unbound = host.request(tmp_path, "ports", domid=first.domid)["ports"]
            assert unbound == [{"domid": first.domid, "port": ours.port, "status": "unbound", "remote": second.domid,
                                "remote_port": None, "pending": False}]
            with second.events.bind_interdomain(first.domid, ours.port) as theirs:
                theirs.notify()
                bound = host.request(tmp_path, "ports", domid=first.domid)["ports"]
                assert bound == [{"domid": first.domid, "port": ours.port, "status": "interdomain",
                                  "remote": second.domid, "remote_port": theirs.port, "pending": True}]


def test_a_domain_that_is_not_there_has_no_list(tmp_path: Path) -> None:
    with domains(tmp_path):
        with pytest.raises(HypervisorError, match="no domain 77"):
            host.request(tmp_path, "grants", domid=77)
