"""A bundle on a vbd of the emulated Xen: guests extract it through our frontend, two at once, without reading the rest."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.backend_process import BackendProcess
from tests.support.raw_frontend import attach
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host

IMAGES = {"kernel": random.Random(1).randbytes(3_000_001), "ramdisk": random.Random(2).randbytes(70_000),
          "root": random.Random(3).randbytes(9 << 20), "empty": b""}
REST = 1 << 28
"""Bytes of a hole that nobody asks for."""


@dataclass
class World:
    """Two guests, each with the same bundle as its disk."""

    folder: Path
    guests: list[str]

    def start(self, guest: int, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "xenpv_tools", "--hypervisor", self.guests[guest], "disk", "extract",
                                 "xvda", *words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __call__(self, guest: int, *words: str, status: int = 0) -> tuple[bytes, str]:
        """stdout and stderr."""
        process = self.start(guest, *words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        return out, err.decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bundle")
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
    with open(folder / "rest", "wb") as file:
        file.truncate(REST)
    bundle = folder / "guest.xpb"
    subprocess.run([sys.executable, "-m", "xenpv_tools", "bundle", "create", str(bundle), "rest", *IMAGES],
                   cwd=folder, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1"}, stdout=subprocess.DEVNULL)
    run = folder / "run"
    with host.running(run), open_domain(f"emulated:{run}") as dom0, BackendProcess(run):
        guests = [host.request(run, "create", name=f"guest{number}") for number in range(2)]
        for guest in guests:
            attach(dom0.store, guest["domid"], str(bundle), writable=False)
        yield World(folder, [f"emulated:{guest['directory']}" for guest in guests])


def test_two_frontends_at_once_get_the_same_images(world: World) -> None:
    running = [world.start(guest, "-d", f"out{guest}", "--json", *IMAGES) for guest in range(2)]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    for guest in range(2):
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                 for path in (world.folder / f"out{guest}").iterdir()}
        assert found == {name: hashlib.sha256(data).hexdigest() for name, data in IMAGES.items()}


def test_only_the_index_and_the_image_are_read(world: World) -> None:
    out, _ = world(0, "-d", "one", "ramdisk", "--json")
    assert json.loads(out)["bytes_read"] < len(IMAGES["ramdisk"]) + 64 * 1024
    assert (world.folder / "one/ramdisk").read_bytes() == IMAGES["ramdisk"]


def test_list(world: World) -> None:
    out, _ = world(0, "-l", "--json")
    listed = json.loads(out)
    assert [row["name"] for row in listed["images"]] == ["rest", *IMAGES] and listed["bytes_read"] < 64 * 1024


def test_to_standard_output(world: World) -> None:
    assert world(0, "ramdisk", "-o", "-")[0] == IMAGES["ramdisk"]


def test_a_name_that_is_not_there(world: World) -> None:
    out, err = world(0, "initrd", status=2)
    assert not out and err == "xenpv: xvda has no image 'initrd'; there are: rest, kernel, ramdisk, root, empty\n"
