"""Run directories, URIs, and who may have what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.emulated import domains
from xenpv.errors import HypervisorError, UsageError
from xenpv.hypervisors import default_uri, open_domain
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.rundir import Lock, RunDirectory, default_directory, domain_directory


def test_the_environment_names_the_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XENPV_RUNDIR", str(tmp_path))
    assert default_directory() == tmp_path


def test_root_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENPV_RUNDIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == Path("/run/xenpv")


def test_a_user_has_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENPV_RUNDIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_directory() == Path("/run/user/1000/xenpv")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(UsageError):
        default_directory()


def test_the_directory_is_made_for_its_owner(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.create()
    run.create()
    assert run.path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(HypervisorError, match="chmod 700"):
        RunDirectory(tmp_path).create()


def test_a_directory_of_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(HypervisorError, match="belongs to user"):
        RunDirectory(tmp_path).create()


def test_a_name_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        RunDirectory(tmp_path / ("x" * 100))


def test_the_lock_names_its_holder_and_goes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.create()
    lock = Lock(run)
    with pytest.raises(HypervisorError, match=rf"pid {os.getpid()}\b"):
        Lock(run)
    lock.release()
    assert not run.path.exists()


def test_a_second_host_is_refused(tmp_path: Path) -> None:
    with host.running(tmp_path / "r"), pytest.raises(HypervisorError, match=f"pid {os.getpid()}"):
        host.start(tmp_path / "r", foreground=True)


def test_left_over_sockets_are_replaced(tmp_path: Path) -> None:
    left = tmp_path / "r" / "domain" / "5"
    left.mkdir(parents=True)
    (tmp_path / "r").chmod(0o700)
    (left / "xen").touch()
    (tmp_path / "r" / "control").touch()
    (tmp_path / "r" / "lock").write_text("1\n")
    with host.running(tmp_path / "r"):
        assert [domain["domid"] for domain in host.status(tmp_path / "r")["domains"]] == [0]
        assert not left.exists()
    assert not (tmp_path / "r").exists()


def test_stop_removes_what_a_killed_host_left(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.create()
    run.domain(0).mkdir(parents=True)
    run.lock.write_text("1\n")
    host.stop(run.path)
    assert not run.path.exists()


def test_other_files_in_the_directory_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "mine").write_text("x")
    with host.running(tmp_path):
        assert host.status(tmp_path)["directory"] == str(tmp_path)
    assert os.listdir(tmp_path) == ["mine"]


def test_uris_of_domains(tmp_path: Path) -> None:
    with domains(tmp_path / "r", 1) as (guest,):
        run = tmp_path / "r"
        assert domain_directory(f"emulated:{run}") == run / "domain" / "0"
        assert domain_directory(f"emulated:{run}#1") == run / "domain" / "1"
        assert domain_directory(f"emulated:{guest.directory}") == guest.directory
        with pytest.raises(HypervisorError, match="no domain 2"):
            domain_directory(f"emulated:{run}#2")


@pytest.mark.parametrize("uri", ["emulated", "xen:", "emulated:/x#", "emulated:/x#y", "emulated:/x#-1"])
def test_uris_that_are_none(uri: str) -> None:
    with pytest.raises(UsageError):
        domain_directory(uri)


@pytest.mark.parametrize("uri", ["", "emulated", "kvm:", "/run/xenpv"])
def test_unknown_hypervisors_are_a_usage_error(uri: str) -> None:
    with pytest.raises(UsageError):
        open_domain(uri)


def test_no_host_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HypervisorError, match="xenpv emu up"):
        open_domain(f"emulated:{tmp_path}")
    for use in (host.status, host.stop):
        with pytest.raises(HypervisorError, match="xenpv emu up"):
            use(tmp_path)


def test_the_default_hypervisor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XENPV_RUNDIR", str(tmp_path))
    monkeypatch.setenv("XENPV_HYPERVISOR", "emulated:/somewhere#3")
    assert default_uri() == "emulated:/somewhere#3"
    monkeypatch.delenv("XENPV_HYPERVISOR")
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert default_uri() == f"emulated:{tmp_path}"
    monkeypatch.setattr(Path, "exists", lambda path: path == Path("/dev/xen"))
    assert default_uri() == "xen:"


def test_real_xen_is_refused_in_one_line() -> None:
    with pytest.raises(HypervisorError, match="emulated:"):
        open_domain("xen:")
