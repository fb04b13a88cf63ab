"""qemu-storage-daemon, as an NBD server: its other exports that fio could use need root or a kernel's help."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .files import Target
from .nbd_server import Place

PROGRAM = "qemu-storage-daemon"
PACKAGE = "qemu-system-common"


def arguments(aio: str, direct: bool) -> list[str]:
    """The command line, but for socket and file. `aio`: threads, native or io_uring (native needs `direct`)."""
    return [PROGRAM, "--blockdev", f"driver=file,aio={aio},cache.direct={'on' if direct else 'off'}"]


def command(server: Sequence[str], target: Target, place: Place) -> list[str]:
    """`server` (see arguments), on `target`."""
    _, _, options = server
    node: dict[str, object] = {"node-name": "disk", "filename": str(target.path)}
    node |= dict(option.split("=") for option in options.split(","))
    node["cache"] = {"direct": node.pop("cache.direct") == "on"}
    address = {"type": "unix", "path": str(place.socket)}
    # JSON, for a path may have a comma in it.
    return [PROGRAM, "--blockdev", json.dumps(node),
            "--nbd-server", json.dumps({"addr": address, "max-connections": 0}),
            "--export", json.dumps({"type": "nbd", "id": "disk", "node-name": "disk", "name": "", "writable": True}),
            "--pidfile", str(place.pid_file)]
