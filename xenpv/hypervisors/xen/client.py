"""`XenDomain`: this kernel's own domain on real Xen, dom0 or a guest."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from xenpv.closing import Closing
from xenpv.core import ffi, lib
from xenpv.domain import EventChannel, Store
from xenpv.errors import ClosedError, GrantError, HypervisorError, StoreError, UsageError
from xenpv.store import XenStore

from ..mapping import Core, MappedPages, Mapper
from .channels import Channels
from .devices import GNTDEV, control_domain, on_xen
from .kernel import VbdDriver
from .sharing import Sharing, XenSharedPages


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


class XenGrants:
    """The Grants of this domain."""

    def __init__(self, sharing: Sharing, mapper: Mapper) -> None:
        self._sharing = sharing
        self._mapper = mapper

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> XenSharedPages:
        return self._sharing.share(domid, count, writable=writable)

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> MappedPages:
        return self._mapper.map(domid, refs, writable=writable)


class XenDomain(Closing):
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
        self._uri = uri
        self._sharing = Sharing()
        self._mapper = Mapper(open_core, "is enough memory free?", XenMappedPages)
        self._grants = XenGrants(self._sharing, self._mapper)
        self._events = Channels()
        self._store: XenStore | None = None
        self._domid: int | None = None
        self._lock = threading.Lock()
        self._closed = False

    def _open(self) -> None:
        if self._closed:
            raise ClosedError("xen: was closed")

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

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def grants(self) -> XenGrants:
        self._open()
        return self._grants

    @property
    def events(self) -> Channels:
        self._open()
        return self._events

    @property
    def store(self) -> Store:
        """Connected when it is first asked for: by xenstored's socket where there is one, else by the kernel."""
        self._open()
        with self._lock:
            if self._store is None:
                self._store = XenStore()
            return self._store

    def open_core(self) -> Core:
        self._open()
        return open_core()

    def kernel_driver(self, devid: int) -> VbdDriver:
        """See xenpv.domain.Domain."""
        return VbdDriver(devid)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._events.close()
        self._mapper.close()
        self._sharing.close()
        if self._store is not None:
            self._store.close()
