"""xenpv's verbs that look, in dom0 of a real Xen."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.xenhost.conftest import Guest
from tests.xenhost.shell import run
from tests.xenhost.stock import kernel_disk
from xenpv.hypervisors import open_domain
from xenpv_tools.demo.run import run_demo


def shown(*words: str) -> Any:
    """What a verb shows with --json."""
    return json.loads(run("xenpv", *words, "--json"))


def test_selftest_passes() -> None:
    results = shown("selftest")
    assert len(results) > 50
    assert not [result for result in results if result["result"] != "pass"]


def test_info_names_xen() -> None:
    found = shown("info")
    assert found["hypervisor"] == "xen:"
    assert found["xen_version"].startswith("4.")


def test_event_list_shows_a_channel() -> None:
    with open_domain("xen:") as dom0, dom0.events.bind_unbound(0) as ours, \
            dom0.events.bind_interdomain(0, ours.port) as theirs:
        found = {port["port"]: port for port in shown("event", "list", "0")}
        assert found[ours.port] == {"domid": 0, "port": ours.port, "status": "interdomain", "remote": 0,
                                    "remote_port": theirs.port, "pending": None}
        assert found[theirs.port]["remote_port"] == ours.port
        assert "interdomain" in run("xenpv", "event", "list", "Domain-0")


def test_grant_list_shows_what_is_mapped() -> None:
    with open_domain("xen:") as dom0, dom0.grants.share(0, 2, writable=False) as shared:
        with dom0.grants.map(0, shared.refs[:1], writable=False):
            found = {grant["ref"]: grant for grant in shown("grant", "list", "0")}
            # Twice in a PV domain: Linux's gntdev maps a page for the process and once more for the kernel.
            assert found[shared.refs[0]].pop("mapped") in (1, 2)
            assert found[shared.refs[0]] == {"domid": 0, "ref": shared.refs[0], "foreign": 0, "readonly": True}
            assert shared.refs[1] not in found
        assert shared.refs[0] not in {grant["ref"] for grant in shown("grant", "list", "0")}


def test_store_verbs() -> None:
    path = "/local/domain/0/data/xenpv-store"
    run("xenpv", "store", "write", path, "value")
    assert run("xenpv", "store", "read", path) == "value\n"
    assert run("xenstore-read", path) == "value\n"
    assert f'{path} = "value"' in run("xenpv", "store", "ls", "-f", "/local/domain/0/data")
    run("xenpv", "store", "chmod", path, "n0", "r1")
    assert "(n0,r1)" in run("xenpv", "store", "ls", "-p", "/local/domain/0/data")
    run("xenpv", "store", "rm", path)
    assert subprocess.run(["xenstore-exists", path]).returncode == 1


@pytest.mark.parametrize(("words", "cause"), [
    (["emu", "status"], "`xenpv emu up`"),
    (["grant", "list", "nobody"], "there is no domain 'nobody'"),
    (["event", "list", "nobody"], "there is no domain 'nobody'"),
    (["ring", "show", "0", "xvda"], "has no xvda"),
    (["disk", "info", "xvda"], "has no disk xvda"),
    (["store", "read", "/none"], "No such file"),
])
def test_a_failure_is_one_line(words: list[str], cause: str) -> None:
    done = subprocess.run(["xenpv", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert cause in done.stderr


def test_doctor_misses_nothing() -> None:
    assert not [finding for finding in shown("doctor") if finding["result"] == "MISSING"]


def test_the_demo_is_the_emulated_xens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its guests and disks. It would also count notifications, for minutes under this host's emulation of a CPU."""
    image = tmp_path / "small.img"
    image.write_bytes(bytes(range(256)) * 4096)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("xenpv_tools.demo.run.count_notifications", lambda *args, **more: {"loads": [
        {"mode": mode, "spin_us": spin, "notifications_per_1000": 1, "rescues": 0}
        for mode in ("flag", "event_index") for spin in (0, 1)]})
    assert run_demo(image, print)["ok"]


def test_a_guests_events_and_grants(guest: Callable[..., Guest], until: Callable[..., None]) -> None:
    """A stock guest's disk: its ring's port and grants."""
    made = guest("looked-at", "sleep 600", [kernel_disk("/dev/vdd", "xvda", "ro")])
    made.wait("guest: up")
    node = f"/local/domain/0/backend/vbd/{made.domid}/51712/state"
    until(lambda: run("xenstore-read", node) == "4\n", "the guest's disk is connected")
    port = int(run("xenstore-read", f"/local/domain/{made.domid}/device/vbd/51712/event-channel"))
    ref = int(run("xenstore-read", f"/local/domain/{made.domid}/device/vbd/51712/ring-ref"))
    ports = {found["port"]: found for found in shown("event", "list", made.name)}
    assert (ports[port]["status"], ports[port]["remote"]) == ("interdomain", 0)
    grants = {found["ref"]: found for found in shown("grant", "list", made.name)}
    assert grants[ref] == {"domid": made.domid, "ref": ref, "foreign": 0, "readonly": False, "mapped": 1}
