"""`XenDomain`: this kernel's own domain on real Xen, dom0 or a guest."""

from __future__ import annotations

import os

from xenpv.core import ffi, lib
from xenpv.domain import EventChannel
from xenpv.errors import GrantError, HypervisorError, StoreError, UsageError
from xenpv.store import XenStore

from ..base import BaseDomain
from ..mapping import Core, MappedPages, Mapper
from .channels import Channels
from .devices import GNTDEV, control_domain, on_xen
from .kernel import VbdDriver
from .sharing import Sharing


def open_core() -> Core:
    """A handle of the core: a /dev/xen/gntdev of its own. Raises HypervisorError."""
    error = ffi.new("int *")
    handle = lib.xenpv_xen_open(error)
    if not handle:
        raise GNTDEV.unusable(error[0])
    return Core(handle)


class XenMappedPages(MappedPages):
    """MappedPages of real Xen."""

    def on_unmap(self, *, clear: int | None = None, notify: EventChannel | None = None) -> None:
        """What the kernel does when these pages are unmapped, also when this process dies: see XenSharedPages.on_unmap.

        Raises GrantError, also for `clear` on pages that are mapped read-only; ValueError.
        """
        with self._owner.lock:
            self._at(clear or 0, 1)
            result = lib.xenpv_xen_map_notify(self._owner.core.handle, self._map, clear or 0, clear is not None,
                                              notify is not None, notify.port if notify else 0)
        if result:
            raise GrantError(f"cannot have the kernel act when pages are unmapped ({os.strerror(-result)})")


class XenDomain(BaseDomain):
    """The Domain of ``xen:``. Closing it ends its grants, mappings and ports.

    The devices are opened when they are first used. Raises UsageError for another URI, HypervisorError where this
    kernel does not run on Xen.
    """

    def __init__(self, uri: str = "xen:") -> None:
        if uri != "xen:":
            raise UsageError(f"{uri!r} is no place on a real Xen: say xen:, which is the domain that this runs in")
        if not on_xen():
            raise HypervisorError("xen: this kernel does not run on Xen; the emulated Xen needs none: set "
                                  "XENPV_HYPERVISOR=emulated: and start it with `xenpv emu up`")
        # The store: by xenstored's socket where there is one, else by the kernel.
        super().__init__(uri, Sharing(), Mapper(open_core, "is enough memory free?", XenMappedPages), Channels(), XenStore)
        self._domid: int | None = None

    @property
    def domid(self) -> int:
        """As xenstored knows this domain."""
        if self._domid is None:
            self._domid = self._find_domid()
        return self._domid

    def _find_domid(self) -> int:
        try:
            value = self.store.read("domid")
        except StoreError as error:
            if control_domain():
                return 0
            raise HypervisorError(f"xen: this domain's number is not in the store ({error})") from error
        if not value.isdigit() or int(value) >= 0x7FF0:
            raise HypervisorError(f"xen: {value[:20]!r}, which the store says, is no domain number")
        return int(value)

    def kernel_driver(self, devid: int) -> VbdDriver:
        """See xenpv.domain.Domain."""
        return VbdDriver(devid)
