"""What a driver may touch: the Protocols that every hypervisor implements.

A driver is given a `Domain`, its own place on the hypervisor, and reaches everything through it: grants, event
channels and the store. Nothing here knows which hypervisor it is. The contract of each Protocol is a function in
`xenpv.testing`.

Objects that own something have `close()` and are context managers; a second close() does nothing. A use after close()
raises `ClosedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

T = TypeVar("T")

PAGE_SIZE = 4096
"""Bytes in a granted page, whatever the machine's own page size (XEN_PAGE_SHIFT, io/ring.h)."""


class Closable(Protocol):
    """Owns something until close()."""

    def close(self) -> None:
        """Give it back. A second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None: ...


class CoreHandle(Closable, Protocol):
    """A handle of the core's own on the hypervisor, for one queue and one thread at a time.

    What an open /dev/xen/gntdev is: it owns every mapping made through it, and close() ends them all. After detach()
    there is nothing left to close.
    """

    def detach(self) -> int:
        """Hand it over: the address of its struct xenpv_hypervisor, for the core function that owns it from now on."""
        ...


class SharedPages(Closable, Protocol):
    """Pages of ours that one other domain may map."""

    @property
    def refs(self) -> Sequence[int]:
        """A grant reference a page, in the order of `memory`."""
        ...

    @property
    def memory(self) -> memoryview:
        """The pages, contiguous and writable by us, zero when shared. Release every slice before close()."""
        ...

    def on_unmap(self, *, clear: int) -> None:
        """Set byte `clear` to 0 when the pages are ours no more, also when this process dies.

        Whoever still has them mapped sees it. One byte a page: a later call replaces the earlier. Raises GrantError;
        ValueError for a byte outside.
        """
        ...


class MappedPages(Closable, Protocol):
    """Another domain's pages, mapped here, contiguous."""

    @property
    def writable(self) -> bool: ...

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes from byte `offset`. Raises ValueError outside the pages."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write `data` at byte `offset`. Raises GrantError on a read-only mapping, ValueError outside the pages."""
        ...


class Grants(Protocol):
    """The grant table: our pages for others, others' pages for us."""

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> SharedPages:
        """Grant `count` fresh zeroed pages to `domid`, read-only unless `writable`.

        Whether there is a domain `domid` is not asked. close() ends the grants. A page that its peer still has mapped is not
        reused before the peer unmaps it; close() does not wait for that. Raises GrantError when there are no more pages or
        grant references.
        """
        ...

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> MappedPages:
        """Map `domid`'s granted pages in the order given. All or nothing.

        Raises GrantError with Xen's status: -2 there is no such domain, -3 its grant table has no such reference, -1 the
        reference was not granted to us, or only for reading (xen/common/grant_table.c, map_grant_ref).
        """
        ...


class EventChannel(Closable, Protocol):
    """One end of an event channel, and a descriptor of its own to wait on.

    A taken event masks the port until unmask(): events in between are kept, as one.
    """

    @property
    def port(self) -> int:
        """The local port number."""
        ...

    def fileno(self) -> int:
        """Readable while an event is pending and the port is not masked."""
        ...

    def wait_fileno(self) -> int:
        """The descriptor that the core takes events from. It leaves it out of its polls while the port is masked."""
        ...

    def notify_fileno(self) -> int:
        """The descriptor that the core notifies the peer through. A queue works on duplicates of both."""
        ...

    def notify(self) -> None:
        """Set the peer's port pending. Nothing happens while the peer is not bound."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for an event. True: one came; it is taken, the port masked."""
        ...

    def unmask(self) -> None:
        """Let the next event through: one that came while masked is delivered now."""
        ...


class Events(Protocol):
    """Event channels of this domain."""

    def bind_unbound(self, domid: int) -> EventChannel:
        """A new port that `domid` may bind to. Raises EventChannelError."""
        ...

    def bind_interdomain(self, domid: int, port: int) -> EventChannel:
        """Bind to `domid`'s unbound `port`. The new local port is pending at once, so no earlier notification is lost.

        Raises EventChannelError when there is no such domain or port, or it was offered to another.
        """
        ...


class Watch(Closable, Protocol):
    """A watch on a path and everything below it. The first event comes at once."""

    def wait(self, timeout: float | None = None) -> str | None:
        """The path of the next event, or None after `timeout` seconds.

        Equal pending paths are delivered once. When more distinct paths are pending than the queue holds, they become
        one event of the watched path itself. After a reconnect the watched path comes once more. Raises
        StoreConnectionError when the store is gone for good.
        """
        ...

    def fileno(self) -> int:
        """Readable while an event waits."""
        ...


class Transaction(Protocol):
    """The store inside one transaction; only good within `Store.transact`'s function."""

    def read(self, path: str) -> bytes: ...
    def write(self, path: str, value: bytes | str) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def list(self, path: str) -> list[str]: ...
    def exists(self, path: str) -> bool: ...
    def get_permissions(self, path: str) -> Sequence[str]: ...
    def set_permissions(self, path: str, permissions: Sequence[str]) -> None: ...


class Store(Transaction, Closable, Protocol):
    """xenstore, as this domain sees it.

    Paths are absolute, or relative to the domain's own directory. Every call may raise StoreError and its children.
    `permissions` are xenstored's own words: ``n0``, ``r5``, ``w5``, ``b5``, the first one naming the owner.
    """

    def transact(self, function: Callable[[Transaction], T], *, attempts: int = 16) -> T:
        """Run `function` in a transaction, again from the start while it meets others, at most `attempts` times.

        An exception of `function` aborts the transaction. Raises ConflictError after the last attempt.
        """
        ...

    def watch(self, path: str, *, depth: int | None = None, limit: int = 1024) -> Watch:
        """Watch `path`; at most `limit` distinct paths are kept pending."""
        ...

    def write_all(self, values: Mapping[str, bytes | str]) -> None:
        """Write every path of `values` in one transaction, in order."""
        ...

    def domain_path(self, domid: int) -> str:
        """``/local/domain/<domid>``, as xenstored says it."""
        ...


class KernelDriver(Protocol):
    """What this domain's own kernel has of one of the domain's devices."""

    @property
    def known(self) -> bool:
        """Whether the kernel has seen the device's node; it does so some time after the node is made or removed."""
        ...

    @property
    def holds(self) -> bool:
        """Whether a driver of the kernel's serves the device. Raises DeviceError where that cannot be seen."""
        ...

    @property
    def shows(self) -> str | None:
        """What the kernel shows it as, such as ``/dev/xvdb``."""
        ...

    def unbind(self) -> None:
        """Take the device from the kernel's driver, which leaves its node in Closed.

        Raises DeviceError when somebody uses it, or this process may not.
        """
        ...


class Domain(Closable, Protocol):
    """A domain's own place on the hypervisor: all that a driver may touch."""

    @property
    def domid(self) -> int: ...

    @property
    def uri(self) -> str:
        """What `open_domain` was given, for messages and for children."""
        ...

    @property
    def grants(self) -> Grants: ...

    @property
    def events(self) -> Events: ...

    @property
    def store(self) -> Store: ...

    def open_core(self) -> CoreHandle:
        """A new handle for a queue of the core. The queue owns it; it may outlive this object."""
        ...

    def kernel_driver(self, devid: int) -> KernelDriver | None:
        """The kernel's driver of this domain's virtual block device `devid`; None where there is no kernel below us."""
        ...
