"""Copying to a leg what it lacks: piece by piece, at a rate, beside the guest's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenpv.wire.blkif import Op, Status

from ...log import LOGGER
from ..base import SECTOR, StorageRequest, SubRequest
from ..filters.throttle import TokenBucket
from ..worker import Runs
from .legs import ACTIVE, RECOVERING, OpenedLeg
from .metadata import Metadata

if TYPE_CHECKING:
    from .mirror import Mirror

PIECE: Final = 256 << 10
"""Bytes that are copied at once, and that writes wait for."""


class Recovery:
    """Recovers the legs of `mirror`, one region of one leg at a time. On its worker."""

    def __init__(self, mirror: Mirror, worker: Runs, metadata: Metadata, rate: int) -> None:
        self._mirror = mirror
        self._worker = worker
        self._metadata = metadata
        self._bucket = TokenBucket(rate, rate / 10, worker.clock)
        self.copying: tuple[int, int] | None = None
        """The bytes [from, to) that are being copied now."""
        self._leg: OpenedLeg | None = None
        self._region = 0
        self._at = 0
        self._timer = self._flushing = False

    def restart(self) -> None:
        """What has been copied of the region so far does not count."""
        self._leg = None

    def go_on(self) -> None:
        """Begin the next piece if nothing is in its way. Called whenever something may have gone out of it."""
        if self.copying or self._timer or self._flushing or self._mirror.is_ending:
            return
        if self._leg is None or self._leg.state != RECOVERING or self._region not in self._leg.todo:
            self._leg = next(iter(self._mirror.legs_in(RECOVERING)), None)
            if self._leg is None:
                return
            if not self._leg.todo:
                self._end(self._leg)
                return
            self._region = min(self._leg.todo)
            self._at = self._region * self._metadata.header.region
        end = min((self._region + 1) * self._metadata.header.region, self._metadata.header.size, self._at + PIECE)
        if self._mirror.is_written_in(self._at, end):
            return  # go_on() is called when the write has ended
        wait = self._bucket.wait()
        if wait > 0:
            self._later(wait)
            return
        self._bucket.take(end - self._at)
        self._copy(self._leg, self._at, end)

    def _later(self, seconds: float) -> None:
        self._timer = True

        def due() -> None:
            self._timer = False
            self.go_on()

        self._worker.later(seconds, due)

    def _copy(self, leg: OpenedLeg, start: int, end: int) -> None:
        self.copying = (start, end)
        data = memoryview(bytearray(end - start))
        storage = leg.storage
        source = self._mirror.legs_in(ACTIVE)[0]

        def was_read(part: StorageRequest) -> None:
            if part.status != Status.OKAY:
                LOGGER.error("%s: cannot read %d bytes at %d of %s to copy them", self._mirror.name, end - start,
                             start, source.target)
                self._stop()
                self._later(1.0)
            elif leg.state != RECOVERING or leg.storage is not storage:
                self._stop()
                self.go_on()
            else:
                self._mirror.send(leg, SubRequest(Op.WRITE, start // SECTOR, end - start, data), was_written)

        def was_written(part: StorageRequest) -> None:
            if part.status != Status.OKAY:
                self._mirror.give_up([leg], f"what it lacks cannot be written, at sector {start // SECTOR}")
            elif leg.state == RECOVERING and leg.storage is storage:
                self._was_copied(leg, end)
            self._stop()
            self.go_on()

        self._mirror.send(source, SubRequest(Op.READ, start // SECTOR, end - start, data), was_read)

    def _was_copied(self, leg: OpenedLeg, end: int) -> None:
        if self._leg is not leg:
            return  # restarted meanwhile
        self._at = end
        if end >= min((self._region + 1) * self._metadata.header.region, self._metadata.header.size):
            leg.todo.discard(self._region)

    def _stop(self) -> None:
        self.copying = None
        self._mirror.unblock()

    def _end(self, leg: OpenedLeg) -> None:
        """It has everything; once that is durable it is written down."""
        self._flushing = True
        storage = leg.storage

        def flushed(part: StorageRequest) -> None:
            self._flushing = False
            if leg.state == RECOVERING and leg.storage is storage:
                if part.status != Status.OKAY:
                    self._mirror.give_up([leg], "a flush failed")
                elif not leg.todo and not self._mirror.recovered(leg):
                    self._later(1.0)
            self.go_on()

        self._mirror.send(leg, SubRequest(Op.FLUSH_DISKCACHE, 0, 0), flushed)
