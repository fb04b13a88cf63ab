"""nbdkit's file plugin, as an NBD server."""

from __future__ import annotations

from collections.abc import Sequence

from .files import Target
from .nbd_server import Place


def arguments(threads: int, plugin: Sequence[str]) -> list[str]:
    """The command line, but for socket and file."""
    return ["nbdkit", "--foreground", "--exit-with-parent", "--threads", str(threads), "file", *plugin]


def command(server: Sequence[str], target: Target, place: Place) -> list[str]:
    """`server` (see arguments), on `target`."""
    return [*server, f"file={target.path}", "--unix", str(place.socket), "--pidfile", str(place.pid_file)]
