"""The process of a domain: started with that domain's identity, and killed with all its children."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from xenpv.errors import HypervisorError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_END_TIMEOUT = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_the_host() -> None:
    """In the child, before its program: a host that is killed takes its domains with it, as a machine does."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class DomainProcess:
    """A running program, leader of a process group of its own. `pidfd` is readable once it has ended."""

    def __init__(self, directory: Path, argv: Sequence[str], environment: Mapping[str, str], cwd: str) -> None:
        env = {**environment, "XENPV_HYPERVISOR": f"emulated:{directory}"}
        env.pop("XENPV_RUNDIR", None)
        try:
            with open(directory / "console.log", "ab") as console:
                self._process = subprocess.Popen(
                    list(argv), env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                    start_new_session=True, preexec_fn=_die_with_the_host)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise HypervisorError(f"cannot start {argv[0]!r}: {reason}") from error
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> int | None:
        """Kill the process and its group, unless they are gone. Its exit status as subprocess gives it.

        None when the kernel does not let it go in time (it waits for a device): the host does not wait with it.
        """
        # Not reaped yet, so the number cannot belong to anybody else.
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self.pidfd)
        try:
            return self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            return None
