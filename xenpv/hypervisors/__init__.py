"""Every hypervisor that xenpv runs on."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from xenpv.domain import Domain
from xenpv.errors import UsageError

_EMULATED = "xenpv.hypervisors.emulated"


def _open_emulated(uri: str) -> Domain:
    domain: Domain = import_module(f"{_EMULATED}.client").EmulatedDomain(uri)
    return domain


def _open_xen(uri: str) -> Domain:
    domain: Domain = import_module("xenpv.hypervisors.xen.client").XenDomain(uri)
    return domain


SCHEMES: dict[str, Callable[[str], Domain]] = {"emulated": _open_emulated, "xen": _open_xen}
"""What opens a URI, by the word before its first colon. Nothing is imported before it is asked for."""


def default_uri() -> str:
    """$XENPV_HYPERVISOR, else ``xen:`` where /dev/xen is, else ``emulated:`` with the usual run directory."""
    chosen = os.environ.get("XENPV_HYPERVISOR")
    if chosen:
        return chosen
    if Path("/dev/xen").exists():
        return "xen:"
    return f"emulated:{import_module(f'{_EMULATED}.rundir').default_directory()}"


def open_domain(uri: str | None = None) -> Domain:
    """This process's place on a hypervisor.

    `uri` is ``xen:`` (the domain that this runs in), ``emulated:RUN`` (domain 0), ``emulated:RUN#N`` (domain N) or
    ``emulated:DIRECTORY`` with a domain's own directory; None means `default_uri()`. Raises UsageError for what is no such
    thing, HypervisorError when there is no hypervisor.
    """
    uri = default_uri() if uri is None else uri
    scheme, colon, _ = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        raise UsageError(f"unknown hypervisor {uri!r}: say xen: or emulated:DIRECTORY")
    return SCHEMES[scheme](uri)


def is_xen(domain: Domain) -> bool:
    """Whether `domain` is on a real Xen, with a backend of the kernel's, and other domains on its CPUs."""
    return not domain.uri.startswith("emulated:")
