"""The emulated Xen as a process of its own, and domains as processes: who dies, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.emulated import alive, counts, memfds, opened
from xenpv.errors import HypervisorError
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.client import EmulatedDomain

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
Until = Callable[..., None]

MAPPER = """
import sys
from xenpv.hypervisors import open_domain
with open_domain(sys.argv[1]) as domain:
    mapped = domain.grants.map(0, [int(ref) for ref in sys.argv[2:]])
    print("mapped", flush=True)
    sys.stdin.read()
"""

GUEST = """
from xenpv.hypervisors import open_domain
with open_domain() as domain:
    domain.store.write("data/seen", domain.store.read("data/for-the-guest"))
    domain.events.bind_unbound(0)
    with domain.store.watch("data/go") as watch:
        while not domain.store.exists("data/go"):
            watch.wait()
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """The run directory of a host process that is gone afterwards, with all it had."""
    path = tmp_path / "r"
    pid = host.start(path)["pid"]
    yield path
    assert not any("/dev/shm" in name for name in opened(pid)), "memory that would outlive the process"
    try:
        host.stop(path)
    except HypervisorError:
        assert not path.exists()
    assert not alive(pid) and not path.exists()
    assert holders(path) == []
    assert memfds() == []


@pytest.fixture
def zero(run: Path) -> Iterator[EmulatedDomain]:
    with EmulatedDomain(f"emulated:{run}") as domain:
        yield domain


def holders(run: Path) -> list[str]:
    """Processes whose command line or environment names the run directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(run) in text and alive(int(entry.name)):
            found.append(entry.name)
    return found


def create(run: Path, name: str, *argv: str, **more: Any) -> dict[str, Any]:
    return host.request(run, "create", name=name, exec=list(argv), environment=ENVIRONMENT, **more)


def pid_of(run: Path, domid: int) -> int:
    return next(int(domain["pid"]) for domain in host.status(run)["domains"] if domain["domid"] == domid)


def test_status_says_where_everything_is(run: Path) -> None:
    status = host.status(run)
    assert alive(status["pid"]) and status["pid"] != os.getpid()
    assert (Path(status["xenstored"]).is_socket(), Path(status["control"]).is_socket()) == (True, True)
    assert [domain["name"] for domain in status["domains"]] == ["Domain-0"]


def test_the_host_is_nobodys_child(run: Path) -> None:
    stat = Path(f"/proc/{host.status(run)['pid']}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[1]) != os.getpid() and int(stat[3]) != os.getsid(0)


def test_a_start_that_is_interrupted_leaves_no_host(tmp_path: Path) -> None:
    run = tmp_path / "own"

    def interrupted(status: dict[str, object]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.start(run, ready=interrupted)
    assert not run.exists() and holders(run) == []


def test_a_second_host_is_refused_in_one_line(run: Path) -> None:
    with pytest.raises(HypervisorError) as caught:
        host.start(run)
    assert f"pid {host.status(run)['pid']}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_host_and_its_domains(run: Path, number: int, until: Until) -> None:
    create(run, "guest", "/bin/sleep", "1000")
    pids = [host.status(run)["pid"], pid_of(run, 1)]
    os.kill(pids[0], number)
    until(lambda: not run.exists() and not any(map(alive, pids)), "everything is gone")


def test_a_killed_host_takes_its_domains_with_it(run: Path, zero: EmulatedDomain, until: Until) -> None:
    create(run, "guest", "/bin/sleep", "1000")
    pids = [host.status(run)["pid"], pid_of(run, 1)]
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "host and guest are dead")
    for use in (lambda: zero.grants.share(0), lambda: zero.events.bind_unbound(0), lambda: host.status(run),
                lambda: open_domain(f"emulated:{run}")):
        with pytest.raises(HypervisorError) as caught:
            use()
        assert "\n" not in str(caught.value)
    again = host.start(run)
    assert [domain["domid"] for domain in again["domains"]] == [0]


def test_a_killed_client_loses_its_mappings(run: Path, zero: EmulatedDomain, until: Until) -> None:
    guest = create(run, "guest")
    shared = zero.grants.share(guest["domid"], 2)
    refs = list(shared.refs)
    with subprocess.Popen([sys.executable, "-c", MAPPER, f"emulated:{guest['directory']}", *map(str, refs)],
                          env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout and client.stdout.readline() == "mapped\n"
        shared.close()
        with zero.grants.share(guest["domid"], 2) as other:
            assert not set(other.refs) & set(refs), "a page that is mapped was used again"
        assert counts(run, 1)["openings"] == 1
        client.kill()
    until(lambda: counts(run, 1)["openings"] == 0, "the host took the mappings back")
    with zero.grants.share(guest["domid"], 2) as other:
        assert list(other.refs) == refs


def test_a_domain_is_a_process_with_its_own_directory(run: Path, zero: EmulatedDomain) -> None:
    guest = create(run, "guest", sys.executable, "-c", GUEST, paused=True)
    home = f"/local/domain/{guest['domid']}"
    zero.store.write(f"{home}/data/for-the-guest", "hello")
    with zero.store.watch(f"{home}/data/seen") as watch:
        host.request(run, "unpause", domid=guest["domid"])
        while not zero.store.exists(f"{home}/data/seen"):
            assert watch.wait(20), "the guest wrote nothing"
    assert zero.store.read(f"{home}/data/seen") == b"hello"
    zero.store.write(f"{home}/data/go", "")
    assert host.request(run, "wait", domid=guest["domid"])["status"] == 0
    assert not zero.store.exists(home)


def test_nodes_of_a_domain_are_its_own(run: Path, zero: EmulatedDomain) -> None:
    guest = create(run, "guest")
    store = zero.store
    assert (store.read("/local/domain/1/name"), store.read("/local/domain/1/domid")) == (b"guest", b"1")
    assert list(store.get_permissions("/local/domain/1")) == ["n0", "r1"]
    assert list(store.get_permissions("/local/domain/1/device")) == ["n1"]
    with open_domain(f"emulated:{guest['directory']}") as domain:
        domain.store.write("device/x", "1")
        assert domain.store.domain_path(1) == "/local/domain/1"


def test_the_end_of_a_domain_is_told(run: Path, zero: EmulatedDomain) -> None:
    with zero.store.watch("@introduceDomain") as introduced, zero.store.watch("@releaseDomain") as released:
        assert introduced.wait(5) and released.wait(5), "the first event comes at once"
        create(run, "guest", "/bin/sleep", "1000")
        assert introduced.wait(5) == "@introduceDomain"
        os.kill(pid_of(run, 1), signal.SIGKILL)
        assert released.wait(5) == "@releaseDomain"
    assert host.request(run, "wait", domid=1)["status"] == -signal.SIGKILL


def test_a_dead_domain_leaves_ports_unbound(run: Path, zero: EmulatedDomain, until: Until) -> None:
    guest = create(run, "guest")
    with open_domain(f"emulated:{guest['directory']}") as domain:
        ours = zero.events.bind_unbound(1)
        domain.events.bind_interdomain(0, ours.port)
        host.request(run, "destroy", domid=1)
        ours.notify()
    assert counts(run, 0)["ports"] == 1
    ours.close()
    assert counts(run, 0)["ports"] == 0


def test_destroy_ends_the_children_of_a_domain(run: Path, until: Until) -> None:
    create(run, "guest", "/bin/sh", "-c", "sleep 1000 & echo child $!; wait")
    log = run / "domain" / "1" / "console.log"
    until(lambda: log.read_text().startswith("child ") and log.read_text().endswith("\n"), "the child is there")
    child = int(log.read_text().split()[1])
    host.request(run, "destroy", domid=1)
    until(lambda: not alive(child), "the child is gone")
    assert [domain["domid"] for domain in host.status(run)["domains"]] == [0]


def test_a_console_is_kept_a_while(run: Path) -> None:
    directories = []
    for number in range(18):
        guest = create(run, f"guest{number}", "/bin/echo", f"hello {number}")
        host.request(run, "wait", domid=guest["domid"])
        directories.append(Path(guest["directory"]))
    assert (directories[-1] / "console.log").read_text() == "hello 17\n"
    assert not directories[0].exists() and not (directories[-1] / "xen").exists()


def test_what_cannot_start_leaves_no_domain(run: Path) -> None:
    with pytest.raises(HypervisorError, match="cannot start"):
        create(run, "guest", "/nowhere/at/all")
    assert [domain["domid"] for domain in host.status(run)["domains"]] == [0]
    assert [domain["name"] for domain in host.status(run)["ended"]] == ["guest"]
