"""An image of a Ceph cluster, through librbd's own Python module.

RULES
- librbd's threads call back; nothing here waits for the cluster but opening and closing.
- A writer takes the image's exclusive lock before its first I/O, where the image has that feature, and keeps it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status

from ...log import LOGGER
from ..base import SECTOR, Done, StorageBusyError, StorageFacts, StorageRequest
from ..cache import has_flush
from ..layers import AsyncStorage
from .binding import load

CONNECT_PATIENCE: Final = 3
"""Seconds that opening a disk waits for its cluster."""
LOCK_PATIENCE: Final = 2.0
"""Seconds that opening a disk waits for its lock."""

_CACHES: Final = {"none": ("false", ""), "directsync": ("false", ""), "writethrough": ("true", "writethrough"),
                  "unsafe": ("true", "writeback")}
"""rbd_cache and rbd_cache_policy for a mode of ../cache.py; the others leave both to ceph.conf."""


@dataclass(frozen=True, slots=True)
class RbdOptions:
    """How a cluster is reached."""

    user: str = "admin"
    conf: str | None = None
    """ceph.conf; None: where Ceph looks for it."""
    timeout: float = 30.0
    """Seconds that an operation waits for the cluster before it fails; 0: for ever, as Ceph's own default is."""
    cache: str = "writeback"


class RbdStorage(AsyncStorage):
    """``POOL/[NAMESPACE/]IMAGE[@SNAPSHOT]``. Raises StorageBusyError when another writes to it, StorageError."""

    def __init__(self, image: str, *, readonly: bool = False, options: RbdOptions | None = None) -> None:
        self.name = f"rbd:{image}"
        self.options = options or RbdOptions()
        self.cache = self.options.cache
        pool, namespace, name, snapshot = take_apart(image)
        if snapshot and not readonly:
            raise StorageError(f"{self.name} is a snapshot: attach it read-only (mode r)")
        rados, self._rbd = load()
        self._out = 0
        self._changed = threading.Condition()
        self._closed = False
        with contextlib.ExitStack() as made:
            try:
                cluster = rados.Rados(rados_id=self.options.user,
                                      conffile=self.options.conf or rados.Rados.DEFAULT_CONF_FILES)
                self._configure(cluster)
                made.callback(cluster.shutdown)
                cluster.connect(timeout=CONNECT_PATIENCE)
                io = made.enter_context(cluster.open_ioctx(pool))
                if namespace:
                    io.set_namespace(namespace)
                self._image: Any = made.enter_context(self._rbd.Image(io, name, snapshot or None, read_only=readonly))
                if not readonly:
                    self._lock(made)
                self._facts = self._make_facts(readonly)
            except (rados.Error, self._rbd.Error) as error:
                raise StorageError(f"{self.name}: {_words(error)}") from error
            self._made = made.pop_all()

    def _configure(self, cluster: Any) -> None:
        cache, policy = _CACHES.get(self.cache, ("", ""))
        seconds = f"{self.options.timeout:g}"
        for name, value in (("rbd_cache", cache), ("rbd_cache_policy", policy), ("rados_osd_op_timeout", seconds),
                            ("rados_mon_op_timeout", seconds), ("client_mount_timeout", str(CONNECT_PATIENCE))):
            if value:
                cluster.conf_set(name, value)

    def _lock(self, made: contextlib.ExitStack) -> None:
        """The wait for a dead writer's lock goes on in a thread, which owns what is `made` when LOCK_PATIENCE is over."""
        if not self._image.features() & self._rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
            return
        attempt = _Attempt(lambda: self._image.lock_acquire(self._rbd.RBD_LOCK_MODE_EXCLUSIVE), made)
        if not attempt.wait():
            raise StorageBusyError(f"{self.name} is in use: the lock of a client that seems to be dead expires in half a "
                                   "minute")
        if attempt.error is not None:
            raise StorageBusyError(f"{self.name} is in use: another client holds its exclusive lock "
                                   f"({_words(attempt.error)})") from attempt.error

    def _make_facts(self, readonly: bool) -> StorageFacts:
        size = self._image.size()
        if not size or size % SECTOR:
            raise StorageError(f"{self.name} has {size} bytes, no whole sectors of {SECTOR}: `rbd resize` makes it so")
        return StorageFacts(size // SECTOR, readonly, SECTOR, 4096, flush=has_flush(self.cache), discard=not readonly,
                            discard_granularity=0 if readonly else 4096)

    @property
    def facts(self) -> StorageFacts:
        return self._facts

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        """See Submits.submit."""
        for request in requests:
            self._begin(request, done, flush=request.flush_first or request.op == Op.FLUSH_DISKCACHE)

    def _begin(self, request: StorageRequest, done: Done, *, flush: bool) -> None:
        def ended(completion: Any, content: bytes | None = None) -> None:
            try:
                status = self._status(request, completion.get_return_value(), content, flush)
            finally:
                self._count(-1)
            if flush and status == Status.OKAY and request.op != Op.FLUSH_DISKCACHE:
                self._begin(request, done, flush=False)
                return
            request.status = status
            done(request)

        self._count(1)
        try:
            start = self._starter(request, flush)
            start(ended)
        except (self._rbd.Error, LookupError) as error:
            self._count(-1)
            LOGGER.error("%s: operation %d at sector %d: %s", self.name, request.op, request.sector, _words(error))
            request.status = Status.ERROR
            done(request)

    def _starter(self, request: StorageRequest, flush: bool) -> Callable[[Any], Any]:
        """What begins the operation, given its callback. Raises LookupError for one that there is not."""
        image, offset = self._image, request.sector * SECTOR
        if flush:
            return lambda ended: image.aio_flush(ended)
        match request.op:
            case Op.READ:
                return lambda ended: image.aio_read(offset, request.bytes, ended)
            case Op.WRITE if request.data is not None:
                content = bytes(request.data)
                return lambda ended: image.aio_write(content, offset, ended)
            case Op.DISCARD:  # a discard of librbd's leaves small pieces as they are
                return lambda ended: image.aio_write_zeroes(offset, request.bytes, ended)
        raise LookupError(f"operation {request.op}")

    def _status(self, request: StorageRequest, result: int, content: bytes | None, flush: bool) -> Status:
        if result < 0:
            LOGGER.error("%s: operation %d at sector %d: %s", self.name, request.op, request.sector, _words_of(-result))
            return Status.EOPNOTSUPP if -result == errno.EOPNOTSUPP and request.op != Op.READ else Status.ERROR
        if request.op == Op.READ and not flush:
            if content is None or request.data is None or len(content) != request.bytes:
                return Status.ERROR
            request.data[:] = content
        return Status.OKAY

    def _count(self, change: int) -> None:
        with self._changed:
            self._out += change
            self._changed.notify_all()

    def refresh(self) -> StorageFacts:
        """See Storage.refresh."""
        try:
            self._facts = replace(self._facts, sectors=self._make_facts(self._facts.readonly).sectors)
        except self._rbd.Error as error:
            raise StorageError(f"{self.name}: {_words(error)}") from error
        return self._facts

    def grow(self, size: int) -> StorageFacts:
        """See Storage.grow."""
        facts = self.refresh()
        if size % SECTOR or size < facts.size or facts.readonly:
            raise StorageError(f"{self.name} has {facts.size} bytes and is not made {size} here: use `rbd resize`, then "
                               "resize without a size")
        try:
            self._image.resize(size)
        except self._rbd.Error as error:
            raise StorageError(f"{self.name} cannot be grown: {_words(error)}") from error
        return self.refresh()

    def describe(self) -> Mapping[str, Any]:
        """See Describes.describe."""
        return {"rbd": {"in_flight": self._out, "user": self.options.user}}

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._changed:
            self._changed.wait_for(lambda: not self._out)
        try:
            self._made.close()
        except self._rbd.Error as error:
            LOGGER.error("%s: while closing: %s", self.name, _words(error))


class _Attempt:
    """Something that may take long, in a thread; it closes `made` itself when nobody waits any more."""

    def __init__(self, function: Callable[[], object], made: contextlib.ExitStack) -> None:
        self.error: Exception | None = None
        self._function = function
        self._made = made
        self._left: contextlib.ExitStack | None = None
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="xenpv-rbd-lock", daemon=True).start()

    def wait(self) -> bool:
        """Whether it has ended within LOCK_PATIENCE; else `made` is the thread's."""
        with self._changed:
            if self._changed.wait_for(lambda: self._ended, LOCK_PATIENCE):
                return True
            self._left = self._made.pop_all()
            return False

    def _run(self) -> None:
        try:
            self._function()
        except Exception as error:  # the waiter's to handle, whatever it is
            self.error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            left = self._left
        if left is not None:
            left.close()


def take_apart(text: str) -> tuple[str, str, str, str]:
    """Pool, namespace, image and snapshot; "" for what is not there. Raises StorageError."""
    path, _, snapshot = text.partition("@")
    parts = path.split("/")
    if len(parts) not in (2, 3) or not all(parts) or ("@" in text and not snapshot):
        raise StorageError(f"rbd:{text} names no image: write rbd:pool/image, or rbd:pool/namespace/image@snapshot")
    return parts[0], parts[1] if len(parts) == 3 else "", parts[-1], snapshot


def _words(error: Exception) -> str:
    """Ceph's error on one line, without its brackets."""
    number = getattr(error, "errno", None)
    return f"{_words_of(number)}: {error}" if isinstance(number, int) and not str(error) else " ".join(str(error).split())


def _words_of(number: int) -> str:
    return os.strerror(number)
