"""overlay: copy on write. What is below is only read; what a guest writes goes to a file, or to memory.

RULES
- One thread (the worker) decides which blocks are on top; the storage below never changes.
- A write is answered when a later life of this process would find it: the block's bit is in the file.
- A bit never reaches the file before its block is durable, so no crash shows a block that was not written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status

from ...log import LOGGER
from ..base import SECTOR, Done, StorageFacts, StorageRequest, SubRequest
from ..layers import AsyncStorage, Layer, status_of
from ..target import Parameters
from ..worker import RunsUntilClosed, Worker
from .overlay_top import BLOCK, FileTop, MemoryTop, Top

MEMORY_LIMIT = 1 << 30
"""Bytes that an overlay in memory holds, by default."""


class Overlay(Layer):
    """`below`, which is not changed, under `top`, which belongs to it from now on."""

    def __init__(self, below: AsyncStorage, top: Top, *, readonly: bool = False,
                 worker: RunsUntilClosed | None = None) -> None:
        super().__init__(below)
        self.below: AsyncStorage = below
        self._top = top
        facts = below.facts
        self._facts = replace(facts, readonly=readonly, flush=True, discard=not readonly,
                              discard_granularity=0 if readonly else BLOCK, discard_alignment=0,
                              discard_secure=False)
        self._worker = worker or Worker("xenpv-overlay")
        self._waiting: deque[tuple[StorageRequest, Done]] = deque()
        self._uncommitted: list[tuple[StorageRequest, Done]] = []

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"overlay of {self.below.name}"

    @property
    def facts(self) -> StorageFacts:
        return self._facts

    def refresh(self) -> StorageFacts:
        """See Storage.refresh. The size is what it was when the overlay was opened."""
        return self._facts

    def grow(self, size: int) -> StorageFacts:
        """See Storage.grow."""
        raise StorageError(f"{self.name} cannot be grown: an overlay has the size of what it covers")

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        self._waiting.extend((request, done) for request in requests)
        self._worker.post(self._work)

    def _work(self) -> None:
        """All that waits, with one sync for all new blocks. On the worker."""
        while self._waiting:
            request, done = self._waiting.popleft()
            request.status = Status.ERROR
            try:
                if request.op == Op.READ and request.data is not None:
                    self._read(request, request.data, done)
                    continue
                if request.op == Op.FLUSH_DISKCACHE or request.flush_first:
                    self._commit()
                    self._top.flush()
                if request.op == Op.WRITE and request.data is not None:
                    self._write(request.sector * SECTOR, request.data)
                elif request.op == Op.DISCARD:
                    self._discard(request.sector * SECTOR, request.bytes)
                elif request.op != Op.FLUSH_DISKCACHE:
                    request.status = Status.EOPNOTSUPP
                    done(request)
                    continue
                request.status = Status.OKAY
                self._uncommitted.append((request, done))
            except OSError as error:
                LOGGER.error("%s: %s", self.name, error.strerror or error)
                request.status = status_of(error)
                done(request)
        self._commit()

    def _commit(self) -> None:
        """Answer what was written, once its bits are in the file."""
        waiting, self._uncommitted = self._uncommitted, []
        if not waiting:
            return
        try:
            self._top.commit()
        except OSError as error:
            LOGGER.error("%s: %s", self.name, error.strerror or error)
            for request, _ in waiting:
                request.status = Status.ERROR
        for request, done in waiting:
            done(request)

    def _runs(self, offset: int, length: int) -> Iterator[tuple[bool, int, int]]:
        """(on top?, from, to) of the pieces of a range of bytes, neighbours of one kind together."""
        at, end = offset, offset + length
        while at < end:
            block = at // BLOCK
            ours = self._top.has(block)
            while block * BLOCK < end and self._top.has(block) == ours:
                block += 1
            to = min(block * BLOCK, end)
            yield ours, at, to
            at = to

    def _read(self, request: StorageRequest, data: memoryview, done: Done) -> None:
        offset = request.sector * SECTOR
        parts: list[StorageRequest] = []
        for ours, start, end in self._runs(offset, request.bytes):
            piece = data[start - offset:end - offset]
            if ours:
                self._top.read(start, piece)
            else:
                parts.append(SubRequest(Op.READ, start // SECTOR, end - start, piece))
        request.status = Status.OKAY
        if not parts:
            done(request)
            return
        left, lock = len(parts), threading.Lock()

        def finished(part: StorageRequest) -> None:
            nonlocal left
            with lock:
                left -= 1
                if part.status != Status.OKAY:
                    request.status = part.status
                last = not left
            if last:
                done(request)

        self.below.submit(parts, finished)

    def _cover(self, offset: int, end: int) -> None:
        """Bring up the blocks of which a write to the range changes only a part. Raises OSError."""
        for block in {offset // BLOCK, (end - 1) // BLOCK}:
            start, stop = block * BLOCK, min((block + 1) * BLOCK, self._facts.size)
            if (offset <= start and stop <= end) or self._top.has(block):
                continue
            content = memoryview(bytearray(stop - start))
            part = SubRequest(Op.READ, start // SECTOR, stop - start, content)
            self.below.handle([part])
            if part.status != Status.OKAY:
                raise OSError(0, f"what is below cannot be read at byte {start}")
            self._top.write(start, content)

    def _write(self, offset: int, data: memoryview) -> None:
        self._cover(offset, offset + len(data))
        self._top.write(offset, data)

    def _discard(self, offset: int, length: int) -> None:
        self._cover(offset, offset + length)
        self._top.zero(offset, length)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "overlay": self._top.describe()}

    def close(self) -> None:
        self._worker.close()
        super().close()
        self._top.close()


def make(below: AsyncStorage, readonly: bool, parameters: Parameters) -> Overlay:
    """``overlay`` (in memory; ``limit=SIZE``) or ``overlay,file=PATH``. Raises StorageError."""
    path, limit = parameters.text("file"), parameters.size("limit")
    parameters.done()
    if path is None:
        return Overlay(below, MemoryTop(limit or MEMORY_LIMIT), readonly=readonly)
    if limit is not None:
        raise StorageError("overlay: limit= is for an overlay in memory: leave it out, or leave file= out")
    with suppress(ValueError):
        return Overlay(below, FileTop(path, below.facts.size, readonly=readonly), readonly=readonly)
    raise StorageError(f"overlay: {path!r} cannot be the name of a file")
