"""A vbd's storage while it is being opened, off the thread that asks for it: a server that does not answer, or a file system
that hangs, holds up its own disk alone.

RULES
- One attempt at a time: as long as one that was given up has not ended, no other begins.
- What an attempt opened after it was given up is closed by whoever opened it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from xenpv.errors import StorageError

from .log import LOGGER
from .storage import Storage

InThread = Callable[[Callable[[], None]], None]
"""Has a function run, in another thread, and lets whoever opens know when it has ended."""


class StillOpeningError(StorageError):
    """The storage is being opened: asking again makes sense when that has ended."""


class _Attempt:
    def __init__(self, opens: Callable[[], Storage]) -> None:
        self.ended = self.given_up = False
        self._opens = opens
        self._lock = threading.Lock()
        self._storage: Storage | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """In its thread."""
        storage, error = None, None
        try:
            storage = self._opens()
        except BaseException as failure:  # raised again where it is asked for
            error = failure
        with self._lock:
            if not self.given_up:
                self._storage, self._error, self.ended = storage, error, True
                return
        _close(storage)
        self.ended = True

    def result(self) -> Storage:
        """Of one that has ended. Raises what opening raised."""
        if self._error is not None:
            raise self._error
        assert self._storage is not None
        return self._storage

    def give_up(self) -> None:
        with self._lock:
            self.given_up = True
            storage, self._storage = self._storage, None
        _close(storage)


def _close(storage: Storage | None) -> None:
    try:
        if storage is not None:
            storage.close()
    except Exception as error:  # nobody waits for it any more
        LOGGER.error("%s: while closing: %s", getattr(storage, "name", "storage"), error)


class Opener:
    """Opens the storage of one vbd. For one thread."""

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._attempt: _Attempt | None = None

    @property
    def opening(self) -> bool:
        """Whether something is being opened that is still wanted."""
        return self._attempt is not None and not (self._attempt.ended or self._attempt.given_up)

    def open(self, name: str, opens: Callable[[], Storage]) -> Storage:
        """What `opens` returns, once; the caller closes it. Raises what it raised, StillOpeningError until it has ended;
        StorageError when there is no thread to be had.
        """
        if self._attempt is None or (self._attempt.given_up and self._attempt.ended):
            attempt = _Attempt(opens)
            try:
                self._in_thread(attempt.run)
            except RuntimeError as error:  # nothing has begun that could end
                raise StorageError(f"{name} cannot be opened for want of a thread ({error}): raise the limit of tasks "
                                   "(ulimit -u, TasksMax)") from error
            self._attempt = attempt
        attempt = self._attempt
        if attempt.given_up or not attempt.ended:
            raise StillOpeningError(f"{name} is not open yet: is its server, or what it lies on, there?")
        self._attempt = None
        return attempt.result()

    def give_up(self) -> None:
        """What is being opened is not wanted any more."""
        if self._attempt is not None:
            self._attempt.give_up()
