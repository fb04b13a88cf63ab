"""A disk that is connected and disconnected again and again, counted from outside: the backend's process and the host."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.backend_process import BackendProcess
from tests.support.emulated import counts
from tests.support.raw_frontend import attach
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.xenbus import VbdPlace
from xenpv_frontend.disk import Disk

Until = Callable[..., None]
SIZE = 1 << 20
TURNS = 5
FDS_OF_A_SEGMENT = 2
"""That the host holds: the pages' memfd and the table's."""


def held(pid: int) -> dict[str, Counter[str]]:
    """What the process has open, has mapped and runs, by kind: descriptors by target, mappings by name, threads."""
    process = Path(f"/proc/{pid}")
    fds = Counter(os.readlink(fd).split(":")[0] for fd in (process / "fd").iterdir())
    lines = [line.split(maxsplit=5) for line in (process / "maps").read_text().splitlines()]
    # Anonymous memory is the allocator's business; what has a name was opened by somebody.
    maps = Counter(fields[5] for fields in lines if len(fields) == 6 and not fields[5].startswith("["))
    return {"fds": fds, "maps": maps, "threads": Counter(threads=len(list((process / "task").iterdir())))}


@pytest.mark.parametrize("persistent, queues", [(False, 1), (True, 1), (True, 4)])
def test_the_backend_ends_every_turn_as_it_began(tmp_path: Path, until: Until, persistent: bool, queues: int) -> None:
    image, run = tmp_path / "disk.img", tmp_path / "run"
    image.write_bytes(bytes(SIZE))
    host.start(run)
    try:
        with open_domain(f"emulated:{run}") as dom0, BackendProcess(run) as backend:
            created = host.request(run, "create", name="guest")
            with open_domain(f"emulated:{created['directory']}") as guest:
                place = attach(dom0.store, guest.domid, str(image))
                backend_pid, host_pid = backend.process.pid, int(host.status(run)["pid"])

                def turn() -> None:
                    with Disk.open(guest, persistent=persistent, queues=queues) as disk:
                        disk.write(0, b"x" * 65536)
                        assert len(disk.read(0, SIZE)) == SIZE

                def now() -> list[object]:
                    until(lambda: guest.store.read(f"{place.backend}/state") == b"6", "the backend closes")
                    until(lambda: _rings(run, place) == [], "the ring's files go")
                    domains = [counts(run, domid) for domid in (0, guest.domid)]
                    # The guest keeps a segment or three for its next grant, as the backend's unmapping falls.
                    segments = domains[1].pop("segments")
                    assert segments <= 3
                    of_host = len(list(Path(f"/proc/{host_pid}/fd").iterdir())) - FDS_OF_A_SEGMENT * segments
                    return [held(backend_pid), of_host, *domains]

                turn()  # what is made once: a segment that the guest keeps for the next grant, a thread's arena
                before = now()

                def settled() -> bool:
                    nonlocal before
                    last, before = before, now()
                    return last == before

                until(settled, "the thread that closes the storage has ended")
                for _ in range(TURNS):
                    turn()
                until(lambda: now() == before, f"after {TURNS} turns more all counts are what they were after one")
    finally:
        host.stop(run)


def _rings(run: Path, place: VbdPlace) -> list[Path]:
    return list((run / "backend").glob(f"{place.frontend_domid}-{place.devid}-*"))
