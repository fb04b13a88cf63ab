"""Where the bytes of a disk are. `open_storage` knows by libxl's `params` which storage it is."""

from __future__ import annotations

import re
from collections.abc import Callable

from xenpv.errors import StorageError

from .base import SECTOR, Storage, StorageBusyError, StorageFacts, StorageRequest
from .file import CACHES, FileStorage
from .memory import MemoryStorage

__all__ = ["CACHES", "FORMATS", "FileStorage", "MemoryStorage", "SECTOR", "Storage", "StorageBusyError", "StorageFacts",
           "StorageRequest", "open_storage"]

_FORMAT = re.compile(r"([a-z][a-z0-9-]{0,15}):(.*)", re.ASCII | re.DOTALL)


def _open_file(target: str, readonly: bool, cache: str) -> Storage:
    if not target.startswith("/"):
        raise StorageError(f"{target!r} is no absolute path: the backend does not know which directory it is in")
    return FileStorage(target, readonly=readonly, cache=cache)


def _open_memory(target: str, readonly: bool, cache: str) -> Storage:
    if not re.fullmatch(r"[0-9]{1,12}", target, re.ASCII):
        raise StorageError(f"memory:{target} is no size in bytes: say, memory:1048576")
    return MemoryStorage(int(target), readonly=readonly)


FORMATS: dict[str, Callable[[str, bool, str], Storage]] = {"raw": _open_file, "aio": _open_file, "memory": _open_memory}
"""What opens a storage, by the word before the first colon of `params`."""


def open_storage(params: str, mode: str, *, cache: str = "auto") -> Storage:
    """The storage that libxl's `params` names, locked: ``/path``, or ``format:rest`` with one of FORMATS.

    `mode` is ``w`` or ``r``; `cache` one of CACHES. Raises StorageBusyError when another holds it, StorageError for all
    else.
    """
    if not params:
        raise StorageError("the disk has no target: its node's params are empty")
    if params.startswith("/"):
        return FORMATS["raw"](params, mode != "w", cache)
    found = _FORMAT.fullmatch(params)
    if found is None:
        return FORMATS["raw"](params, mode != "w", cache)
    if found[1] not in FORMATS:
        raise StorageError(f"format {found[1]} is not served (only {', '.join(FORMATS)}): convert the image, "
                           "`qemu-img convert -O raw`")
    return FORMATS[found[1]](found[2], mode != "w", cache)
