"""A world whose backend serves, in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.raw_frontend import RawFrontend
from tests.support.world import World, new_world, serving
from xenpv.wire.blkif import Op
from xenpv.xenbus import XenbusState
from xenpv_backend.control import request
from xenpv_backend.daemon import Backend

SIZE = 1 << 20


@dataclass
class Served(World):
    """A backend in a thread serves what is attached."""

    backend: Backend

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return request(self.run, verb, **arguments)


@contextmanager
def served(folder: Path, size: int = SIZE) -> Iterator[Served]:
    """With an image of `size` bytes that no disk has yet."""
    folder.mkdir(exist_ok=True)
    with new_world(folder, bytes(range(256)) * (size // 256)) as made, serving(made.dom0, made.run) as backend:
        yield Served(**vars(made), backend=backend)


def works(world: Served) -> None:
    """A disk is attached, used, and let go: the backend has time for it."""
    with RawFrontend(world.guest, world.attach()) as frontend:
        assert frontend.io(Op.READ, 0, 4096)[0] == 0
        frontend.state(XenbusState.CLOSING)
        frontend.wait_backend(XenbusState.CLOSING, XenbusState.CLOSED)
