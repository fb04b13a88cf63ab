"""The demo from start to end: an emulated Xen of its own, a backend process, two guest processes, and what they found.

RULES
- Everything stands in one temporary directory, and ends in the opposite order of its start, whatever happens between.
- A guest gets its domain's directory and no path of any image.
- What a guest says is compared with what domain 0 finds in the files; the guest's word alone proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from xenpv.domain import Store, Watch
from xenpv.errors import DeviceError, NoEntryError, StorageError
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.xenbus import VbdPlace, vbd_nodes, vdev_number

from .. import toolstack
from ..bench.files import MIB, TMPFS
from ..bench.notifications import count_notifications
from ..bench.own_xen import Child
from ..scratch import scratch_directory, swept
from .image import LEAST, Image, given_image, make_image

GUESTS = ("guest1", "guest2")
_PATIENCE = 120.0
"""Seconds without any sign of progress from a guest before the demo gives up."""
_NOTIFY_SECONDS = 0.2
_NOTIFY_RUNS = 5


@dataclass
class Guest:
    """A running guest, as domain 0 sees it."""

    name: str
    domid: int
    scratch: Path
    console: Path
    watch: Watch

    @property
    def path(self) -> str:
        return f"/local/domain/{self.domid}/data/demo"


def run_demo(image: Path | None, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it. `say` gets a word of progress now and then. Raises XenpvError."""
    with swept(), ExitStack() as stack:
        place = stack.enter_context(_place(image))
        disk = given_image(image) if image else make_image(place, say)
        report: dict[str, Any] = {"image": {"path": str(disk.path), "bytes": disk.size, "content": disk.content}}
        report |= _serve(disk, place, say)
        say("counting notifications")
        report |= _notifications(say)
        report["rescues"] = report.pop("rescues_of_guests") + report.pop("rescues_of_loads")
        report["ok"] = report["rescues"] == 0 and all(
            guest["sha256"] == guest["expected_sha256"] and guest["written_sha256"] == guest["expected_written_sha256"]
            for guest in report["guests"])
        return report


@contextmanager
def _place(image: Path | None) -> Iterator[Path]:
    """A directory with room for the image and the guests' copies: in memory if there is room, else $TMPDIR."""
    wanted = (image.stat().st_size if image and image.exists() else 2 * LEAST) * (len(GUESTS) + 1) + 64 * MIB
    for parent in (TMPFS, Path(tempfile.gettempdir())):
        if os.access(parent, os.W_OK) and shutil.disk_usage(parent).free > wanted:
            with scratch_directory("demo", parent) as made:
                yield made
            return
    raise StorageError(f"no room for {wanted // MIB} MiB in {TMPFS} or {tempfile.gettempdir()}: set TMPDIR to a larger place")


def _serve(disk: Image, place: Path, say: Callable[[str], None]) -> dict[str, Any]:
    run = place / "run"
    with ExitStack() as stack:
        say("starting the emulated Xen and the backend")
        host.start(run)
        stack.callback(host.stop, run)
        uri = f"emulated:{run}"
        backend = Child("backend", ["backend", uri, str(run), "-"], place / "backend.log")
        stack.callback(backend.close)
        backend.line()
        store = stack.enter_context(open_domain(uri)).store
        guests = [_start(stack, name, disk, place, run, store) for name in GUESTS]
        found = _results(guests, disk.size, store, say)
        say("random reads of the first guest, the other idle")
        store.write(f"{guests[0].path}/go", "load")
        load = _result(guests[0], store)
        for guest in guests:
            store.write(f"{guest.path}/go", "end")
            host.request(run, "wait", domid=guest.domid)
        say("reading the files from domain 0")
        expected = _digest(disk.path)
        written = [_digest(guest.scratch) for guest in guests]
    return {
        "guests": [{"name": guest.name, **found[guest.name], "expected_sha256": expected,
                    "expected_written_sha256": digest} for guest, digest in zip(guests, written, strict=True)],
        "load": {"case": "randread-4k-qd32", "iops": load["ios"] / load["seconds"],
                 "bytes_per_second": load["bytes"] / load["seconds"], "p50_us": load["p50_us"], "p99_us": load["p99_us"]},
        "rescues_of_guests": sum(found[guest.name].pop("rescues") for guest in guests) + load["frontend"]["rescues"],
    }


def _start(stack: ExitStack, name: str, disk: Image, place: Path, run: Path, store: Store) -> Guest:
    """A paused domain, its two disks, then its process."""
    domid = int(host.request(run, "create", name=name, paused=True,
                             exec=[sys.executable, "-m", f"{__package__}.guest"])["domid"])
    scratch = place / f"{name}.scratch"
    with open(scratch, "wb") as file:
        file.truncate(disk.size)
    for vdev, path, writable in (("xvda", disk.path, False), ("xvdb", scratch, True)):
        vbd = VbdPlace(0, domid, vdev_number(vdev))
        toolstack.attach(store, vbd, vbd_nodes(vbd, writable=writable, params=str(path)))
    watch = stack.enter_context(store.watch(f"/local/domain/{domid}/data/demo"))
    host.request(run, "unpause", domid=domid)
    return Guest(name, domid, scratch, run / "domain" / str(domid) / "console.log", watch)


def _take(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path)
    except NoEntryError:
        return None


def _poll(guest: Guest, store: Store) -> dict[str, Any] | None:
    """The guest's result when it is there, taken. Raises DeviceError when the guest failed or is gone."""
    error = _take(store, f"{guest.path}/error")
    if error is not None:
        raise DeviceError(f"{guest.name}: {error.decode(errors='replace')}")
    result = _take(store, f"{guest.path}/result")
    if result is not None:
        store.remove(f"{guest.path}/result")
        return dict(json.loads(result))
    if not store.exists(f"/local/domain/{guest.domid}"):
        said = guest.console.read_text(errors="replace").split("\n") if guest.console.exists() else []
        last = next((line for line in reversed(said) if line.strip()), "without a word")
        raise DeviceError(f"{guest.name} ended before it had a result: {last[:200]}")
    return None


def _result(guest: Guest, store: Store) -> dict[str, Any]:
    deadline = monotonic() + _PATIENCE
    while monotonic() < deadline:
        result = _poll(guest, store)
        if result is not None:
            return result
        guest.watch.wait(1.0)
    raise DeviceError(f"{guest.name} does not answer: `xenpv selftest` tries the parts one by one")


def _results(guests: list[Guest], size: int, store: Store, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Every guest's result, with a word of progress; a guest that stands still for long is given up."""
    found: dict[str, dict[str, Any]] = {}
    done = dict.fromkeys((guest.name for guest in guests), 0)
    deadline = monotonic() + _PATIENCE
    while len(found) < len(guests):
        for guest in guests:
            if guest.name in found:
                continue
            guest.watch.wait(0.1)
            result = _poll(guest, store)
            if result is not None:
                found[guest.name], done[guest.name] = result, 3 * size
            moved = int(_take(store, f"{guest.path}/done") or 0)
            if moved > done[guest.name]:
                done[guest.name], deadline = moved, monotonic() + _PATIENCE
        shown = ", ".join(f"{name} {100 * moved // (3 * size)} %" for name, moved in done.items())
        say(f"guests read, write and read again: {shown}")
        if monotonic() > deadline:
            raise DeviceError("a guest makes no progress: `xenpv selftest` tries the parts one by one")
    return found


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _notifications(say: Callable[[str], None]) -> dict[str, Any]:
    """Per 1,000 requests at depth 32, both directions together; the same load, storage and spin for both modes."""
    found = count_notifications(_NOTIFY_SECONDS, _NOTIFY_RUNS, 64 * MIB, None, say, loads=("steady-qd32",))
    names = {("flag", True): "flag", ("event_index", True): "event_index",
             ("flag", False): "flag_no_spin", ("event_index", False): "event_index_no_spin"}
    return {
        "notifications_per_1000": {names[row["mode"], row["spin_us"] > 0]: row["notifications_per_1000"]
                                   for row in found["loads"]},
        "spin_us": max(row["spin_us"] for row in found["loads"]),
        "rescues_of_loads": sum(row["rescues"] for row in found["loads"]),
    }
