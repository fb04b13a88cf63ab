"""What Xen starts a domain from: ramdisks, and kernels that need not be decompressed under emulation.

A ramdisk is a cpio archive in the form that Linux takes (newc; Documentation/driver-api/early-userspace/buffer-format).
"""

from __future__ import annotations

import lzma
import re
import stat
import struct
import subprocess
from pathlib import Path

from xenpv.errors import HypervisorError

__all__ = ["Cpio", "modules", "programs", "unpacked_kernel"]


class Cpio:
    """An archive in the making. Folders of a file are made by themselves; all belongs to root, and has no times."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._folders = {""}
        self._count = 0

    def folder(self, path: str) -> None:
        """Every folder of `path` (without a leading slash) that is not there yet."""
        if path not in self._folders:
            self.folder(path.rpartition("/")[0])
            self._folders.add(path)
            self._entry(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, executable: bool = False) -> None:
        """One file; `path` without a leading slash."""
        self.folder(path.rpartition("/")[0])
        self._entry(path, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def content(self) -> bytes:
        """The whole archive, so that another one may follow it."""
        end = Cpio()
        end._entry("TRAILER!!!", 0, b"")
        return b"".join(self._parts + end._parts)

    def _entry(self, path: str, mode: int, content: bytes) -> None:
        self._count += 1
        name = path.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        self._parts += [_padded(head), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def modules(cpio: Cpio, root: Path, kernel_release: str, names: list[str]) -> None:
    """Puts kernel modules and those that they need into `cpio`, and their order into its file `modules`.

    Raises HypervisorError where the kernel has no such module.
    """
    order: list[str] = []
    for name in names:
        lines = _run(["chroot", str(root), "modprobe", "-S", kernel_release, "--show-depends", name])
        order += [words[1] for line in lines.splitlines() if (words := line.split())[:1] == ["insmod"]]
    listed = []
    for path in dict.fromkeys(order):
        content = (root / path.lstrip("/")).read_bytes()
        if path.endswith(".xz"):
            content = lzma.decompress(content)
        elif not path.endswith(".ko"):
            raise HypervisorError(f"{path}: a kernel module that is compressed in a way that is not known here")
        inside = "lib/modules/" + Path(path).name.removesuffix(".xz")
        cpio.file(inside, content)
        listed.append(f"/{inside}\n")
    cpio.file("modules", "".join(listed).encode())


def programs(cpio: Cpio, root: Path, paths: list[str]) -> None:
    """Puts programs of `root` and their shared libraries into `cpio`, at the same places. Raises HypervisorError."""
    libraries = {path for program in paths
                 for path in re.findall(r"(/\S+) \(0x", _run(["chroot", str(root), "ldd", program]))}
    for path in [*paths, *sorted(libraries)]:
        real = _run(["chroot", str(root), "readlink", "-f", path]).strip()
        cpio.file(path.lstrip("/"), (root / real.lstrip("/")).read_bytes(), executable=True)


def unpacked_kernel(image: bytes) -> bytes:
    """The ELF file in a bzImage (Documentation/arch/x86/boot: setup_sects, payload_offset, payload_length).

    Xen and xl take either; xl needs 20 s less for it under emulation. A kernel that is compressed otherwise than by xz, as
    Debian's is, stays as it is.
    """
    if image[0x202:0x206] != b"HdrS":
        return image
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (image[0x1f1] + 1) * 512 + offset
    payload = image[start:start + length]
    if not payload.startswith(b"\xfd7zXZ\0"):
        return image
    found = lzma.LZMADecompressor().decompress(payload)  # its size follows as four bytes
    return found if found.startswith(b"\x7fELF") else image


def _run(argv: list[str]) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise HypervisorError(f"{' '.join(argv)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
