"""A mirror: every write on several storages, and a guest that does not see one of them fail.

RULES
- One thread (the worker) decides; what legs answer comes to it as a task.
- A write is begun when its regions' bits are durable (metadata.py). It is answered with success when it is on `copies`
  legs that have everything, and each leg that does not have it is written down as stale.
- The last leg that has everything is never given up: then its errors are the guest's.
- Only legs that have everything are read.
- While a piece is copied to a leg, no write to it is under way; those that come wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xenpv.errors import StorageError
from xenpv.wire.blkif import Op, Status

from ...log import LOGGER
from ..base import SECTOR, Done, StorageBusyError, StorageFacts, StorageRequest, SubRequest
from ..layers import AsyncStorage
from ..worker import RunsUntilClosed, Worker
from . import metadata as meta
from .legs import ACTIVE, FAILED, RECOVERING, RETRY, Change, OpenedLeg, OpenLeg, common_facts, status_of_all
from .metadata import Metadata
from .recovery import Recovery

TIDY: Final = 5.0
"""Seconds without a write until a region's bit may be cleared."""


class Mirror(AsyncStorage):
    """The mirror that `metadata` describes, which belongs to it from now on. Opens its legs by `open_leg`.

    `rate` is the bytes a second that are copied to a leg that lacks some. Raises StorageBusyError when a leg is in use,
    StorageError when no leg that has everything can be opened.
    """

    cache = "mirror"

    def __init__(self, name: str, metadata: Metadata, open_leg: OpenLeg, *, rate: int, worker: RunsUntilClosed | None = None,
                 opener: RunsUntilClosed | None = None) -> None:
        self.name = name
        self._metadata = metadata
        self._open_leg = open_leg
        self._worker = worker or Worker("xenpv-mirror")
        self._opener = opener or Worker("xenpv-mirror-legs")
        self._legs = [OpenedLeg(leg.target, whole=leg.state == meta.ACTIVE) for leg in metadata.header.legs]
        self._arrived: deque[tuple[StorageRequest, Done]] = deque()
        self._blocked: list[Change] = []
        self._writing: set[Change] = set()
        self._written: dict[int, int] = {}
        self._number, self._flushed = 1, 0
        self._tidying = self._ending = False
        self._out = 0
        self._out_changed = threading.Condition()
        try:
            self._open_legs()
            self._facts = common_facts([leg for leg in self._legs if leg.storage], metadata.header.size, False)
        except BaseException:
            self._close_legs()
            raise
        self._recovery = Recovery(self, self._worker, metadata, rate)
        self._worker.post(self._start)

    def _open_legs(self) -> None:
        for leg in self._legs:
            try:
                storage = self._open_leg(leg.target)
            except StorageBusyError:
                raise
            except StorageError as error:
                leg.error = str(error)
                continue
            leg.storage = storage
            try:
                leg.check(storage, self._metadata.header.size, storage.facts.sector_size, False)
            except StorageError as error:
                leg.error, leg.storage = str(error), None
                storage.close()
        first = next((leg for leg in self._legs if leg.storage and leg.whole), None)
        if first is None:
            causes = "; ".join(leg.error if leg.error else f"{leg.target} is stale" for leg in self._legs)
            raise StorageError(f"{self.name}: no leg that has everything can be opened: {causes}")
        dirty = set(self._metadata.marked())
        for leg in self._legs:
            if leg.storage is not None:
                even = leg is first or (leg.whole and not dirty)
                leg.state, leg.todo = (ACTIVE, set()) if even else (RECOVERING, set(dirty))
        try:
            self._write_states()
        except OSError as error:
            raise StorageError(f"{self.name}: {error.strerror}") from error

    def _start(self) -> None:
        for leg in self._legs:
            if leg.state == FAILED:
                LOGGER.error("%s: without %s: %s", self.name, leg.target, leg.error)
                self.try_again(leg)
        self._recovery.go_on()
        self._tidy_later()

    @property
    def facts(self) -> StorageFacts:
        return self._facts

    # From any thread.

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        """See Submits.submit."""
        self._arrived.extend((request, done) for request in requests)
        self._worker.post(self._work)

    def drain(self) -> None:
        """See Drains.drain."""
        for leg in self._legs:
            storage = leg.storage
            if storage is not None:
                storage.drain()

    def describe(self) -> Mapping[str, Any]:
        """See Describes.describe."""
        region, legs = self._metadata.header.region, []
        for leg in self._legs:
            shown: dict[str, Any] = {"target": leg.target, "state": leg.state}
            if leg.error:
                shown["error"] = leg.error
            if leg.state == RECOVERING:
                shown["left_bytes"] = len(leg.todo) * region
            legs.append(shown)
        about: dict[str, Any] = {"mirror": {"copies": self._metadata.header.copies, "legs": legs,
                                            "dirty_bytes": self._metadata.count_marked() * region}}
        bad = [f"{leg['target']} {leg['state']}" + (f", {leg['left_bytes']} bytes to copy" if "left_bytes" in leg else "")
               for leg in legs if leg["state"] != ACTIVE]
        if bad:
            about["degraded"] = f"{self.name}: {len(legs) - len(bad)} of {len(legs)} legs: {'; '.join(bad)}"
        return about

    def close(self) -> None:
        """End copying, and leave the legs equal where that takes no longer than a flush."""
        if self._ending:
            return
        self._ending = True
        self._worker.close()
        with self._out_changed:
            self._out_changed.wait_for(lambda: not self._out)
        self._opener.close()
        self._tidy_at_the_end()
        self._close_legs()

    def _close_legs(self) -> None:
        for leg in self._legs:
            if leg.storage is not None:
                leg.storage.close()
                leg.storage = None
        self._metadata.close()

    # What goes to legs, and what comes back. Everything from here on is on the worker.

    def send(self, leg: OpenedLeg, part: SubRequest, then: Done) -> None:
        """Submit `part`; `then` is called with it on the worker."""
        storage = leg.storage
        assert storage is not None
        with self._out_changed:
            self._out += 1

        def finished(done: StorageRequest) -> None:
            self._worker.post(lambda: then(done))
            with self._out_changed:
                self._out -= 1
                self._out_changed.notify_all()

        storage.submit([part], finished)

    def legs_in(self, state: str) -> list[OpenedLeg]:
        return [leg for leg in self._legs if leg.state == state]

    def is_written_in(self, start: int, end: int) -> bool:
        """Whether a write to a byte of the range is under way."""
        return any(change.touches((start, end)) for change in self._writing if not change.flushing)

    @property
    def is_ending(self) -> bool:
        return self._ending

    def _work(self) -> None:
        """Begin all that came, with one sync for all new bits."""
        changes: list[Change] = []
        while self._arrived:
            request, done = self._arrived.popleft()
            request.status = Status.ERROR
            if request.op == Op.READ and request.data is not None:
                self._read(request, done, [])
            elif request.op in (Op.WRITE, Op.DISCARD):
                change = Change(request, done, flushing=request.flush_first)
                if request.flush_first:
                    self._flush(change)
                else:
                    changes.append(change)
            elif request.op == Op.FLUSH_DISKCACHE:
                self._flush(Change(request, done, flushing=True))
            else:
                request.status = Status.EOPNOTSUPP
                done(request)
        self._begin(changes)

    def _begin(self, changes: Sequence[Change]) -> None:
        """Writes and discards, those that may; the rest waits for the piece that is copied."""
        free = [change for change in changes if not change.touches(self._recovery.copying)]
        self._blocked += [change for change in changes if change not in free]
        if not free:
            return
        try:
            self._metadata.mark(sorted({region for change in free for region in self._regions(change)}))
        except OSError as error:
            LOGGER.error("%s: the bitmap: %s", self.name, error.strerror or error)
            for change in free:
                self._answer(change, Status.ERROR)
            return
        for change in free:
            self._writing.add(change)
            self._send_all(change)

    def unblock(self) -> None:
        """Begin what waited for the piece that was copied."""
        blocked, self._blocked = self._blocked, []
        self._begin(blocked)

    def _regions(self, change: Change) -> range:
        return self._metadata.regions_of(change.start, change.request.bytes)

    def _send_all(self, change: Change) -> None:
        change.on = [leg for leg in self._legs if leg.is_written]
        change.failed, change.left = [], len(change.on)
        request = change.request
        for leg in change.on:
            part = SubRequest(Op.FLUSH_DISKCACHE, 0, 0) if change.flushing else SubRequest(
                request.op, request.sector, request.bytes, request.data)
            self.send(leg, part, lambda part, leg=leg: self._leg_done(change, leg, part.status))  # type: ignore[misc]

    def _leg_done(self, change: Change, leg: OpenedLeg, status: int) -> None:
        change.left -= 1
        if status != Status.OKAY:
            change.failed.append(leg)
        if not change.left:
            self._all_done(change)

    def _all_done(self, change: Change) -> None:
        what = "a flush" if change.flushing else f"a change at sector {change.request.sector}"
        status = Status.OKAY if self.give_up(change.failed, f"{what} failed") else Status.ERROR
        if status == Status.OKAY:
            status = status_of_all(change, self._metadata.header.copies)
        if change.flushing and status == Status.OKAY:
            self._flushed = max(self._flushed, change.mark)
            if change.request.op != Op.FLUSH_DISKCACHE:
                change.flushing = False
                self._begin([change])
                return
        if change in self._writing:
            if any(leg.state == ACTIVE for leg in change.failed):
                self._copy_again(change)
            self._writing.discard(change)
            self._number += 1
            self._written.update(dict.fromkeys(self._regions(change), self._number))
            self._tidy_later()
        self._answer(change, status)
        self._recovery.go_on()

    def _copy_again(self, change: Change) -> None:
        """The last leg that has everything does not have this one; those that recover may, and must become as it is."""
        for leg in self.legs_in(RECOVERING):
            leg.todo.update(self._regions(change))
        self._recovery.restart()

    def _answer(self, change: Change, status: int) -> None:
        change.request.status = status
        if change.done is not None:
            change.done(change.request)

    def _flush(self, change: Change) -> None:
        change.mark = self._number
        self._send_all(change)

    def _read(self, request: StorageRequest, done: Done, tried: list[OpenedLeg]) -> None:
        leg = next((leg for leg in self.legs_in(ACTIVE) if leg not in tried), None)
        if leg is None:
            done(request)
            return

        def finished(part: StorageRequest) -> None:
            if part.status != Status.OKAY:
                self._read(request, done, [*tried, leg])
                return
            request.status = part.status
            if tried:
                self._could_not_read(request, tried)
            done(request)

        self.send(leg, SubRequest(Op.READ, request.sector, request.bytes, request.data), finished)

    def _could_not_read(self, request: StorageRequest, legs: list[OpenedLeg]) -> None:
        """Others could: what these cannot read is copied to them when they are back."""
        try:
            self._metadata.mark(self._metadata.regions_of(request.sector * SECTOR, request.bytes))
        except OSError as error:
            LOGGER.error("%s: the bitmap: %s", self.name, error.strerror or error)
            return
        self.give_up(legs, f"a read at sector {request.sector} failed")

    # Legs that come and go.

    def give_up(self, legs: Sequence[OpenedLeg], why: str) -> bool:
        """Use these no more, but for the last one that has everything. False: that could not be written down."""
        for leg in legs:
            if leg.state == FAILED:
                continue
            if leg.state == ACTIVE and len(self.legs_in(ACTIVE)) == 1:
                heir = next((other for other in self.legs_in(RECOVERING) if other.whole and other not in legs), None)
                if heir is None:
                    LOGGER.error("%s: %s: %s; it is the last that has everything", self.name, leg.target, why)
                    continue
                self._promote(heir)
            LOGGER.error("%s: %s: %s; going on without it", self.name, leg.target, why)
            leg.state, leg.error, leg.todo = FAILED, why, set()
            self.try_again(leg)
        return self.write_states()

    def _promote(self, heir: OpenedLeg) -> None:
        """It has every acknowledged write; where the legs differ, it is what the others become from now on."""
        heir.state, heir.todo = ACTIVE, set()
        for leg in self.legs_in(RECOVERING):
            leg.todo = set(self._metadata.marked())
        self._recovery.restart()

    def recovered(self, leg: OpenedLeg) -> bool:
        """It has everything, durably. False: that could not be written down, so it does not count yet."""
        whole, leg.state = leg.whole, ACTIVE
        if not self.write_states():
            leg.state, leg.whole = RECOVERING, whole
            return False
        leg.pause = RETRY[0]
        LOGGER.info("%s: %s has everything", self.name, leg.target)
        self._tidy_later()
        return True

    def write_states(self) -> bool:
        """Write down who has everything, and say whether that was possible."""
        try:
            self._write_states()
        except OSError as error:
            LOGGER.error("%s: cannot write down which legs are stale: %s", self.name, error.strerror or error)
            return False
        return True

    def _write_states(self) -> None:
        """A leg that recovers from a crash alone, not from missing a write, is as whole as before."""
        for leg in self._legs:
            leg.whole = leg.state == ACTIVE or (leg.state == RECOVERING and leg.whole)
        self._metadata.set_states([meta.ACTIVE if leg.whole else meta.STALE for leg in self._legs])

    def try_again(self, leg: OpenedLeg) -> None:
        """Open the leg anew, later and on another thread."""
        if leg.opening:
            return
        leg.opening = True
        pause, leg.pause = leg.pause, min(2 * leg.pause, RETRY[1])
        self._worker.later(pause, lambda: self._opener.post(lambda: self._reopen(leg)))

    def _reopen(self, leg: OpenedLeg) -> None:
        """On the opener. What the old storage has in flight is answered by its close()."""
        old, leg.storage = leg.storage, None
        if old is not None:
            old.close()
        found: AsyncStorage | None = None
        error = ""
        try:
            if not self._ending:
                found = self._open_leg(leg.target)
                leg.check(found, self._metadata.header.size, self._facts.sector_size, self._facts.discard)
        except Exception as problem:  # whatever it is: the leg is tried again
            error = str(problem) or type(problem).__name__
            if found is not None:
                found.close()
                found = None
        opened = found
        if self._ending:
            if opened is not None:
                opened.close()
        else:
            self._worker.post(lambda: self._reopened(leg, opened, error))

    def _reopened(self, leg: OpenedLeg, storage: AsyncStorage | None, error: str) -> None:
        leg.opening = False
        if storage is None:
            leg.error = error
            self.try_again(leg)
            return
        leg.storage, leg.state, leg.error = storage, RECOVERING, ""
        leg.todo = set(self._metadata.marked())
        self._recovery.restart()
        LOGGER.info("%s: %s is back: %d regions are copied to it", self.name, leg.target, len(leg.todo))
        self._recovery.go_on()

    # Bits that need not be set any more.

    def _tidy_later(self) -> None:
        if not self._tidying and not self._ending and (self._written or self._metadata.count_marked()):
            self._tidying = True
            self._worker.later(TIDY, self._tidy)

    def _tidy(self) -> None:
        """With every leg there, let go of what was not written since a flush; flush when there was none."""
        self._tidying = False
        if self._ending or len(self.legs_in(ACTIVE)) < len(self._legs):
            return
        busy = {region for change in self._writing for region in self._regions(change)}
        clean = [region for region in self._metadata.marked()
                 if region not in busy and self._written.get(region, 1) <= self._flushed]
        try:
            self._metadata.clear(clean)
        except OSError as error:
            LOGGER.error("%s: the bitmap: %s", self.name, error.strerror or error)
        for region in clean:
            self._written.pop(region, None)
        if self._metadata.count_marked():
            self._flush(Change(SubRequest(Op.FLUSH_DISKCACHE, 0, 0), None, flushing=True))
            self._tidy_later()

    def _tidy_at_the_end(self) -> None:
        """When nothing is under way any more, and no thread is left."""
        if len(self.legs_in(ACTIVE)) < len(self._legs) or not self._metadata.count_marked():
            return
        flushes = [SubRequest(Op.FLUSH_DISKCACHE, 0, 0) for _ in self._legs]
        for leg, flush in zip(self._legs, flushes, strict=True):
            if leg.storage is not None:
                leg.storage.handle([flush])
        if all(flush.status == Status.OKAY for flush in flushes):
            try:
                self._metadata.clear(list(self._metadata.marked()))
            except OSError as error:
                LOGGER.error("%s: the bitmap: %s", self.name, error.strerror or error)
