"""The command in processes of its own, against a real host process of the emulated Xen; and what is left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.emulated import alive
from xenpv import __version__
from xenpv.errors import NoEntryError
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.client import EmulatedDomain
from xenpv_tools.backend_control import stop_backend

Until = Callable[..., None]

STAYS = "\nimport signal; signal.pause()"


class Command:
    """`xenpv` with a run directory of its own."""

    def __init__(self, run: Path, cwd: Path) -> None:
        self.run = run
        self.cwd = cwd
        # Absolute, because the commands and the guests run elsewhere.
        paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        self.environment = {**os.environ, "XENPV_RUNDIR": str(run), "PYTHONPATH": os.pathsep.join(paths)}
        self.environment.pop("XENPV_HYPERVISOR", None)
        self.argv = [sys.executable, "-m", "xenpv_tools"]

    def __call__(self, *words: str, status: int = 0, input: bytes = b"") -> str:
        """Its stdout. With another status than 0: the one line on stderr, without ``xenpv: ``."""
        done = subprocess.run([*self.argv, *words], env=self.environment, cwd=self.cwd, input=input,
                              capture_output=True, timeout=60)
        out, err = done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode()
        assert done.returncode == status, f"{words}: {done.returncode}\n{out}\n{err}"
        if not status:
            return out
        assert err.count("\n") == 1 and err.startswith("xenpv: ") and out == "", err
        return err.removeprefix("xenpv: ").rstrip("\n")

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def python(self, name: str, text: str) -> list[str]:
        """What `xenpv_exec` may be to run `text` in a guest."""
        (self.cwd / name).write_text(text)
        return [sys.executable, str(self.cwd / name)]

    def config(self, name: str, **values: Any) -> str:
        """The name of a configuration."""
        path = self.cwd / f"{name}.cfg"
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in {"name": name, **values}.items()))
        return str(path)

    def domids(self) -> list[int]:
        """The domains that there are, as the host says it to us: a command for it is a process."""
        return [domain["domid"] for domain in host.request(self.run, "list")["domains"]]

    def node(self, path: str) -> str:
        """A node of domain 0's store, read by us; empty without it."""
        with EmulatedDomain(f"emulated:{self.run}") as zero, suppress(NoEntryError):
            return zero.store.read(path).decode()
        return ""

    def left(self) -> list[str]:
        """Processes, sockets and files of this run directory, from outside."""
        found = [str(path) for path in self.run.rglob("*")] if self.run.exists() else []
        found += [str(path) for path in Path("/dev/shm").glob(f"*{self.run.name}*")]
        found += [line for line in Path("/proc/net/unix").read_text().splitlines() if str(self.run) in line]
        own = f"XENPV_RUNDIR={self.run}".encode(), f"XENPV_HYPERVISOR=emulated:{self.run}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes().split(b"\0")
                if process.name != str(os.getpid()) and any(line.startswith(own) for line in environment):
                    found.append(f"process {process.name}: {(process / 'cmdline').read_bytes()!r}")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found


@contextmanager
def run_directory(cwd: Path) -> Iterator[Command]:
    """No emulated Xen runs yet; at the end nothing at all may be left of one."""
    run = Path(tempfile.mkdtemp(prefix="xenpv-cli-")) / "run"
    command = Command(run, cwd)
    try:
        yield command
        if run.exists():
            command("emu", "down", "-f")
        assert command.left() == []
    finally:
        if run.exists():
            subprocess.run([*command.argv, "emu", "down", "-f"], env=command.environment, cwd=cwd, capture_output=True)
        shutil.rmtree(run.parent)


@pytest.fixture
def down(tmp_path: Path) -> Iterator[Command]:
    """No emulated Xen runs yet."""
    with run_directory(tmp_path) as command:
        yield command


@pytest.fixture
def own(down: Command) -> Command:
    """An emulated Xen of the test's own runs."""
    down("emu", "up")
    return down


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    with run_directory(tmp_path_factory.mktemp("cli")) as command:
        command("emu", "up")
        yield command


@pytest.fixture
def xenpv(running: Command, tmp_path: Path) -> Iterator[Command]:
    """An emulated Xen runs, without domains and without a backend."""
    running.cwd = tmp_path
    yield running
    stop_backend(running.run)
    for domain in host.request(running.run, "list")["domains"]:
        if domain["domid"]:
            host.request(running.run, "destroy", domid=domain["domid"])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


def test_version(down: Command) -> None:
    assert down("--version") == f"xenpv {__version__}\n"


def test_up_status_down(down: Command) -> None:
    down("emu", "up")
    status = down.json("emu", "status")
    assert status["directory"] == str(down.run) and Path(status["xenstored"]).is_socket()
    assert [domain["domid"] for domain in status["domains"]] == [0]
    down("emu", "down")
    assert down.left() == [] and not down.run.exists()


def test_up_dry_starts_nothing(down: Command) -> None:
    assert str(down.run) in down("emu", "up", "-N")
    assert down.left() == []


def test_a_second_one_in_the_same_place_is_refused(xenpv: Command) -> None:
    before = xenpv.json("emu", "status")["pid"]
    assert f"already (pid {before})" in xenpv("emu", "up", status=1)
    assert xenpv.json("emu", "status")["pid"] == before


@pytest.mark.parametrize("words", [["emu", "status"], ["emu", "down"], ["list"], ["store", "ls"], ["selftest"],
                                   ["backend", "run"], ["disk", "info", "xvda"]])
def test_without_an_emulated_xen(down: Command, words: list[str]) -> None:
    assert "`xenpv emu up`" in down(*words, status=1)
    assert down.left() == []


def test_a_dead_host_process_and_one_in_its_place(own: Command, until: Until) -> None:
    pid = own.json("emu", "status")["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "the host's end")
    for words in (["list"], ["store", "ls"], ["destroy", "1"]):
        assert "`xenpv emu up`" in own(*words, status=1)
    own("emu", "up")
    assert own.domids() == [0]


def test_foreground_ends_with_sigterm(down: Command) -> None:
    with subprocess.Popen([*down.argv, "emu", "up", "--foreground", "--json"], env=down.environment, cwd=down.cwd,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        process.terminate()
        assert process.wait(20) == 0
    assert down.left() == []


def test_store(xenpv: Command) -> None:
    xenpv("store", "write", "/tool/t/text", "hello", "/tool/t/empty", "")
    assert xenpv("store", "read", "/tool/t/text") == "hello\n"
    assert xenpv("store", "read", "-p", "/tool/t/text", "/tool/t/empty") == "/tool/t/text: hello\n/tool/t/empty: \n"
    assert xenpv("store", "ls", "/tool/t") == 'empty = ""\ntext = "hello"\n'
    assert xenpv("store", "ls", "-f", "/tool/t") == '/tool/t/empty = ""\n/tool/t/text = "hello"\n'
    xenpv("store", "chmod", "/tool/t", "-r", "n0", "r7")
    assert xenpv("store", "ls", "-p", "/tool/t").splitlines()[1].endswith("(n0,r7)")
    assert xenpv.json("store", "ls", "/tool/t")[1] == {"path": "/tool/t/text", "value": "hello"}
    xenpv("store", "rm", "-t", "/tool/t/text", "/tool/t/empty")
    assert "No such file" in xenpv("store", "read", "/tool/t", status=1)


def test_a_store_that_is_run_dry_stays(xenpv: Command) -> None:
    assert "would write" in xenpv("store", "write", "-N", "/tool/x", "1")
    assert "No such file" in xenpv("store", "read", "/tool/x", status=1)


def test_a_missing_node_is_only_removed_by_force(xenpv: Command) -> None:
    assert "no such node" in xenpv("store", "rm", "/tool/none", status=1)
    assert xenpv("store", "rm", "-f", "/tool/none") == ""


def test_watch(xenpv: Command) -> None:
    assert xenpv("store", "watch", "-n", "2", "/tool", "/local") in ("/tool\n/local\n", "/local\n/tool\n")


def test_a_full_store_is_one_line(xenpv: Command) -> None:
    assert "xenstore write" in xenpv("store", "write", "/tool/large", "x" * 5000, status=1)


def test_a_domain_is_a_process_with_its_own_place(xenpv: Command, until: Until) -> None:
    script = ("from xenpv.hypervisors import open_domain\n"
              "with open_domain() as domain: domain.store.write('data/who', str(domain.domid))" + STAYS)
    xenpv("create", xenpv.config("guest", xenpv_exec=xenpv.python("guest.py", script)))
    domid = xenpv("domid", "guest").strip()
    assert xenpv("domname", domid) == "guest\n"
    until(lambda: xenpv.node(f"/local/domain/{domid}/data/who") == domid, "the guest's word")
    pid = xenpv.json("list", "guest")[0]["pid"]
    xenpv("destroy", "guest")
    assert not alive(pid) and xenpv.domids() == [0]


def test_a_paused_domain_has_no_process(xenpv: Command) -> None:
    xenpv("create", "-p", xenpv.config("guest", xenpv_exec=["sleep", "100"]))
    found = xenpv.json("list", "guest")[0]
    assert (found["state"], found["pid"]) == ("paused", None)


def test_a_program_that_is_not_there(xenpv: Command) -> None:
    assert "cannot start '/no/such'" in xenpv("create", xenpv.config("guest", xenpv_exec=["/no/such"]), status=1)
    assert xenpv.domids() == [0]


def test_one_name_twice(xenpv: Command) -> None:
    config = xenpv.config("guest")
    xenpv("create", config)
    assert "one of that name" in xenpv("create", config, status=1)


@pytest.mark.parametrize("words", [["destroy"], ["domid"], ["list"], ["block-list"], ["uptime"], ["grant", "list"]])
def test_a_domain_that_is_not_there(xenpv: Command, words: list[str]) -> None:
    assert xenpv(*words, "gone", status=1) == "there is no domain 'gone': `xenpv list` shows those that are"


@pytest.mark.parametrize(("size", "cause"), [(None, "No such file"), (1000, "not a whole number of 512")])
def test_an_image_that_cannot_be_served(xenpv: Command, image: Path, size: int | None, cause: str) -> None:
    if size is None:
        image.unlink()
    else:
        os.truncate(image, size)
    assert cause in xenpv("create", xenpv.config("guest", disk=[f"{image},raw,xvda,w"]), status=1)
    assert xenpv.domids() == [0]


def test_a_disk_there_and_back(xenpv: Command, image: Path, until: Until) -> None:
    """Two guests, each with the command itself: one fills its disk, the other one reads its own."""
    xenpv("backend", "run", "--daemon")
    (xenpv.cwd / "new").write_bytes(b"new!" * 65536)
    (xenpv.cwd / "other.img").write_bytes(b"other..." * 128)
    words = {"writer": ["cp", str(xenpv.cwd / "new"), "xvda"],
             "reader": ["cp", "--queues", "3", "xvda", str(xenpv.cwd / "copy")]}
    images = {"writer": f"{image},raw,xvda,w", "reader": f"{xenpv.cwd / 'other.img'},raw,xvda,r"}
    for name in words:
        program = [*xenpv.argv, "disk", *words[name]]
        xenpv("create", xenpv.config(name, disk=[images[name]], xenpv_exec=program))
    until(lambda: xenpv.domids() == [0], "the guests' end", seconds=30)
    assert image.read_bytes() == b"new!" * 65536 + (bytes(range(256)) * 8192)[262144:]
    assert (xenpv.cwd / "copy").read_bytes() == b"other..." * 128


def test_attach_list_look_inside_resize_detach(xenpv: Command, image: Path, until: Until) -> None:
    xenpv("backend", "run", "--daemon")
    script = ("from xenpv.hypervisors import open_domain\nfrom xenpv_frontend.disk import Disk\nimport sys, signal\n"
              "with open_domain() as domain, domain.store.watch('data/go') as watch:\n"
              "    while not domain.store.exists('data/go'): watch.wait()\n"
              "    with Disk.open(domain, 'xvdb') as disk:\n"
              "        disk.read(0, 4096)\n"
              "        domain.store.write('data/size', str(disk.size))\n"
              "        signal.pause()\n")
    xenpv("create", xenpv.config("guest", xenpv_exec=xenpv.python("guest.py", script)))
    xenpv("block-attach", "guest", f"{image},,xvdb,r")
    assert "is there already" in xenpv("block-attach", "guest", f"{image},,xvdb,r", status=1)
    domid = xenpv("domid", "guest").strip()
    xenpv("store", "write", f"/local/domain/{domid}/data/go", "")
    until(lambda: xenpv.node(f"/local/domain/{domid}/data/size"), "the guest's read")
    vbd = xenpv.json("block-list", "guest")[0]
    assert (vbd["vdev"], vbd["mode"], vbd["backend"]["connected"], vbd["target"]) == ("xvdb", "r", True, str(image))
    ring = xenpv.json("ring", "show", "guest", "xvdb")[0]
    assert ring["possible"] and ring["slots"][0]["operation"] == "READ" and ring["slots"][0]["status"] == "OKAY"
    grants = xenpv.json("grant", "list", "guest")
    assert {grant["foreign"] for grant in grants} == {0} and any(grant["mapped"] for grant in grants)
    assert [port["remote"] for port in xenpv.json("event", "list", "guest")] == [0]
    os.truncate(image, 4 << 20)
    assert xenpv.json("block-resize", "guest", "xvdb") == {"domid": int(domid), "devid": 51728, "bytes": 4 << 20}
    xenpv("block-detach", "guest", "xvdb")
    assert xenpv.json("block-list", "guest") == []
    assert "has no xvdb" in xenpv("block-detach", "guest", "xvdb", status=1)


@pytest.mark.stress
def test_a_disk_without_a_backend_leaves_no_domain(xenpv: Command, image: Path) -> None:
    process = subprocess.run([*xenpv.argv, "create", xenpv.config("guest", disk=[f"{image},,xvda"])],
                             env=xenpv.environment, cwd=xenpv.cwd, capture_output=True, text=True, timeout=60)
    assert process.returncode == 1
    assert "no backend runs" in process.stderr and "no backend took it" in process.stderr.splitlines()[-1]
    assert xenpv.domids() == [0] and "51712" not in xenpv("store", "ls", "-f", "/")


def test_one_backend_a_place_and_it_ends(xenpv: Command) -> None:
    xenpv("backend", "run", "--daemon")
    assert "already (pid" in xenpv("backend", "run", status=2)
    assert xenpv.json("backend", "status")["devices"] == 0
    xenpv("backend", "stop")
    assert "no backend runs" in xenpv("backend", "status", status=1)


DAEMON = """
import sys
from pathlib import Path
from xenpv_tools.commands.backend import _in_background
run = Path(sys.argv[1])
def serve(ready):
    (run / "begun").touch()
    try:
        while not (run / "go").exists():
            pass
        ready()
        (run / "served").touch()
    finally:
        (run / "ended").touch()
    return 0
_in_background(serve, run)
"""


def test_a_daemon_whose_starter_was_interrupted_does_not_serve(tmp_path: Path, until: Until) -> None:
    with subprocess.Popen([sys.executable, "-c", DAEMON, str(tmp_path)], stderr=subprocess.DEVNULL) as starter:
        until((tmp_path / "begun").exists, "the daemon begins")
        starter.send_signal(signal.SIGINT)
        assert starter.wait(20) != 0
    (tmp_path / "go").touch()
    until((tmp_path / "ended").exists, "the daemon ends")
    assert not (tmp_path / "served").exists()


def test_down_ends_the_backend_too(own: Command, image: Path) -> None:
    own("backend", "run", "--daemon")
    own("create", own.config("guest", disk=[f"{image},raw,xvda,w"], xenpv_exec=["sleep", "100"]))
    own("emu", "down")
    assert own.left() == []


def test_down_after_the_host_died(own: Command, image: Path, until: Until) -> None:
    own("backend", "run", "--daemon")
    own("create", own.config("guest", disk=[f"{image},raw,xvda,w"], xenpv_exec=["sleep", "100"]))
    pids = [own.json("emu", "status")["pid"], own.json("backend", "status")["pid"], own.json("list", "guest")[0]["pid"]]
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "the end of host, backend and guest")
    assert "`xenpv emu up`" in own("list", status=1)
    own("emu", "down")
    assert own.left() == []


def test_a_bad_option_of_the_backend(xenpv: Command) -> None:
    assert "engine = 'magic'" in xenpv("backend", "run", "--engine", "magic", status=2)


def test_selftest(xenpv: Command) -> None:
    results = xenpv.json("selftest", "events")
    assert results and {result["result"] for result in results} == {"pass"}
    assert xenpv.domids() == [0]


def test_doctor(xenpv: Command) -> None:
    found = {finding["name"]: finding["result"] for finding in xenpv.json("doctor")}
    assert found["core"] == found["reach it"] == "ok" and "MISSING" not in found.values()
