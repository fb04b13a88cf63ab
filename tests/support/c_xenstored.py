"""Xen's own C xenstored, run without Xen: what it asks of a hypervisor comes from no_xen.c, preloaded."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STAND_IN = Path(__file__).with_name("no_xen.c")


def _listens(path: Path) -> bool:
    """The socket is there before anybody listens at it (proc(5), SO_ACCEPTCON). To try it would be a connection more."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(words[-1] == str(path) and int(words[3], 16) & 0x10000 for words in lines[1:])


@contextmanager
def c_xenstored(program: Path, place: Path, until: Callable[..., None]) -> Iterator[str]:
    """Run `program` in the directory `place`; gives the socket's path. `until` is the fixture."""
    library = place / "no_xen.so"
    subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", library, STAND_IN, "-ldl"], check=True)
    environment = os.environ | {"XENSTORED_RUNDIR": str(place), "XENSTORED_ROOTDIR": str(place),
                                "LD_PRELOAD": str(library)}
    environment.pop("XENSTORED_PATH", None)
    with open(place / "log", "wb") as log, \
            subprocess.Popen([program, "-N"], env=environment, stdout=log, stderr=log) as daemon:
        try:
            until(lambda: _listens(place / "socket") or daemon.poll() is not None, "xenstored's socket")
            if daemon.poll() is not None:
                raise AssertionError(f"xenstored ended: {(place / 'log').read_text(errors='replace')}")
            yield str(place / "socket")
        finally:
            daemon.kill()
