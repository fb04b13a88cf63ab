"""An image from its source to where it goes: read once, hashed from the very bytes that are written, holes kept.

RULES

- Memory is a few blocks, whatever the size of the image.
- The digest is of what the sink was given, not of a second look at the source.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, Protocol

from xenpv.errors import StorageError

from ..progress import Progress
from .source import Source

__all__ = ["COPY_BLOCK", "Sink", "copy", "data_runs", "write_all"]

COPY_BLOCK: Final = 4 << 20
_BUFFERS: Final = 3
_GRAIN: Final = 64 << 10
_ZEROS: Final = bytes(1 << 20)


class Sink(Protocol):
    """Takes an image in order; offsets count from its first byte."""

    def data(self, offset: int, view: memoryview) -> None: ...

    def zero(self, offset: int, length: int) -> None: ...


class _Hash:
    """SHA-256, in a thread of its own where that pays."""

    def __init__(self, executor: ThreadPoolExecutor | None) -> None:
        self._executor = executor
        self._sum = hashlib.sha256()
        self._last: Future[None] | None = None

    def add(self, view: memoryview | bytes) -> Future[None] | None:
        """Take `view`, which stays as it is until the result is done."""
        if self._executor is None:
            self._sum.update(view)
        else:
            self._last = self._executor.submit(self._sum.update, view)
        return self._last

    def zeros(self, length: int) -> None:
        if self._last is not None:
            self._last.result()
        view = memoryview(_ZEROS)
        while length > 0:
            self._sum.update(view[:length])
            length -= len(_ZEROS)

    def digest(self) -> bytes:
        if self._last is not None:
            self._last.result()
        return self._sum.digest()


def copy(source: Source, offset: int, length: int, sink: Sink | None = None, progress: Progress | None = None) -> bytes:
    """The SHA-256 of `length` bytes from `offset` of `source`, which `sink` is given. Raises what either raises."""
    block = min(COPY_BLOCK, max(length, 1))
    with ExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(1, "sha256")) if length > COPY_BLOCK else None
        hashed = _Hash(executor)
        buffers = [memoryview(bytearray(block)) for _ in range(_BUFFERS if executor else 1)]
        pending: list[Future[None] | None] = [None] * len(buffers)
        turn = 0
        for at, count, is_data in source.extents(offset, length):
            if not is_data:
                hashed.zeros(count)
                if sink is not None:
                    sink.zero(at - offset, count)
                _tell(progress, count)
                continue
            for start in range(at, at + count, block):
                size = min(block, at + count - start)
                busy = pending[turn]
                if busy is not None:
                    busy.result()
                view = buffers[turn][:size]
                source.readinto(start, view)
                pending[turn] = hashed.add(view)
                if sink is not None:
                    sink.data(start - offset, view)
                _tell(progress, size)
                turn = (turn + 1) % len(buffers)
        return hashed.digest()


def _tell(progress: Progress | None, count: int) -> None:
    if progress is not None:
        progress.add(count)


def data_runs(view: memoryview) -> Iterator[tuple[int, int]]:
    """Start and end of what in `view` is not zero, in grains of 64 KiB."""
    start: int | None = None
    for at in range(0, len(view), _GRAIN):
        end = min(at + _GRAIN, len(view))
        # Most blocks with data show it in their first or last byte; only the others are compared.
        if view[at] or view[end - 1] or bytes(view[at:end]) != _ZEROS[:end - at]:
            start = at if start is None else start
        elif start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(view)


def write_all(fd: int, name: str, offset: int, view: memoryview) -> None:
    """All of `view` at `offset` of the file. Raises StorageError."""
    done = 0
    while done < len(view):
        try:
            with view[done:] as rest:
                done += os.pwrite(fd, rest, offset + done)
        except OSError as error:
            raise StorageError(f"cannot write {name} at {offset + done}: {error.strerror}") from error
