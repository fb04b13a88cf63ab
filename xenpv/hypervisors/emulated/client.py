"""`EmulatedDomain`: a process's place on the emulated Xen."""

from __future__ import annotations

import os
from pathlib import Path

from xenpv.core import ffi, lib
from xenpv.errors import HypervisorError
from xenpv.store import XenStore

from ..base import BaseDomain
from ..mapping import Core, Mapper
from .channels import Channels
from .link import Link, connect
from .rundir import domain_directory
from .sharing import Sharing


def open_core(directory: Path) -> Core:
    """A handle of the core: a connection of its own. Raises HypervisorError."""
    error = ffi.new("int *")
    handle = lib.xenpv_emulated_open(connect(directory).detach(), error)
    if not handle:
        raise HypervisorError(f"the emulated Xen in {directory} does not answer ({os.strerror(error[0])})")
    return Core(handle)


class EmulatedDomain(BaseDomain):
    """The Domain of an ``emulated:`` URI. Closing it ends its grants, mappings and ports.

    Raises UsageError for a URI that is none, HypervisorError when there is no emulated Xen or no such domain.
    """

    def __init__(self, uri: str) -> None:
        self.directory = domain_directory(uri)
        self._link = Link(self.directory)
        super().__init__(
            uri, Sharing(self._link),
            Mapper(lambda: open_core(self.directory), f"is the emulated Xen in {self.directory} alive?"), Channels(self._link),
            # A host that is gone took its domains along: there is nothing to connect to again.
            lambda: XenStore(self.directory / "xenstored", reconnect=0))

    @property
    def domid(self) -> int:
        return self._link.domid

    def kernel_driver(self, devid: int) -> None:
        """A process has no drivers but its own."""

    def close(self) -> None:
        super().close()
        self._link.close()
