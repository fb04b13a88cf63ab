"""Every error that xenpv raises.

The tree::

    XenpvError
    ├── UsageError                  what the user asked for cannot be meant (exit status 2)
    ├── ClosedError                 an object was used after its close()
    ├── HypervisorError             no hypervisor, or it refused a call
    │   ├── GrantError              a grant was not shared, mapped, unmapped or copied (GNTST_* in `status`)
    │   └── EventChannelError       an event channel could not be bound, or its peer is gone
    ├── StoreError                  xenstored refused a request (its error name in `code`)
    │   ├── NoEntryError            ENOENT
    │   ├── AccessDeniedError       EACCES
    │   ├── ConflictError           EAGAIN: the transaction met another one, also after every retry
    │   ├── QuotaError              ENOSPC, E2BIG: a quota of this domain is used up
    │   ├── StoreTimeoutError       no answer within the time allowed
    │   └── StoreConnectionError    the connection to xenstored is gone
    ├── ProtocolError
    │   ├── LocalProtocolError      our own caller broke a rule: a bug on this side
    │   └── RemoteProtocolError     the other end broke a rule; its connection ends, nothing else
    ├── DeviceError                 a vbd did not reach the state that was waited for
    ├── TimePageError               dom0's time cannot be read from its page
    │   ├── TimeAbsentError         nobody publishes a page for this domain
    │   ├── TimeMalformedError      what is there is no page, or one of another version
    │   ├── TimeStaleError          the page stands still: its publisher is gone, pauses, or does not run
    │   ├── TimeTornError           the page was being written all the time that was allowed
    │   └── TimeDisruptedError      time jumped, or is another's; what follows is good, durations across it are not
    ├── StorageError                the storage behind a disk cannot be opened or used
    ├── BundleError                 a boot bundle is damaged, or is none (docs/bundle.md's name for it in `reason`)
    └── DiskError                   the backend answered a request with an error (BLKIF_RSP_* in `status`)

The text of each is one line that names the cause and, where there is one, the mend: the command line prints it as it is.
"""

__all__ = [
    "AccessDeniedError",
    "BundleError",
    "ClosedError",
    "ConflictError",
    "DeviceError",
    "DiskError",
    "EventChannelError",
    "GrantError",
    "HypervisorError",
    "LocalProtocolError",
    "NoEntryError",
    "ProtocolError",
    "QuotaError",
    "RemoteProtocolError",
    "StorageError",
    "StoreConnectionError",
    "StoreError",
    "StoreTimeoutError",
    "TimeAbsentError",
    "TimeDisruptedError",
    "TimeMalformedError",
    "TimePageError",
    "TimeStaleError",
    "TimeTornError",
    "UsageError",
    "XenpvError",
]


class XenpvError(Exception):
    """The root: whatever xenpv raises on purpose is one of these."""


class UsageError(XenpvError):
    """The request itself makes no sense: a bad disk specification, an impossible option. Exit status 2."""


class ClosedError(XenpvError):
    """The object was closed before; nothing was touched."""


class HypervisorError(XenpvError):
    """There is no hypervisor here, or it refused a call."""


class GrantError(HypervisorError):
    """A grant operation failed.

    `status` is Xen's GNTST_* value (0 or negative; xen/include/public/grant_table.h).
    """

    def __init__(self, message: str, status: int = -1) -> None:
        super().__init__(message)
        self.status = status


class EventChannelError(HypervisorError):
    """An event channel could not be allocated, bound, notified or closed."""


class StoreError(XenpvError):
    """xenstored refused a request. `code` is the error's name on the wire, such as ``"EINVAL"``."""

    def __init__(self, message: str, code: str = "EIO") -> None:
        super().__init__(message)
        self.code = code


class NoEntryError(StoreError):
    """The path does not exist (ENOENT)."""


class AccessDeniedError(StoreError):
    """The node's permissions do not allow it (EACCES)."""


class ConflictError(StoreError):
    """The transaction met another one (EAGAIN), also after every retry."""


class QuotaError(StoreError):
    """A quota of this domain is used up (ENOSPC, E2BIG)."""


class StoreTimeoutError(StoreError):
    """xenstored did not answer within the time allowed."""


class StoreConnectionError(StoreError):
    """The connection to xenstored broke, or could not be made."""


class ProtocolError(XenpvError):
    """A rule of the ring, of xenbus or of the wire was broken."""


class LocalProtocolError(ProtocolError):
    """This side's caller broke it."""


class RemoteProtocolError(ProtocolError):
    """The other end broke it."""


class DeviceError(XenpvError):
    """A vbd did not reach the xenbus state that was waited for."""


class TimePageError(XenpvError):
    """dom0's time cannot be read from its page (docs/time-page.md)."""


class TimeAbsentError(TimePageError):
    """There is no page for this domain."""


class TimeMalformedError(TimePageError):
    """It is no time page, or one of a major version that this xenpv does not know."""


class TimeStaleError(TimePageError):
    """The tick does not change any more."""


class TimeTornError(TimePageError):
    """No whole copy of the page could be had within the deadline."""


class TimeDisruptedError(TimePageError):
    """The time read now has nothing to do with what was read before: durations across the two are unknown."""


class StorageError(XenpvError):
    """The storage behind a disk cannot be opened, or cannot do what was asked."""


class BundleError(XenpvError):
    """A boot bundle is damaged, or is none. `reason` is its name in docs/bundle.md, such as ``"slot-digest"``."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DiskError(XenpvError):
    """The backend answered with an error. `status` is BLKIF_RSP_* (io/blkif.h): -1 error, -2 not supported."""

    def __init__(self, message: str, status: int = -1) -> None:
        super().__init__(message)
        self.status = status
