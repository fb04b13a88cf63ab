"""What a disk's tests stand on: an emulated Xen in a thread, domain 0, a guest, an image; and servers in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from tests.support.raw_frontend import DEVID, attach
from xenpv.domain import Domain
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host
from xenpv.xenbus import VbdPlace
from xenpv_backend.daemon import Backend
from xenpv_backend.options import BackendOptions


@dataclass
class World:
    """Domain 0 and a guest, both open here, and the image of a disk that nobody serves yet."""

    run: Path
    dom0: Domain
    guest: Domain
    image: Path

    def attach(self, params: str | Path | None = None, *, writable: bool = True, devid: int = DEVID,
               **nodes: Any) -> VbdPlace:
        """Give the guest a disk: the image, unless `params` says what else. `nodes` is for vbd_nodes."""
        return attach(self.dom0.store, self.guest.domid, str(params or self.image), writable=writable, devid=devid, **nodes)


@contextmanager
def new_world(folder: Path, content: bytes) -> Iterator[World]:
    """With a run directory and an image of that `content` in `folder`."""
    image, run = folder / "disk.img", folder / "run"
    image.write_bytes(content)
    with host.running(run), open_domain(f"emulated:{run}") as dom0:
        created = host.request(run, "create", name="guest")
        with open_domain(f"emulated:{created['directory']}") as guest:
            yield World(run, dom0, guest, image)


class Server(Protocol):
    """What serves until it is stopped."""

    def serve(self) -> None: ...
    def stop(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> None: ...


S = TypeVar("S", bound=Server)


@contextmanager
def in_a_thread(server: S) -> Iterator[S]:
    """It serves in a thread until the end of the block, and is closed then."""
    with server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


@contextmanager
def serving(dom0: Domain, run: Path, **options: Any) -> Iterator[Backend]:
    """A backend in a thread, without spin unless its `options` say so."""
    with in_a_thread(Backend(dom0, run, BackendOptions(**{"spin_us": 0, **options}))) as backend:
        yield backend
