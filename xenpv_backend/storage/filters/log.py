"""log: a line for every request, when it is done.

To the backend's log, or to a file of its own: time in seconds since the disk was opened, operation, first sector, bytes,
status, and how long it took.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TextIO

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op

from ...log import LOGGER
from ..base import Done, StorageRequest
from ..layers import AsyncStorage, Layer
from ..target import Parameters

_NAMES: Final = {Op.READ: "read", Op.WRITE: "write", Op.FLUSH_DISKCACHE: "flush", Op.DISCARD: "discard"}


def name_of(op: int) -> str:
    """The word for an operation."""
    return _NAMES.get(Op(op), str(op))


class Log(Layer):
    """Writes what `below` did. `path` None: to the backend's log, at level info. Raises StorageError."""

    def __init__(self, below: AsyncStorage, path: str | None = None, *,
                 clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(below)
        self.below: AsyncStorage = below
        self._clock = clock
        self._began = clock()
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        try:
            if path is not None:
                self._file = open(path, "a", encoding="utf-8", buffering=1)
        except (OSError, ValueError) as error:
            raise StorageError(f"log: cannot write {path}: {getattr(error, 'strerror', None) or error}") from error

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        begun = self._clock()

        def finished(request: StorageRequest) -> None:
            self._write(request, begun)
            done(request)

        self.below.submit(requests, finished)

    def _write(self, request: StorageRequest, begun: float) -> None:
        now = self._clock()
        line = (f"{begun - self._began:.6f} {name_of(request.op)} sector={request.sector} bytes={request.bytes}"
                f"{' flush-first' if request.flush_first else ''}{' secure' if request.secure else ''}"
                f" status={request.status} us={(now - begun) * 1e6:.0f}")
        with self._lock:
            if self._file is None:
                LOGGER.log(logging.INFO, "%s: %s", self.name, line)
                return
            try:
                self._file.write(line + "\n")
            except OSError as error:
                LOGGER.error("log: %s: %s; no more is written there", self._file.name, error.strerror)
                self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                LOGGER.error("log: %s: %s", file.name, error.strerror)

    def close(self) -> None:
        super().close()
        with self._lock:
            self._close_file()


def make(below: AsyncStorage, readonly: bool, parameters: Parameters) -> Log:
    """``log`` or ``log,file=PATH``. Raises StorageError."""
    path = parameters.text("file")
    parameters.done()
    return Log(below, path)
