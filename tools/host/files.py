"""The files that make a Xen host xl's and ours: put there whole, taken away again, and never somebody else's.

RULES

- A file that is not ours, by its name or by its first lines, is neither replaced nor removed.
- A file is replaced at once or not at all: a script may be run at any time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenpv.errors import HypervisorError

__all__ = ["BOOTLOADER", "HostFile", "SERVICE", "host_files", "install", "service_command", "uninstall"]

INSIDE: Final = Path(__file__).resolve().parent / "inside"
SERVICE: Final = "xenpv-backend.service"
BOOTLOADER: Final = "xenpv-bootloader"
_MARK: Final = b"xenpv"


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file of ours on the host."""

    path: Path
    content: bytes
    mode: int

    @property
    def present(self) -> bool:
        """Whether it is there just so."""
        try:
            return self.path.read_bytes() == self.content and self.path.stat().st_mode & 0o777 == self.mode
        except OSError:
            return False

    def check_owner(self) -> None:
        """Raises HypervisorError when another's file is in its place."""
        try:
            found = self.path.read_bytes()[:200]
        except FileNotFoundError:
            return
        except OSError as error:
            raise HypervisorError(f"cannot read {self.path}: {error.strerror}") from None
        if _MARK not in found:
            raise HypervisorError(f"{self.path} is not xenpv's: move it away first")


def service_command() -> list[str]:
    """The words that run this xenpv again, from anywhere."""
    program = shutil.which(sys.argv[0]) if Path(sys.argv[0]).name == "xenpv" else None
    return [str(Path(program).absolute())] if program else [sys.executable, "-m", "xenpv_tools"]


def host_files(root: Path = Path("/"), command: Sequence[str] = ("xenpv",)) -> list[HostFile]:
    """What is installed below `root`; boot loader and service run `command`. The service is the last.

    xl looks for a boot loader that is no path among its own programs, then in $PATH, which has /usr/local/sbin for root and
    for services.
    """
    def filled(name: str) -> bytes:
        return (INSIDE / name).read_text().replace("@XENPV@", shlex.join(command)).encode()

    return [HostFile(root / "etc/xen/scripts/block-xenpv", (INSIDE / "block-xenpv").read_bytes(), 0o755),
            HostFile(root / "usr/local/sbin" / BOOTLOADER, filled(BOOTLOADER), 0o755),
            HostFile(root / "etc/systemd/system" / SERVICE, filled(SERVICE), 0o644)]


def install(files: Sequence[HostFile]) -> list[Path]:
    """Put them there; returns those that were not so before. Raises HypervisorError."""
    for file in files:
        file.check_owner()
    changed = [file for file in files if not file.present]
    for file in changed:
        try:
            _replace(file)
        except OSError as error:
            raise HypervisorError(f"cannot write {file.path}: {error.strerror}: run this as root") from None
    return [file.path for file in changed]


def _replace(file: HostFile) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.path.parent, prefix=".xenpv-", delete=False) as new:
        try:
            new.write(file.content)
            os.fchmod(new.fileno(), file.mode)
            new.flush()
            os.replace(new.name, file.path)
        except BaseException:
            os.unlink(new.name)
            raise


def uninstall(files: Sequence[HostFile]) -> list[Path]:
    """Take them away; returns those that were there. Raises HypervisorError."""
    for file in files:
        file.check_owner()
    gone = []
    for file in files:
        try:
            file.path.unlink()
            gone.append(file.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HypervisorError(f"cannot remove {file.path}: {error.strerror}: run this as root") from None
    return gone
