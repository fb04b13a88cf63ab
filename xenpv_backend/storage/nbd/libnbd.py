"""libnbd, as far as a client with many requests in flight needs it: the only place that knows its C functions.

RULES
- A Connection belongs to one thread.
- Memory that a command reads or fills is held until the command has ended, or the connection is closed.

Source: libnbd(3) and the pages of its functions, interface of version 1.0 on (libnbd.so.0).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from xenpv.closing import Closing
from xenpv.errors import ClosedError, StorageError

_FUA, _DIRECTION_READ, _DIRECTION_WRITE = 1, 1, 2
_SIZE_MINIMUM, _SIZE_PREFERRED = 0, 1


class _Completion(ctypes.Structure):
    """nbd_completion_callback; all NULL: nobody is called, completed() is asked."""

    _fields_ = [("callback", ctypes.c_void_p), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p)]


_NO_CALLBACK: Final = _Completion(None, None, None)
_HANDLE, _INT, _I64, _U64, _SIZE, _PTR, _TEXT, _U32 = (
    ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p,
    ctypes.c_uint32)

_FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "create": (_HANDLE, []), "close": (None, [_HANDLE]), "get_error": (_TEXT, []), "get_errno": (_INT, []),
    "set_uri_allow_local_file": (_INT, [_HANDLE, ctypes.c_bool]), "aio_connect_uri": (_INT, [_HANDLE, _TEXT]),
    "aio_get_fd": (_INT, [_HANDLE]), "aio_get_direction": (ctypes.c_uint, [_HANDLE]),
    "aio_notify_read": (_INT, [_HANDLE]), "aio_notify_write": (_INT, [_HANDLE]),
    "aio_is_connecting": (_INT, [_HANDLE]), "aio_is_dead": (_INT, [_HANDLE]), "aio_is_closed": (_INT, [_HANDLE]),
    "get_size": (_I64, [_HANDLE]), "get_block_size": (_I64, [_HANDLE, _INT]), "is_read_only": (_INT, [_HANDLE]),
    "can_flush": (_INT, [_HANDLE]), "can_fua": (_INT, [_HANDLE]), "can_trim": (_INT, [_HANDLE]),
    "can_zero": (_INT, [_HANDLE]),
    "aio_pread": (_I64, [_HANDLE, _PTR, _SIZE, _U64, _Completion, _U32]),
    "aio_pwrite": (_I64, [_HANDLE, _PTR, _SIZE, _U64, _Completion, _U32]),
    "aio_flush": (_I64, [_HANDLE, _Completion, _U32]),
    "aio_trim": (_I64, [_HANDLE, _U64, _U64, _Completion, _U32]),
    "aio_zero": (_I64, [_HANDLE, _U64, _U64, _Completion, _U32]),
    "aio_command_completed": (_INT, [_HANDLE, _U64]), "aio_peek_command_completed": (_I64, [_HANDLE]),
    "aio_disconnect": (_INT, [_HANDLE, _U32]),
}


class NbdError(OSError):
    """libnbd refused, or the server answered with an error: its errno, and libnbd's words."""


@dataclass(frozen=True, slots=True)
class Export:
    """What the server says of what it serves. Sizes are bytes; 0: it says nothing."""

    size: int
    readonly: bool
    flush: bool
    fua: bool
    trim: bool
    zero: bool
    minimum_block: int
    preferred_block: int


@cache
def load() -> Any:
    """libnbd, with the types of its functions set. Raises StorageError when it is not installed."""
    try:
        library = ctypes.CDLL("libnbd.so.0")
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"nbd_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise StorageError("NBD needs libnbd (libnbd.so.0), which is not here: `apt-get install libnbd0`") from error
    return library


class Connection(Closing):
    """A connection to the export that `uri` names, begun and not awaited. Raises StorageError, NbdError."""

    def __init__(self, uri: str) -> None:
        self._lib = load()
        self._memory: dict[int, Any] = {}
        self._handle = self._lib.nbd_create()
        if not self._handle:
            raise self._error()
        try:
            self._check(self._lib.nbd_set_uri_allow_local_file(self._handle, True))
            self._check(self._lib.nbd_aio_connect_uri(self._handle, uri.encode("utf-8", "surrogateescape")))
        except BaseException:
            self.close()
            raise

    def _error(self) -> NbdError:
        words = (self._lib.nbd_get_error() or b"libnbd failed").decode("utf-8", "replace")
        return NbdError(self._lib.nbd_get_errno() or errno.EIO, words)

    def _check(self, result: int) -> int:
        if result < 0:
            raise self._error()
        return result

    def _open(self) -> Any:
        if not self._handle:
            raise ClosedError("the connection is closed")
        return self._handle

    def _ask(self, name: str, *arguments: Any) -> int:
        return self._check(getattr(self._lib, f"nbd_{name}")(self._open(), *arguments))

    # The event loop's part.

    def fileno(self) -> int:
        """The socket, or -1 when there is none (any more)."""
        return max(int(self._lib.nbd_aio_get_fd(self._open())), -1)

    def events(self) -> int:
        """What to poll fileno() for."""
        direction = self._lib.nbd_aio_get_direction(self._open())
        return ((select.POLLIN if direction & _DIRECTION_READ else 0)
                | (select.POLLOUT if direction & _DIRECTION_WRITE else 0))

    def notify(self, found: int) -> None:
        """Go on, as poll() `found` the socket. Raises NbdError when the connection broke by that."""
        wanted = self.events()
        if wanted & select.POLLIN and found & ~select.POLLOUT:
            self._ask("aio_notify_read")
        elif wanted & select.POLLOUT and found & ~select.POLLIN:
            self._ask("aio_notify_write")

    def is_connecting(self) -> bool:
        return bool(self._lib.nbd_aio_is_connecting(self._open()) == 1)

    def is_gone(self) -> bool:
        """No command will ever end well."""
        return 1 in (self._lib.nbd_aio_is_dead(self._open()), self._lib.nbd_aio_is_closed(self._open()))

    def export(self) -> Export:
        """What is served. Raises NbdError."""
        ask = self._ask
        return Export(ask("get_size"), bool(ask("is_read_only")), bool(ask("can_flush")), bool(ask("can_fua")),
                      bool(ask("can_trim")), bool(ask("can_zero")), ask("get_block_size", _SIZE_MINIMUM),
                      ask("get_block_size", _SIZE_PREFERRED))

    # Commands. Each returns its cookie, and raises NbdError.

    def read(self, offset: int, data: memoryview) -> int:
        memory = (ctypes.c_char * len(data)).from_buffer(data)
        return self._hold(self._ask("aio_pread", ctypes.addressof(memory), len(data), offset, _NO_CALLBACK, 0), memory)

    def write(self, offset: int, data: memoryview, *, fua: bool = False) -> int:
        memory = (ctypes.c_char * len(data)).from_buffer(bytearray(data) if data.readonly else data)
        return self._hold(self._ask("aio_pwrite", ctypes.addressof(memory), len(data), offset, _NO_CALLBACK,
                                    _FUA if fua else 0), memory)

    def flush(self) -> int:
        return self._ask("aio_flush", _NO_CALLBACK, 0)

    def trim(self, offset: int, length: int) -> int:
        return self._ask("aio_trim", length, offset, _NO_CALLBACK, 0)

    def zero(self, offset: int, length: int, *, fua: bool = False) -> int:
        """The range reads as zero; the server may make a hole of it."""
        return self._ask("aio_zero", length, offset, _NO_CALLBACK, _FUA if fua else 0)

    def _hold(self, cookie: int, memory: Any) -> int:
        self._memory[cookie] = memory
        return cookie

    def completed(self) -> list[tuple[int, int]]:
        """Cookie and errno (0: done) of each command that has ended since."""
        found = []
        while (cookie := self._lib.nbd_aio_peek_command_completed(self._open())) > 0:
            failed = self._lib.nbd_aio_command_completed(self._handle, cookie) < 0
            found.append((cookie, (self._lib.nbd_get_errno() or errno.EIO) if failed else 0))
            self._memory.pop(cookie, None)
        return found

    def disconnect(self) -> None:
        """Tell the server that it was the last command; the connection closes by itself then."""
        if not self.is_gone():
            self._ask("aio_disconnect", 0)

    def close(self) -> None:
        """End it at once. No command touches its memory any more."""
        handle, self._handle = self._handle, None
        if handle:
            self._lib.nbd_close(handle)
            self._memory.clear()


def words_of(error: int) -> str:
    """An errno for people."""
    return os.strerror(error)
