"""`xenpv top`, `record`, `plot` and `exporter` as people start them, beside a real backend; top on a terminal of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.test_cli import STAYS, Command, run_directory
from tests.support.screen import Screen
from tests.support.threads import signal_another_thread

TIOCGPTN = 0x80045430
"""Which pseudo-terminal it is (asm-generic/ioctls.h)."""

Condition = Callable[[list[str]], bool]


class Top:
    """The program, on a pseudo-terminal that is its controlling one."""

    def __init__(self, xenpv: Command, *words: str, columns: int = 120, lines: int = 12) -> None:
        self.screen = Screen(columns, lines)
        argv = [*xenpv.argv, "top", "-i", "0.1", *words]
        told, tell = os.pipe()
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.read(told, 1)  # until the terminal is as it is to be
            os.environ.update(xenpv.environment, TERM="xterm")
            os.chdir(xenpv.cwd)
            os.execv(argv[0], argv)
        self.resize(columns, lines)
        self.settings = termios.tcgetattr(self.master)
        os.write(tell, b"!")
        os.close(told)
        os.close(tell)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(columns, lines)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: it has ended
            return False
        self.screen.feed(data)
        return bool(data)

    def until(self, condition: Condition, what: str) -> None:
        deadline = time.monotonic() + 20
        while not condition(self.screen.lines()):
            assert self._read(max(deadline - time.monotonic(), 0)) and time.monotonic() < deadline, (
                f"never seen: {what}; but " + "\n".join(self.screen.lines()))

    def end(self) -> int:
        """Its exit status; what it wrote until then has been read."""
        while self._read(20):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture(scope="module")
def xenpv(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """An emulated Xen with one guest, two disks of which it uses one, and a backend."""
    cwd = tmp_path_factory.mktemp("top")
    for name in ("a.img", "b.img"):
        (cwd / name).write_bytes(bytes(1 << 20))
    with run_directory(cwd) as command:
        command("emu", "up")
        command("backend", "run", "--profile", "us", "--daemon")
        command("create", command.config("guest", disk=[f"{cwd}/{name}.img,raw,xvd{name},w" for name in "ab"],
                                         xenpv_exec=command.python("stays.py", STAYS)))
        yield command
        if (command.run / "backend" / "control").exists():
            command("backend", "stop")


@pytest.fixture
def connected(xenpv: Command, tmp_path: Path) -> Iterator[Command]:
    """A guest's process keeps xvda connected and reads it again and again."""
    program = xenpv.python("reads.py", "\nfrom xenpv.hypervisors import open_domain\nfrom xenpv_frontend.disk import Disk\n"
                           "with open_domain() as domain, Disk.open(domain, 'xvda') as disk:\n"
                           "    print('connected', flush=True)\n"
                           "    while True:\n        disk.read(0, 4096)\n")
    process = subprocess.Popen(program, env={**xenpv.environment, "XENPV_HYPERVISOR": f"emulated:{xenpv.run}#1"},
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and process.stdout.readline() == b"connected\n"
    yield xenpv
    process.kill()
    process.communicate()


@pytest.fixture
def top(connected: Command) -> Iterator[Top]:
    made = Top(connected)
    yield made
    made.close()


def row(lines: list[str]) -> list[str]:
    return lines[2].split()


def served(lines: list[str]) -> bool:
    """A row with rates: domain, name, disk, reads."""
    return row(lines)[:3] == ["1", "guest", "xvda"] and row(lines)[3:4] not in (["new"], ["0"], ["no"], [])


def test_reads_are_seen_and_q_ends_it(top: Top) -> None:
    top.until(served, "a vbd that is read")
    assert top.screen.alternate and not top.screen.cursor
    top.type(b"q")
    assert top.end() == 0
    assert (top.screen.alternate, top.screen.cursor) == (False, True)


def test_the_settings_are_given_back(connected: Command) -> None:
    """Asked of a terminal whose other end a shell would still have."""
    top = Top(connected)
    number, = struct.unpack("I", fcntl.ioctl(top.master, TIOCGPTN, bytes(4)))
    keeper = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY)
    try:
        top.until(served, "a vbd that is read")
        assert termios.tcgetattr(keeper) != top.settings
        top.type(b"\x03")
        top.until(lambda lines: not top.screen.alternate, "the screen that was there before")
        assert os.waitstatus_to_exitcode(os.waitpid(top.pid, 0)[1]) == 130
        assert termios.tcgetattr(keeper) == top.settings
    finally:
        os.close(keeper)
        top.close()


def test_another_size(top: Top) -> None:
    top.until(served, "a vbd that is read")
    top.resize(60, 6)
    top.until(lambda lines: "r/s" in lines[1] and "ntf/s" not in lines[1] and row(lines)[:2] == ["1", "xvda"],
              "fewer columns")
    top.type(b"q")
    assert top.end() == 0


def test_sigterm(top: Top) -> None:
    top.until(served, "a vbd that is read")
    os.kill(top.pid, signal.SIGTERM)
    assert top.end() == 128 + signal.SIGTERM
    assert not top.screen.alternate and top.screen.cursor


def test_batch(connected: Command) -> None:
    said = connected("top", "--batch", "-n", "2", "-i", "0.1").splitlines()
    assert [line.split()[:3] for line in said if "xvda" in line] == [["1", "guest", "xvda"]] * 2


def test_batch_in_json(connected: Command) -> None:
    first, second = (json.loads(line) for line in connected("top", "guest", "xvda", "-b", "-n", "2", "-i", "0.1",
                                                            "--json").splitlines())
    assert first["vbds"][0]["name"] == "guest" and second["vbds"][0]["reads_per_second"] > 0


def test_times_are_there(connected: Command) -> None:
    said = json.loads(connected("top", "-n", "1", "-i", "0.2", "--json"))["vbds"][0]
    assert 0 < said["service_p50_ns"][1] <= said["service_p99_ns"][1] and said["resolution_ns"] == 1000
    assert said["total_p99_ns"] is None  # nothing is stamped


def test_a_recording_and_its_picture(connected: Command) -> None:
    connected("record", "guest", "xvda", "-o", "a.rec", "-i", "0.1", "--seconds", "0.35")
    assert "-f overwrites" in connected("record", "guest", "xvda", "-o", "a.rec", status=2)
    connected("plot", "a.rec")
    assert "service: fetch to response" in (connected.cwd / "a.rec.svg").read_text()
    connected("plot", "a.rec", "-o", "a.html", "--operation", "read", "--stage", "stored", "--title", "mine")
    assert "mine" in (connected.cwd / "a.html").read_text()
    assert ".svg, .html, .png" in connected("plot", "a.rec", "-o", "a.gif", status=2)
    assert "is no recording" in connected("plot", "a.html", status=2)


def test_ctrl_c_ends_a_recording_well(connected: Command) -> None:
    with subprocess.Popen([*connected.argv, "record", "guest", "xvda", "-f", "-o", "b.rec", "-i", "0.05"],
                          env=connected.environment, cwd=connected.cwd, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        deadline, path = time.monotonic() + 20, connected.cwd / "b.rec"
        while not (path.exists() and path.read_bytes().count(b"\n") > 2):
            assert time.monotonic() < deadline and process.poll() is None
            select.select([], [], [], 0.01)
        process.send_signal(signal.SIGINT)
        assert "`xenpv plot b.rec`" in process.stderr.read() and process.wait() == 0


def test_recording_what_is_not_connected(xenpv: Command) -> None:
    assert "has not connected the disk" in xenpv("record", "guest", "xvdb", "-o", "c.rec", status=1)
    assert not (xenpv.cwd / "c.rec").exists()


def test_without_a_terminal_it_says_batch(xenpv: Command) -> None:
    assert "--batch" in xenpv("top", status=2)


def test_count_is_for_batch(xenpv: Command) -> None:
    assert "--batch" in xenpv("top", "-n", "1", status=2)


def test_another_domain(xenpv: Command) -> None:
    assert "no domain" in xenpv("top", "nobody", "--batch", status=1)


def test_a_backend_that_is_killed_and_comes_back(top: Top, connected: Command) -> None:
    top.until(served, "a vbd that is read")
    pid = json.loads(connected("backend", "status", "--json"))["pid"]
    os.kill(pid, signal.SIGKILL)
    top.until(lambda lines: "no backend" in lines[2] and "no backend runs" in lines[0], "that the backend has gone")
    connected("backend", "run", "--profile", "us", "--daemon")
    top.until(served, "the disk served again")
    top.type(b"q")
    assert top.end() == 0


def test_the_exporter(connected: Command) -> None:
    with subprocess.Popen([*connected.argv, "exporter", "--listen", "127.0.0.1:0"], env=connected.environment,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        with urllib.request.urlopen(line.split()[-1], timeout=20) as answer:
            said = answer.read().decode()
        signal_another_thread(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0 and process.stderr.read() == ""
    assert 'xenpv_vbd_service_seconds_bucket{devid="51712",domid="1"' in said
    assert "xenpv_backend_up 1.0" in connected("exporter", "--once")
