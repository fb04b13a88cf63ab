"""Xen's own C xenstored, run without Xen: what it asks of a hypervisor comes from no_xen.c, preloaded."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHIM = Path(__file__).with_name("no_xen.c")


class Missing(Exception):
    """What this machine lacks to run it."""


def program() -> Path:
    """The daemon, where Debian (xen-utils-4.17) or a build of Xen puts it."""
    for path in (*sorted(Path("/usr/lib").glob("xen-*/bin/xenstored")), Path("/usr/local/sbin/xenstored")):
        if os.access(path, os.X_OK):
            return path
    raise Missing("no xenstored here (Debian: xen-utils-4.17)")


@contextmanager
def c_xenstored(place: Path) -> Iterator[str]:
    """Run it in the directory `place`; gives the socket's path. Raises Missing."""
    daemon_path = program()
    if (compiler := shutil.which("cc")) is None:
        raise Missing("no C compiler for the stand-in of Xen's libraries (Debian: gcc libc6-dev)")
    shim = place / "no_xen.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl"], check=True)
    environment = os.environ | {"XENSTORED_RUNDIR": str(place), "XENSTORED_ROOTDIR": str(place),
                                "LD_PRELOAD": str(shim)}
    environment.pop("XENSTORED_PATH", None)
    with subprocess.Popen([daemon_path, "-N"], env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as daemon:
        try:
            deadline = time.monotonic() + 10
            while not (place / "socket").exists():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    daemon.kill()
                    raise Missing(f"xenstored does not run here: {daemon.communicate()[1].decode(errors='replace')}")
                time.sleep(0.01)
            yield str(place / "socket")
        finally:
            daemon.kill()
