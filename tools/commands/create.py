"""xenpv create: a domain from a configuration."""

from __future__ import annotations

import os

import click

from xenpv.domain import Domain
from xenpv.errors import UsageError

from .. import toolstack
from ..bundle.boot import booted
from ..config import DomainConfig, read_config
from ..domains import Domains
from ..session import Session, verb
from ..vbds import Attachment, prepare, warn_without_backend
from ..xl import XlDomains


@click.command("create")
@click.argument("config", metavar="CFG")
@click.argument("extra", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-p", "--paused", is_flag=True, help="Do not start it yet.")
@verb(json=True, dry_run=True)
def command(session: Session, config: str, extra: tuple[str, ...], paused: bool) -> None:
    """Make a domain from the configuration file CFG, and give it its disks.

    On the emulated Xen a domain is a process: xenpv_exec = ["program", "argument"] runs with the domain's identity
    ($XENPV_HYPERVISOR names its place). It starts in the present directory once every disk has its backend.

    On Xen it is what xl makes of CFG: `xl create` without the disks, which our backend gets, then `xl unpause`. Without a
    kernel in CFG, the first disk may be a boot bundle: kernel, ramdisk and command line come from there.
    """
    domains = session.domains()
    wanted = read_config(config, extra)
    if domains.xen:
        _check_for_xl(config, wanted)
    elif wanted.ignored:
        session.say(f"{config}: these mean nothing on the emulated Xen: {', '.join(wanted.ignored)}")
    if session.dry_run:
        session.json = True
        session.show(wanted.to_json(), "")
        return
    with session.open_domain() as dom0:
        if not domains.xen:
            for line in toolstack.prune(dom0.store, {each.domid for each in domains.all()}):
                session.say(line)
        disks = prepare(wanted.disks, domains)
        warn_without_backend(session, disks)
        if isinstance(domains, XlDomains):
            with booted(session, wanted, disks) as assignments:
                domid = _create_by_xl(domains, dom0, wanted.name, (config, (*extra, *assignments)), disks, paused)
        else:
            domid = _create(domains, dom0, wanted, disks, paused)
    session.show({"domid": domid, "name": wanted.name}, f"domain {domid} ({wanted.name}) is there")


def _create(domains: Domains, dom0: Domain, wanted: DomainConfig, disks: list[Attachment], paused: bool) -> int:
    """All of it or nothing."""
    domid = domains.create(wanted.name, wanted.exec, environment=os.environ, cwd=os.getcwd())
    try:
        for disk in disks:
            disk.attach(dom0.store, domid)
        if not paused:
            domains.unpause(domid)
    except BaseException:
        toolstack.close_all(dom0.store, domid, lambda: domains.destroy(domid), timeout=toolstack.FORCE_TIMEOUT)
        raise
    return domid


def _check_for_xl(config: str, wanted: DomainConfig) -> None:
    """Raises UsageError for what xl cannot do while the disks are not there yet."""
    if "bootloader" in wanted.ignored:
        raise UsageError(f"{config}: bootloader= reads the disk before the domain is there: write "
                         "script=block-xenpv into disk= and use `xl create` (`xenpv host install` puts the script), or "
                         "leave bootloader= out where the disk is a boot bundle")
    if wanted.exec:
        raise UsageError(f"{config}: xenpv_exec is for the emulated Xen: leave it out")


def _create_by_xl(domains: XlDomains, dom0: Domain, name: str, source: tuple[str, tuple[str, ...]],
                  disks: list[Attachment], paused: bool) -> int:
    """All of it or nothing."""
    domid = domains.create_paused(name, *source)
    try:
        for disk in disks:
            disk.attach(dom0.store, domid)
        if not paused:
            domains.unpause(domid)
    except BaseException:
        domains.destroy(domid)
        raise
    return domid
