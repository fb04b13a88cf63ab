"""How an NBD export is used, and where a target says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..target import Parameters

SCHEMES: Final = ("nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock")
"""https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md"""


_CACHES: Final = {"auto": "writeback", "none": "writeback", "directsync": "writethrough"}
RECONNECT: Final = 30.0
TIMEOUT: Final = 30.0
REPLAY: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class NbdOptions:
    """Times are seconds, sizes bytes."""

    reconnect: float = RECONNECT
    """How long requests wait for a server that is away."""
    timeout: float = TIMEOUT
    """How long a request may take before its connection counts as broken."""
    replay: int = REPLAY
    """Unflushed writes that are kept to be written again; when there are more, the server is told to flush."""
    discard: str = "zero"
    """A discard is sent as ``zero``, which reads as zero, as ``trim``, which may not, or not at all: ``off``."""
    cache: str = "writeback"
    """A mode of ../cache.py. There is no page cache here, so ``none`` is ``writeback``, ``directsync`` ``writethrough``."""


def read_options(parameters: Parameters, cache: str) -> NbdOptions:
    """What a target's parameters say. Raises StorageError."""
    discard = parameters.text("discard", "zero")
    if discard not in ("zero", "trim", "off"):
        raise parameters.error("discard", "zero, trim or off")
    timeout = parameters.seconds("timeout", TIMEOUT)
    if timeout <= 0:
        raise parameters.error("timeout", "more than 0 seconds")
    return NbdOptions(parameters.seconds("reconnect", RECONNECT), timeout,
                      parameters.size("replay") or REPLAY, discard, _CACHES.get(cache, cache))
