"""Where the bytes of a disk are. `open_storage` knows by libxl's `params` which storage it is (docs/storage.md)."""

from __future__ import annotations

import re

from xenpv.errors import StorageError

from .base import SECTOR, Storage, StorageBusyError, StorageFacts, StorageRequest, SubRequest
from .cache import CACHES, mode_of
from .file import FileStorage
from .filters import BUILT_IN
from .layers import AsyncStorage, Layer, SimpleStorage
from .memory import MemoryStorage
from .mirror import open_mirror
from .nbd import SCHEMES, NbdStorage, read_options
from .rbd import RbdOptions, RbdStorage
from .registry import FILTERS, FORMATS, Filter, Opening, is_filter, open_target, plug_ins
from .target import Parameters, Target, parse_target

__all__ = ["AsyncStorage", "CACHES", "FILTERS", "FORMATS", "FileStorage", "Filter", "Layer", "MemoryStorage",
           "NbdStorage", "Opening", "Parameters", "SECTOR", "SimpleStorage", "Storage", "StorageBusyError",
           "StorageFacts", "StorageRequest", "SubRequest", "Target", "is_filter", "open_storage", "parse_target",
           "plug_ins"]


def _asked_cache(opening: Opening) -> str:
    cache = opening.parameters.text("cache", opening.cache) or ""
    if cache not in CACHES:
        raise opening.parameters.error("cache", f"one of {', '.join(CACHES)}")
    return cache


def _open_file(opening: Opening) -> Storage:
    if not opening.target.startswith("/"):
        raise StorageError(f"{opening.target!r} is no absolute path: the backend does not know which directory it is in")
    return FileStorage(opening.target, readonly=opening.readonly, cache=_asked_cache(opening))


def _open_memory(opening: Opening) -> Storage:
    if not re.fullmatch(r"[0-9]{1,12}", opening.target, re.ASCII):
        raise StorageError(f"memory:{opening.target} is no size in bytes: say, memory:1048576")
    return MemoryStorage(int(opening.target), readonly=opening.readonly)


def _open_nbd(opening: Opening) -> Storage:
    if not opening.target.startswith("//"):
        raise StorageError(f"{opening.word}:{opening.target} is no NBD URI: write {opening.word}://server/export, or "
                           "nbd+unix:///export?socket=/path")
    options = read_options(opening.parameters, mode_of(_asked_cache(opening)))
    opening.parameters.done()
    return NbdStorage(f"{opening.word}:{opening.target}", readonly=opening.readonly, options=options)


def _open_rbd(opening: Opening) -> Storage:
    parameters = opening.parameters
    cache = mode_of(_asked_cache(opening))
    options = RbdOptions(parameters.text("user", "admin") or "", parameters.text("conf"),
                         parameters.seconds("timeout", 30.0), "writeback" if cache == "auto" else cache)
    parameters.done()
    return RbdStorage(opening.target, readonly=opening.readonly, options=options)


FORMATS.update({"raw": _open_file, "aio": _open_file, "memory": _open_memory, "mirror": open_mirror, "rbd": _open_rbd,
                **dict.fromkeys(SCHEMES, _open_nbd)})
FILTERS.update(BUILT_IN)


def open_storage(params: str, mode: str, *, cache: str = "auto") -> Storage:
    """The storage that libxl's `params` names, locked: see target.py for the grammar.

    `mode` is ``w`` or ``r``; `cache` one of CACHES. Raises StorageBusyError when another holds it, StorageError for all
    else.
    """
    if not params:
        raise StorageError("the disk has no target: its node's params are empty")
    return open_target(params, mode != "w", cache)
