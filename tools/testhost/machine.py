"""Boots a host for one job: QEMU's command line, the output as it comes, the time limits, the results."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import HypervisorError

from .build import SBIN
from .job import Job, make_disk, make_job_disk
from .recipe import Host

__all__ = ["BOOT_LIMIT", "Machine", "TIMED_OUT", "last_words"]

BOOT_LIMIT = 240.0
"""Seconds until dom0's init must have started the script; 12 to 50 s are usual on 2 cores."""
SHUTDOWN_LIMIT = 60.0
UP = b"testhost: up\n"  # dom0-init
RESULTS_MIB = 4096
TIMED_OUT = 124  # the exit status of timeout(1)

# Under TCG a PV dom0 dies in its first page fault with SMAP or SMEP on. With XSAVE (and so AVX) domains that take turns on
# a CPU spoil each other's registers: QEMU 7.2, Xen 4.17, a guest beside dom0: copies of memory that differ, within seconds.
CPU = "max,-smap,-smep,-pku,-la57,-xsave"
# What protects guests from each other's speculation costs a quarter of every process's start here, and protects nothing.
XEN_OPTIONS = ("dom0_mem=2G,max:2G dom0_max_vcpus=2 com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning "
               "spec-ctrl=no")
LINUX_OPTIONS = "console=hvc0 mitigations=off"
# Xen and the kernel colour nothing, but firmware does.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\n\t\x20-\x7e]")

Output = Callable[[bytes], object]


@dataclass(frozen=True)
class Machine:
    """The files of one boot, in a directory that is gone afterwards."""

    host: Host
    directory: Path

    @classmethod
    @contextmanager
    def made(cls, host: Host, job: Job, wheel: Path) -> Iterator[Machine]:
        """With the disks of `job`. Raises HypervisorError."""
        # Not a tmpfs, as /tmp may be: dom0 writes to files in here.
        parent = os.environ.get("TMPDIR", "/var/tmp")
        with tempfile.TemporaryDirectory(prefix="xenpv-testhost-", dir=parent) as name:
            machine = cls(host, Path(name))
            make_job_disk(machine.job_disk, job, host, wheel)
            make_disk(machine.results_disk, RESULTS_MIB)
            yield machine

    @property
    def job_disk(self) -> Path:
        return self.directory / "job.img"

    @property
    def results_disk(self) -> Path:
        return self.directory / "results.img"

    @property
    def console(self) -> Path:
        """What Xen and the kernels of dom0 said."""
        return self.directory / "console.log"

    def command(self, port: list[str]) -> list[str]:
        """QEMU's command line. Disks: vda root, vdb job, vdc results; vdd and vde are the first two for guests."""
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", CPU, "-smp", "2", "-m", "4G",
                "-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{_escaped(self.console)}",
                "-kernel", str(self.host.hypervisor), "-append", XEN_OPTIONS,
                "-initrd", f"{_escaped(self.host.kernel)} {LINUX_OPTIONS},{_escaped(self.host.ramdisk)}"]
        for path in (self.host.image, self.job_disk, self.results_disk, self.host.image, self.job_disk):
            kept = path == self.results_disk
            argv += ["-drive", f"file={_escaped(path)},if=virtio,format=raw,snapshot={'off' if kept else 'on'}"]
        argv += ["-device", "virtio-serial-pci", *port]
        if shutil.which("setpriv"):
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        return argv

    def run(self, limit: float, output: Output) -> int:
        """Boots, gives the script's output to `output` as it comes; its exit status, 124 where it took over `limit` s.

        Raises HypervisorError where the host did not come up, or went down before the script had ended.
        """
        port = ["-chardev", "file,id=port,path=/dev/stdout", "-device", "virtserialport,chardev=port,name=xenpv"]
        errors = self.directory / "qemu.log"
        with errors.open("wb") as error_file, subprocess.Popen(
                self.command(port), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=error_file,
                env=self._environment()) as qemu:
            try:
                up = self._stream(qemu, limit, output)
                if up:
                    qemu.wait(SHUTDOWN_LIMIT)
            except subprocess.TimeoutExpired:
                pass  # the status on the disk says how far it came
            finally:
                qemu.kill()
        status = self.exit_status()
        if not up:
            said = errors.read_text(errors="replace").strip() or last_words(self.console)
            raise HypervisorError(f"the test host did not come up within {BOOT_LIMIT:g} s; its last words: {said}")
        if status is None:
            raise HypervisorError("the test host went down, or stood still, before the script had ended; its last words: "
                                  + last_words(self.console))
        return status

    def _stream(self, qemu: subprocess.Popen[bytes], limit: float, output: Output) -> bool:
        """Until QEMU ends or the time is over; whether the script was started."""
        assert qemu.stdout is not None
        pending, up = b"", False
        deadline = time.monotonic() + BOOT_LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(qemu.stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if not selector.select(left):
                    continue
                data = os.read(qemu.stdout.fileno(), 65536)
                if not data:
                    break
                if not up:
                    pending += data
                    before, mark, data = pending.partition(UP)
                    if not mark:
                        continue
                    up = True
                    deadline = time.monotonic() + limit + SHUTDOWN_LIMIT
                if data:
                    output(data)
        return up

    def shell(self) -> None:
        """Boots to a shell on this terminal. Raises HypervisorError where it did not come so far."""
        port = ["-chardev", "stdio,id=port,signal=off", "-device", "virtconsole,chardev=port"]
        done = subprocess.run(self.command(port), env=self._environment())
        if done.returncode or self.exit_status() is None:
            raise HypervisorError(f"the test host did not come to its end; its last words: {last_words(self.console)}")

    def exit_status(self) -> int | None:
        """What the script returned, or None where it did not come to its end."""
        text = self._debugfs("cat /exit-status")
        return int(text) if text.strip().isdigit() else None

    def fetch(self, out: Path) -> None:
        """Copies what the script left in $XENPV_RESULTS to `out`, and the logs to its folder `testhost`."""
        logs = out / "testhost"
        logs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            self._debugfs(f'rdump / "{name}"')
            if (Path(name) / "out").is_dir():
                shutil.copytree(Path(name) / "out", out, symlinks=True, dirs_exist_ok=True)
            if (Path(name) / "logs").is_dir():
                shutil.copytree(Path(name) / "logs", logs, symlinks=True, dirs_exist_ok=True)
        if self.console.exists():
            shutil.copy(self.console, logs / "console")

    def _debugfs(self, request: str) -> str:
        done = subprocess.run(["debugfs", "-R", request, str(self.results_disk)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, env=self._environment())
        if done.returncode:
            raise HypervisorError(f"debugfs cannot read the results: {done.stderr.strip()}")
        return done.stdout

    def _environment(self) -> dict[str, str]:
        path = os.environ.get("PATH", "") + ":" + SBIN
        return os.environ | {"PATH": path, "TMPDIR": str(self.directory)}  # QEMU's snapshots


def last_words(console: Path, count: int = 3) -> str:
    """The last lines of the console that say something, in one."""
    text = console.read_text(errors="replace") if console.exists() else ""
    lines = [line.strip() for line in _CONTROL.sub("", text).splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "none"


def _escaped(path: Path) -> str:
    """As QEMU wants a file name among options: commas twice."""
    return str(path).replace(",", ",,")
