"""Both ends ours, in two domains of a real Xen: the backend in dom0, the frontend in a guest."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import guest_disk
from tests.support.remote_domain import Line, RemoteDisk
from tests.xenhost.conftest import Guest
from tests.xenhost.shell import run

CONTENT = random.Random(6).randbytes(2 << 20)
SEED = 7
ALONE, TOGETHER = 200, 1600
"""Reads one after the other, and so many with up to 32 in flight."""

Record = Callable[[str, object], None]


@pytest.fixture(scope="module", params=[False, True], ids=["no spin", "spin"])
def spin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bool]:
    """A backend in a process of its own, that spins for as long as it comes with, or not at all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XENPV_RUNDIR", str(tmp_path_factory.mktemp("run")))
        run("xenpv", "backend", "run", "--daemon", *([] if request.param else ["--spin-us", "0"]))
        try:
            yield request.param
        finally:
            run("xenpv", "backend", "stop")


@contextmanager
def attached(guest: Guest, image: Path) -> Iterator[None]:
    """The guest's xvdb is `image`."""
    run("xenpv", "block-attach", guest.name, f"{image},,xvdb,w")
    try:
        yield
    finally:
        run("xenpv", "block-detach", guest.name, "xvdb")


def counters(guest: Guest, disk: RemoteDisk) -> dict[str, int]:
    """Both ends' own counts until now."""
    front = disk.counters()
    backend = json.loads(run("xenpv", "block-list", "--json", guest.name))
    back = next(vbd["backend"]["counters"][0] for vbd in backend if vbd["vdev"] == "xvdb")
    assert front["rescues"] == front["errors"] == back["errors"] == back["refused"] == 0
    return {"requests": front["requests"], "to_backend": front["notifications"], "to_frontend": back["notifications"]}


@pytest.mark.parametrize("flag", [True, False], ids=["flag", "event index"])
def test_every_byte_is_right(agent: Guest, line: Line, spin: bool, flag: bool, tmp_path: Path,
                             record_property: Record) -> None:
    """By SHA-256 of what either side sees, before and after the guest writes; and how often they woke each other."""
    image = tmp_path / "disk.img"
    image.write_bytes(CONTENT)
    with attached(agent, image):
        with RemoteDisk(line, "xvdb", flag=flag, spin=spin) as disk:
            assert disk.flag() is flag
            assert disk.digest() == hashlib.sha256(CONTENT).hexdigest()
            disk.write(SEED)
            assert disk.digest() == hashlib.sha256(image.read_bytes()).hexdigest()
            ring = json.loads(run("xenpv", "ring", "show", "--json", agent.name, "xvdb"))[0]
            assert ring["possible"] and (ring["backend_word"] > 0) is flag
            counts = [counters(agent, disk)]
            for read, number in ((disk.read_alone, ALONE), (disk.read_together, TOGETHER)):
                read(number)
                counts.append(counters(agent, disk))
    assert image.read_bytes() == guest_disk.after(CONTENT, SEED)
    for name, (old, new) in {"one at a time": counts[:2], "32 in flight": counts[1:]}.items():
        grown = {key: new[key] - old[key] for key in new}
        record_property("notifications", {"load": name, "spin": spin, "flag": flag, **grown})
        assert grown["requests"] == (ALONE if name == "one at a time" else TOGETHER)
        # One a request at the most; the last of an earlier load may be counted only now.
        assert max(grown["to_backend"], grown["to_frontend"]) <= grown["requests"] + 1
