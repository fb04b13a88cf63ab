"""The program that xl runs for ``bootloader = "xenpv-bootloader"``: kernel, ramdisk and command line out of a bundle.

RULES

- Its options and its output are pygrub's (tools/pygrub/src/pygrub), which libxl knows (libxl_bootloader.c).
- What the bundle holds is looked at after the rights that --runas takes away are gone; all that needs them is opened before.
- The result is written when the copies are whole and right. Nothing is started, and nothing but a complaint goes to the
  terminal that libxl gives us.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import click

from xenpv.closing import Closing
from xenpv.errors import StorageError, UsageError

from ..session import Session, verb
from .boot import Boot, Copies, choose
from .reader import Bundle
from .source import FileSource

__all__ = ["command", "drop_rights", "FORMATS"]

DEVICE_PATIENCE = 5.0
"""Seconds for a device's node to appear."""


def _simple(kernel: str, ramdisk: str | None, arguments: str, end: str) -> str:
    items = [f"kernel {kernel}", *([] if ramdisk is None else [f"ramdisk {ramdisk}"]), f"args {arguments}"]
    if any(end in item for item in items):
        raise UsageError("--output-format=simple cannot hold a path with a line end: use simple0")
    return "".join(item + end for item in items) + end


def _sxp(kernel: str, ramdisk: str | None, arguments: str) -> str:
    if any(character in text for text in (kernel, ramdisk or "") for character in '() "\n') or '"' in arguments:
        raise UsageError("--output-format=sxp cannot hold these paths or arguments: use simple0")
    return f"linux (kernel {kernel})" + (f"(ramdisk {ramdisk})" if ramdisk else "") + f'(args "{arguments}")'


FORMATS: Final[dict[str, Callable[[str, str | None, str], str]]] = {
    "sxp": _sxp,
    "simple": lambda kernel, ramdisk, arguments: _simple(kernel, ramdisk, arguments, "\n"),
    "simple0": lambda kernel, ramdisk, arguments: _simple(kernel, ramdisk, arguments, "\0"),
}
"""The result's forms: from the paths of kernel and ramdisk, and the command line."""


class _Output(Closing):
    """Where the result goes: a file or FIFO that is opened before rights are dropped, or standard output."""

    def __init__(self, path: str | None) -> None:
        try:
            self._fd = 1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error

    def write(self, text: str) -> None:
        """All of it. Raises StorageError."""
        data = os.fsencode(text)
        while data:
            try:
                data = data[os.write(self._fd, data):]
            except OSError as error:
                raise StorageError(f"cannot write the result: {error.strerror}") from error

    def close(self) -> None:
        fd, self._fd = self._fd, 1
        if fd != 1:
            os.close(fd)


def drop_rights(user: str) -> None:
    """Become `user`, a number or a name, for good. Raises UsageError."""
    try:
        found = pwd.getpwuid(int(user)) if user.isascii() and user.isdigit() else pwd.getpwnam(user)
        uid, gid = found.pw_uid, found.pw_gid
    except (KeyError, OverflowError):
        if not (user.isascii() and user.isdigit()):
            raise UsageError(f"--runas: there is no user {user!r}") from None
        uid = gid = int(user)  # xl gives each domain a number of its own, which need not have a name
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except (OSError, OverflowError) as error:
        raise UsageError(f"--runas: cannot become user {user}: {error}") from None


def _wait_for_device(path: str) -> None:
    """libxl waits until dom0's own disk is connected; its node in /dev comes a moment later."""
    deadline = time.monotonic() + DEVICE_PATIENCE
    while path.startswith("/dev/") and not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.05)


def _show_entry(session: Session, bundle: Bundle, boot: Boot) -> None:
    """pygrub's list of entries: here there is one."""
    session.show(None, f"title: {bundle.source.name}\n  root: None\n  kernel: {boot.kernel.name}\n  args: {boot.cmdline}\n"
                       f"  initrd: {boot.ramdisk.name if boot.ramdisk else None}")


@click.command("bootloader", short_help="What xl runs for bootloader=.")
@click.argument("disk")
@click.option("--runas", metavar="USER", help="The user, or its number, to be while the bundle is read.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing is said beside errors, with or without.")
@click.option("-i", "--interactive", is_flag=True, help="Means nothing: there is one entry, and no menu.")
@click.option("--debug", is_flag=True, help="Means nothing.")
@click.option("--isconfig", is_flag=True, hidden=True)
@click.option("-l", "--list-entries", is_flag=True, help="Show what would be booted.")
@click.option("-n", "--not-really", is_flag=True, help="Copy nothing, and give names of images in place of paths.")
@click.option("--entry", metavar="ENTRY", help="Means nothing: there is one.")
@click.option("--kernel", default="", metavar="NAME", help="The kernel's image. Default: the first of its kind.")
@click.option("--ramdisk", default="", metavar="NAME", help="The ramdisk's image. Default: the first of its kind.")
@click.option("--args", "arguments", default="", metavar="TEXT", help="Comes after the bundle's command line.")
@click.option("--offset", "offsets", type=int, multiple=True, metavar="BYTES", help="0: a bundle is a whole disk.")
@click.option("--output", metavar="FILE", help="Where the result goes. Default: standard output.")
@click.option("--output-format", type=click.Choice(list(FORMATS)), default="sxp", help="The result's form.")
@click.option("--output-directory", metavar="DIR", help="Where the copies go.")
@verb()
def command(session: Session, disk: str, runas: str | None, quiet: bool, interactive: bool, debug: bool, isconfig: bool,
            list_entries: bool, not_really: bool, entry: str | None, kernel: str, ramdisk: str, arguments: str,
            offsets: tuple[int, ...], output: str | None, output_format: str, output_directory: str | None) -> None:
    """Copy the kernel and the ramdisk of the bundle DISK, a file or a block device, for xl.

    The options are pygrub's. `xenpv host install` puts this where xl finds it as bootloader = "xenpv-bootloader".
    """
    if any(offsets):
        raise UsageError("--offset: a bundle begins with the disk: give 0, or the device that begins with it")
    if isconfig:
        raise UsageError("--isconfig: a bundle is no configuration of a boot loader")
    if output_directory is None and not (list_entries or not_really):
        raise UsageError("where do the copies go? Give --output-directory DIR")
    form = FORMATS[output_format]
    with ExitStack() as stack:
        result = stack.enter_context(_Output(output))
        copies = stack.enter_context(Copies(output_directory)) if output_directory and not (list_entries or not_really) \
            else None
        _wait_for_device(disk)
        source = stack.enter_context(FileSource(disk))
        if runas is not None:
            drop_rights(runas)
        bundle = Bundle(source)
        boot = choose(bundle, kernel=kernel, ramdisk=ramdisk, arguments=arguments)
        if list_entries:
            _show_entry(session, bundle, boot)
        elif copies is None:
            result.write(form(f"<kernel:{boot.kernel.name}>",
                              f"<ramdisk:{boot.ramdisk.name}>" if boot.ramdisk else None, boot.cmdline))
        else:
            result.write(form(*copies.fill(bundle, boot), boot.cmdline))
            copies.keep()
