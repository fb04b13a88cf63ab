"""`xenpv demo` as a user runs it: what it says, what it proves, and that nothing is left, also after Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

MIB = 1 << 20
# The command, but for how long its loads run: what they measure is not judged here.
SHORT = """
import sys
from xenpv_tools.__main__ import main
from xenpv_tools.demo import run
run._NOTIFY_SECONDS, run._NOTIFY_RUNS = 0.05, 1
sys.exit(main())
"""


def processes_of(environment_mark: str) -> list[int]:
    """Processes whose environment holds `environment_mark`: all that the demo started inherit it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if environment_mark.encode() in environment:
            found.append(int(entry.name))
    return found


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    return f"XENPV_TEST={request.node.name}-{os.getpid()}"


def demo(mark: str, *arguments: str) -> subprocess.Popen[str]:
    name, _, value = mark.partition("=")
    return subprocess.Popen([sys.executable, "-c", SHORT, "demo", *arguments], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | {name: value})


def left_by(pid: int) -> list[Path]:
    """What the demo in process `pid` left of its directory."""
    return [path for parent in ("/dev/shm", tempfile.gettempdir()) for path in Path(parent).glob(f"xenpv-demo-{pid}-*")]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(5).randbytes(8 * MIB + 512))
    return path


def test_both_guests_read_and_write_every_byte(image: Path, mark: str) -> None:
    content = image.read_bytes()
    process = demo(mark, "--json", str(image))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = json.loads(output)
    digest = hashlib.sha256(content).hexdigest()
    assert [guest["name"] for guest in found["guests"]] == ["guest1", "guest2"]
    for guest in found["guests"]:
        assert guest["bytes"] == len(content)
        assert guest["sha256"] == guest["expected_sha256"] == digest
        assert guest["written_sha256"] == guest["expected_written_sha256"] == digest
    assert found["rescues"] == 0
    assert set(found["notifications_per_1000"]) == {"flag", "event_index", "flag_no_spin", "event_index_no_spin"}
    assert image.read_bytes() == content
    assert processes_of(mark) == []
    assert left_by(process.pid) == []


@pytest.mark.parametrize("make, words", [
    (lambda path: None, "No such file or directory"),
    (lambda path: path.write_bytes(bytes(1000)), "not a multiple of the sector size"),
    (lambda path: path.write_bytes(b""), "is empty"),
    (lambda path: path.mkdir(), "Is a directory"),
], ids=["missing", "odd size", "empty", "directory"])
def test_bad_image_is_one_line(tmp_path: Path, mark: str, make: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "bad.img"
    make(path)
    process = demo(mark, str(path))
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert output == ""
    assert len(errors.splitlines()) == 1 and words in errors
    assert processes_of(mark) == []


def test_a_guest_that_dies_is_one_line(image: Path, mark: str, until: Callable[..., None]) -> None:
    process = demo(mark, str(image))

    def guests() -> list[int]:
        return [pid for pid in processes_of(mark) if b"demo.guest" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    until(lambda: len(guests()) == 2, "the guests")
    os.kill(guests()[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert re.fullmatch(r"xenpv: guest\d ended before it had a result: .+\n", errors)
    assert processes_of(mark) == []


def test_ctrl_c_leaves_nothing(image: Path, mark: str, until: Callable[..., None]) -> None:
    process = demo(mark, str(image))
    until(lambda: len(processes_of(mark)) >= 4, "the demo's host, backend and guests")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    until(lambda: processes_of(mark) == [], "the end of every process of the demo")
    assert left_by(process.pid) == []
