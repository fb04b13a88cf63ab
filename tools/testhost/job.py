"""A job's disk: the script, its files, this project's working tree as an unpacked wheel, and what dom0's init runs."""

from __future__ import annotations

import compileall
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from py_compile import PycInvalidationMode

from xenpv.errors import HypervisorError, UsageError

from .build import SBIN
from .ramdisk import Cpio
from .recipe import INSIDE, LIBC, PYTHON, Host

__all__ = ["Job", "build_wheel", "check_libc", "make_disk", "make_job_disk"]

SOURCES = ["xenpv", "xenpv_backend", "xenpv_frontend", "tools", "setup.cfg", "setup.py", "pyproject.toml", "README.md",
           "LICENSE", "MANIFEST.in", "CHANGELOG.md"]
KEPT_WHEELS = 8
_IGNORED = shutil.ignore_patterns("__pycache__", "*.so", "_core.c", "*.egg-info")
_OWN = ".testhost"  # on the job's disk


@dataclass(frozen=True)
class Job:
    """What is run in dom0. Without a script: a shell."""

    script: Path | None = None
    files: list[Path] = field(default_factory=list)
    limit: float = 600.0
    """Seconds that the script may take."""
    rows: int = 24
    columns: int = 80
    systemd: bool = False
    """Whether dom0 is run by systemd, as Debian's is."""

    def __post_init__(self) -> None:
        if self.limit <= 0:
            raise UsageError(f"a time limit of {self.limit:g} s: it must be more than 0")
        names: dict[str, Path] = {}
        for path in [*([self.script] if self.script else []), *self.files]:
            name = path.resolve().name
            if not path.exists():
                raise UsageError(f"{path}: no such file")
            if name in names and names[name].resolve() != path.resolve():
                raise UsageError(f"{names[name]} and {path} would be the same file in dom0, /job/{name}: rename one")
            if name in ("", _OWN):
                raise UsageError(f"{path}: a file of this name cannot be given to dom0")
            names[name] = path

    def settings(self, release: str) -> str:
        """What dom0's init sources."""
        values = {"release": release, "script": self.script.resolve().name if self.script else "",
                  "limit": f"{self.limit:g}", "rows": str(self.rows), "columns": str(self.columns),
                  "systemd": "yes" if self.systemd else "no"}
        return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def build_wheel(root: Path, cache: Path) -> Path:
    """The wheel of the working tree `root`, kept in `cache` for as long as no source changes.

    The core is built for this machine's C library: check_libc says whether a release's will do. Raises HypervisorError
    with the build's own reason.
    """
    digest = hashlib.sha256(sys.version.encode())
    for path in _files(root):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    kept = cache / digest.hexdigest()[:32]
    if found := list(kept.glob("*.whl")):
        return found[0]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=cache) as name:
        work = Path(name)
        for source in SOURCES:
            path = root / source
            if path.is_dir():
                shutil.copytree(path, work / "tree" / source, ignore=_IGNORED)
            elif path.exists():
                shutil.copy(path, work / "tree" / source)
        done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q",
                               "-w", str(work / "out"), str(work / "tree")],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = next((line.strip() for line in lines if "error:" in line.lower() and "subprocess" not in line),
                          lines[-1] if lines else "pip said nothing")
            raise HypervisorError(f"the wheel of {root} was not built: {reason}")
        # Another working tree may be about to read one that is not much older.
        others = sorted((path for path in cache.iterdir() if not path.name.startswith(".")), key=lambda it: it.stat().st_mtime)
        for old in others[:-KEPT_WHEELS]:
            shutil.rmtree(old, ignore_errors=True)
        wheel = next((work / "out").glob("*.whl"))
        kept.mkdir(exist_ok=True)
        return wheel.replace(kept / wheel.name)


def check_libc(wheel: Path, release: str) -> None:
    """That the core in `wheel` loads in `release`'s dom0. Raises UsageError: it was built for a newer C library."""
    with zipfile.ZipFile(wheel) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".so"))
    needed = max(((int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", content)), default=(0, 0))
    has = LIBC[release]
    if needed > has:
        raise UsageError(f"the core built here needs glibc {needed[0]}.{needed[1]}, and {release} has {has[0]}.{has[1]}: "
                         f"run this on Debian {release}, or take a newer --release")


def _files(root: Path) -> Iterator[Path]:
    """Every file of the working tree that the wheel is made of, in order."""
    for source in SOURCES:
        for path in [root / source, *sorted((root / source).rglob("*"))]:
            parts = path.relative_to(root).parts
            if path.is_file() and not any(name in _IGNORED(str(path.parent), [name]) for name in parts):
                yield path


def make_job_disk(image: Path, job: Job, host: Host, wheel: Path) -> None:
    """Writes the disk that dom0 mounts at /job. Raises HypervisorError, UsageError."""
    check_libc(wheel, host.release)
    with tempfile.TemporaryDirectory(prefix="xenpv-job-") as name:
        tree = Path(name)
        tree.chmod(0o755)
        for path in [*([job.script] if job.script else []), *job.files]:
            target = tree / path.resolve().name
            if path.is_dir():
                shutil.copytree(path.resolve(), target, symlinks=True, ignore=_IGNORED, dirs_exist_ok=True)
            else:
                shutil.copy(path, target)
        own = tree / _OWN
        shutil.copytree(INSIDE, own)
        (own / "job").write_text(job.settings(host.release))
        guest = Cpio()
        guest.file("init", (INSIDE / "guest-init").read_bytes(), executable=True)
        (own / "guest.cpio").write_bytes(guest.content())
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(own / "site")
        shutil.copy(wheel, own)
        _compile(tree, host.release)
        for program in [own / "dom0-init", own / "dom0-job", own / "guest-root-init", *(own / "bin").iterdir()]:
            program.chmod(0o755)
        used = sum(path.lstat().st_size for path in tree.rglob("*"))
        make_disk(image, (used * 3 // 2 >> 20) + 256, tree)


def _compile(tree: Path, release: str) -> None:
    """Python's byte code beside the sources, where this Python is of dom0's version: on an emulated CPU that takes long."""
    if sys.version_info[:2] == PYTHON[release]:
        # It counts for as long as the source is the same. What does not compile is for its user to find.
        compileall.compile_dir(tree, quiet=2, stripdir=str(tree), prependdir="/job",
                               invalidation_mode=PycInvalidationMode.CHECKED_HASH)


def make_disk(image: Path, mib: int, tree: Path | None = None) -> None:
    """An ext4 image of `mib` MiB, sparse, without a journal: what was synced is there, however dom0 ended."""
    content = ["-d", str(tree)] if tree else []
    done = subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", *content,
                           str(image), f"{mib}M"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env={"PATH": SBIN + ":/usr/bin:/bin"})
    if done.returncode:
        raise HypervisorError(f"{image} was not made: {done.stderr.strip()}")
