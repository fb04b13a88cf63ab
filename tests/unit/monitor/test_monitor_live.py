"""`xenpv top` on a pseudo-terminal, with time as a parameter: what is seen, and that the terminal is given back."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.backend_files import BackendFiles, latency_of
from tests.support.screen import Screen
from xenpv.errors import UsageError
from xenpv_tools.monitor.live import Clock, Monitor, run_batch, run_live
from xenpv_tools.monitor.source import Reading, read_all
from xenpv_tools.monitor.terminal import Terminal
from xenpv_tools.monitor.view import View


class Pty:
    """A pseudo-terminal; a thread reads what is written to it."""

    def __init__(self, columns: int = 110, lines: int = 10) -> None:
        self.master, self.slave = os.openpty()
        self.resize(columns, lines)
        self.settings = termios.tcgetattr(self.slave)
        self.output = b""
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        with suppress(OSError):  # EIO: the slave was closed
            while data := os.read(self.master, 65536):
                self.output += data

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        """They can be read when it returns."""
        os.write(self.master, keys)
        assert select.select([self.slave], [], [], 10)[0]

    def close(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
            self._thread.join()
            os.close(self.master)

    def screen(self, columns: int = 110, lines: int = 10) -> Screen:
        """What all that was written leaves; the terminal is closed by that."""
        self.close()
        screen = Screen(columns, lines)
        screen.feed(self.output)
        return screen


@pytest.fixture
def pty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pty]:
    monkeypatch.setenv("TERM", "xterm")
    made = Pty()
    yield made
    made.close()


class Time:
    """A second passes with each wait for a key; `then` happens after it, one after the other."""

    def __init__(self, *then: Callable[[], object]) -> None:
        self.now = 100.0
        self.then = list(then)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: 1_700_000_000 + self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.then:
            self.then.pop(0)()


class Waited(Terminal):
    """Waiting for a key takes `time`'s time, and none of ours; keys are those that `time` has typed."""

    time: Time
    frames: list[list[str]]

    def draw(self, lines: list[str]) -> None:  # type: ignore[override]
        self.frames.append(lines)
        super().draw(lines)

    def key(self, timeout: float) -> str | None:
        self.time.sleep(timeout)
        return super().key(5 if not self.time.then else 0)


@pytest.fixture
def files(tmp_path: Path) -> BackendFiles:
    made = BackendFiles(tmp_path, pid=os.getppid())
    made.put(requests_read=100)
    return made


def monitor(files: BackendFiles, time: Time, **more: object) -> Monitor:
    return Monitor(partial(read_all, files.run), View("emulated:/r", 1.0), time.clock(), **more)  # type: ignore[arg-type]


def live(pty: Pty, files: BackendFiles, *then: Callable[[], object]) -> list[list[str]]:
    """Every frame; `then` is what happens between them."""
    time = Time(*then)
    with Waited(pty.slave, pty.slave) as terminal:
        terminal.time, terminal.frames = time, []
        run_live(monitor(files, time), terminal)
        return terminal.frames


def shown(frame: list[str], line: int = 2) -> list[str]:
    return frame[line].split()


def test_what_is_seen(pty: Pty, files: BackendFiles) -> None:
    frames = live(pty, files, lambda: files.put(requests_read=150, latency=latency_of(10)), lambda: pty.type(b"q"))
    assert shown(frames[0]) == ["1", "xvda", "new"]
    assert shown(frames[1])[:3] == ["1", "xvda", "100"]  # fifty in the half second before the second look


def test_the_terminal_is_as_it_was(pty: Pty, files: BackendFiles) -> None:
    live(pty, files, lambda: pty.type(b"q"))
    assert termios.tcgetattr(pty.slave) == pty.settings
    screen = pty.screen()
    assert (screen.alternate, screen.cursor, screen.frames) == (False, True, 1)


def test_lines_on_the_screen(pty: Pty, files: BackendFiles) -> None:
    def more() -> None:
        files.put(requests_read=150, in_flight=3)
        pty.type(b"h")

    live(pty, files, more, lambda: pty.type(b"q"))
    lines = pty.screen().lines()
    assert lines[0].startswith("xenpv top ") and f"backend pid {os.getppid()}  1 vbd  every 1 s  by vbd" in lines[0]
    assert lines[1].split()[:3] == ["ID", "VDEV", "r/s"] and lines[2].split()[:3] == ["1", "xvda", "100"]
    assert lines[3:-1] == [""] * 6 and lines[-1].startswith("q quit")


def test_ctrl_c_gives_the_terminal_back(pty: Pty, files: BackendFiles) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live(pty, files, lambda: None, interrupt)
    assert termios.tcgetattr(pty.slave) == pty.settings
    assert not pty.screen().alternate


def test_signal_handlers_are_given_back(pty: Pty, files: BackendFiles) -> None:
    numbers = (signal.SIGWINCH, signal.SIGTSTP)
    before = [signal.getsignal(number) for number in numbers]
    live(pty, files, lambda: pty.type(b"q"))
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_stopped_and_going_on(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[object] = []

    def stop(pid: int, number: int) -> None:
        stopped.append((number, signal.getsignal(number), termios.tcgetattr(pty.slave) == pty.settings))

    with Terminal(pty.slave, pty.slave):
        handler = signal.getsignal(signal.SIGTSTP)
        assert callable(handler)
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", stop)
            handler(signal.SIGTSTP, None)
        assert stopped == [(signal.SIGTSTP, signal.SIG_DFL, True)]
        assert signal.getsignal(signal.SIGTSTP) == handler and termios.tcgetattr(pty.slave) != pty.settings
    screen = pty.screen()
    assert not screen.alternate and pty.output.count(b"?1049h") == pty.output.count(b"?1049l") == 2


def test_a_terminal_that_is_resized(pty: Pty, files: BackendFiles) -> None:
    def smaller() -> None:
        pty.resize(30, 4)
        os.kill(os.getpid(), signal.SIGWINCH)

    frames = live(pty, files, smaller, lambda: pty.type(b"q"))
    assert len(frames[0]) == 10 and len(frames[1]) == 4
    assert all(len(line) < 30 + len("\033[7m\033[0m") for line in frames[1])


def test_vbds_come_and_go(pty: Pty, files: BackendFiles) -> None:
    frames = live(pty, files, lambda: files.put(domid=2, requests_read=7), lambda: files.remove(domid=1),
                  lambda: files.remove(domid=2), lambda: pty.type(b"q"))
    assert [shown(frames[1], line)[:2] for line in (2, 3)] == [["1", "xvda"], ["2", "xvda"]]
    assert shown(frames[1], 3) == ["2", "xvda", "new"] and shown(frames[2])[0] == "2" and frames[2][3] == ""
    assert frames[3][2] == "no vbd is served here yet"


def test_a_backend_that_restarts(pty: Pty, files: BackendFiles) -> None:
    def again() -> None:
        files.start(os.getppid())
        files.put(requests_read=5)

    frames = live(pty, files, files.end, again, lambda: files.put(requests_read=8), lambda: pty.type(b"q"))
    assert "no backend runs" in frames[1][0] and shown(frames[1]) == ["1", "xvda", "no", "backend"]
    assert shown(frames[2]) == ["1", "xvda", "new", "ring"]
    assert shown(frames[3])[:3] == ["1", "xvda", "3.0"]


def test_keys_that_come_together_or_in_pieces(pty: Pty, files: BackendFiles) -> None:
    frames = live(pty, files, lambda: pty.type(b"\033[C\033[CR"), lambda: None, lambda: None, lambda: pty.type(b"\033[15~q"),
                  lambda: pty.type(b"q"))
    assert "by writes, reversed" in frames[3][0]


def test_a_terminal_that_goes_away_ends_it(pty: Pty) -> None:
    master, slave = os.openpty()
    with Terminal(slave, pty.slave) as terminal:
        os.close(master)
        assert terminal.key(5) == "eof"
    os.close(slave)


def test_not_a_terminal(tmp_path: Path, pty: Pty) -> None:
    with open(tmp_path / "file", "w+") as file, pytest.raises(UsageError, match="--batch"):
        Terminal(pty.slave, file.fileno())


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_move_its_cursor(pty: Pty, monkeypatch: pytest.MonkeyPatch, term: str | None) -> None:
    monkeypatch.setenv("TERM", term) if term else monkeypatch.delenv("TERM")
    with pytest.raises(UsageError, match="--batch"):
        Terminal(pty.slave, pty.slave)


def test_batch_writes_intervals(files: BackendFiles) -> None:
    written: list[str] = []
    time = Time(lambda: files.put(requests_read=130), lambda: files.put(requests_read=170))
    run_batch(monitor(files, time), written.append, count=2, as_json=False)
    assert [text.splitlines()[2].split()[2] for text in written] == ["30", "40"]


def test_batch_in_json(files: BackendFiles) -> None:
    written: list[str] = []
    run_batch(monitor(files, Time(lambda: files.put(requests_read=130))), written.append, count=1, as_json=True)
    said = json.loads(written[0])
    assert (said["time"], said["vbds"][0]["reads_per_second"]) == (1_700_000_101, 30)


def test_only_what_is_wanted(files: BackendFiles) -> None:
    files.put(domid=2)
    watched = monitor(files, Time(), wanted=lambda vbd: vbd[0] == 2)
    watched.look()
    assert [row.domid for row in watched.view.sorted_rows()] == [2]


def test_names_are_asked_for_when_a_domain_is_new() -> None:
    asked: list[int] = []
    readings = iter([Reading(), Reading(1, {}), Reading()])
    watched = Monitor(lambda: next(readings), View("x", 1.0), Time().clock(), names=lambda: asked.append(1) or {})
    for _ in range(3):
        watched.look()
    assert asked == []
