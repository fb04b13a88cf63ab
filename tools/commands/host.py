"""xenpv host: what stock xl needs on a Xen host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from xenpv.errors import HypervisorError, UsageError

from ..host.files import SERVICE, host_files, service_command
from ..host.files import install as install_files
from ..host.files import uninstall as uninstall_files
from ..session import Session, verb

SYSTEMD = Path("/run/systemd/system")
"""There when systemd runs this machine (sd_booted(3))."""


@click.group("host")
def command() -> None:
    """Put or remove what stock xl needs here: the script block-xenpv, a boot loader, and a service for the backend."""


@command.command()
@verb(dry_run=True)
def install(session: Session) -> None:
    """Put xl's script, its boot loader and the backend's service, and start it where systemd runs.

    Then xl gives a disk to our backend with disk = ["script=block-xenpv,vdev=xvda,target=/srv/guest.img"], and boots
    from a boot bundle with bootloader = "xenpv-bootloader".
    """
    files = host_files(command=service_command())
    if session.dry_run:
        for file in files:
            session.show(None, f"{'there already' if file.present else 'would write'}: {file.path}")
        if SYSTEMD.exists():
            session.show(None, f"would run: systemctl daemon-reload; systemctl enable --now {SERVICE}")
        return
    for path in install_files(files):
        session.say(f"wrote {path}")
    if SYSTEMD.exists():
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", SERVICE)
    else:
        session.say("systemd does not run here: start the backend yourself, `xenpv backend run --daemon`")


@command.command()
@verb(dry_run=True, force="Also when disks are on our backend: they wait for the next one.")
def uninstall(session: Session) -> None:
    """Remove them again. Disks that are in use would stand still: then it is refused."""
    files = host_files(command=service_command())
    served = _served(session)
    if session.dry_run:
        for file in files:
            session.show(None, f"would remove: {file.path}" if file.path.exists() else f"not there: {file.path}")
        return
    if served and not session.force:
        raise UsageError(f"{served} disks are on our backend (`xenpv block-list`): detach them first, or say -f and they "
                         "wait for the next backend")
    if SYSTEMD.exists() and files[-1].path.exists():
        _systemctl("disable", "--now", SERVICE)
    for path in uninstall_files(files):
        session.say(f"removed {path}")
    if SYSTEMD.exists():
        _systemctl("daemon-reload")


def _served(session: Session) -> int:
    """How many disks were handed to our backend; 0 also where there is no Xen."""
    from .. import toolstack

    try:
        with session.open_domain() as dom0:
            return toolstack.count_ours(dom0.store)
    except HypervisorError:
        return 0


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(["systemctl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorError(f"systemctl {words[0]}: {error}") from None
    if done.returncode:
        raise HypervisorError(f"systemctl {' '.join(words)}: {done.stderr.strip() or 'it failed, and said nothing'}")
