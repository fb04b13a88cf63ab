"""A vbd's storage where it may keep one waiting: when it is opened, asked for its size, or closed. All of that is done off the
thread that serves every vbd, so a server that does not answer, or a file system that hangs, holds up its own disk alone.

RULES
- One thing at a time: as long as what was given up has not ended, nothing is opened.
- What is given up while it is under way is closed by whoever does it, afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from xenpv.errors import StorageError, XenpvError

from .log import LOGGER
from .storage import Storage
from .storage.base import StorageFacts, foreign_error


class InThread(Protocol):
    """Has a function run, in another thread, and lets whoever asked know when it has ended."""

    def __call__(self, function: Callable[[], None], *, awaited: bool) -> None:
        """`awaited`: the backend does not end before it has ended."""
        ...


def at_once(function: Callable[[], None], *, awaited: bool) -> None:
    """As InThread, in the caller's own thread."""
    function()


class StillOpeningError(StorageError):
    """The storage is being opened: asking again makes sense when that has ended."""


class _Attempt:
    """Something that ends with a storage. `asked`: the one that is there already, and is only asked for something."""

    def __init__(self, function: Callable[[], Storage], asked: Storage | None = None) -> None:
        self.ended = self.given_up = False
        self.asks = asked is not None
        self.storage = asked
        self._function = function
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def run(self) -> None:
        """In its thread."""
        storage = self.storage
        error: BaseException | None = None
        try:
            storage = self._function()
        except BaseException as failure:  # raised again where it is asked for
            error = failure
        with self._lock:
            if not self.given_up:
                self.storage, self._error, self.ended = storage, error, True
                return
        try:
            if storage is not None:
                storage.close()
        except (Exception, SystemExit) as failure:  # nobody waits for it any more
            LOGGER.error("%s: while closing: %s", getattr(storage, "name", "storage"), failure)
        self.ended = True

    def result(self) -> Storage:
        """Of one that has ended. Raises what the function raised."""
        if self._error is not None:
            raise self._error
        assert self.storage is not None
        return self.storage

    def give_up(self) -> bool:
        """It is not wanted any more. Whether it has ended, and its storage is the caller's to close."""
        with self._lock:
            self.given_up = True
            return self.ended


def _closing(storage: Storage) -> _Attempt:
    """One that was given up before it began: it closes `storage`."""
    attempt = _Attempt(lambda: storage, storage)
    attempt.give_up()
    return attempt


class Opener:
    """Opens, asks and closes the storage of one vbd. For one thread."""

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._attempt: _Attempt | None = None

    @property
    def opening(self) -> bool:
        """Whether something is being opened that is still wanted."""
        attempt = self._attempt
        return attempt is not None and not (attempt.asks or attempt.ended or attempt.given_up)

    def open(self, name: str, opens: Callable[[], Storage]) -> Storage:
        """What `opens` returns, once; it is the caller's until close().

        Raises what `opens` raised; StillOpeningError until that has ended, and until what was closed before has; StorageError
        when there is no thread to be had.
        """
        attempt = self._attempt
        if attempt is None or (attempt.given_up and attempt.ended):
            attempt = self._begin(_Attempt(opens), name)
        if attempt.given_up or not attempt.ended:
            raise StillOpeningError(f"{name} is not open yet: is its server, or what it lies on, there?")
        self._attempt = None
        return attempt.result()

    def ask(self, storage: Storage, size: int | None) -> None:
        """Begin to have an open `storage` look at its size, or with `size` grow to so many bytes: see answer().

        One question at a time. Raises StorageError when there is no thread to be had.
        """
        def function() -> Storage:
            if size is None:
                storage.refresh()
            else:
                storage.grow(size)
            return storage

        self._begin(_Attempt(function, storage), storage.name)

    def answer(self) -> StorageFacts | None:
        """What the storage is now that it was asked, once; None until it has answered. Raises StorageError."""
        attempt = self._attempt
        if attempt is None or not (attempt.asks and attempt.ended) or attempt.given_up:
            return None
        self._attempt = None
        try:
            return attempt.result().facts
        except XenpvError:
            raise
        except (Exception, SystemExit) as error:  # a plug-in's, whatever it is: the backend goes on
            raise foreign_error(getattr(attempt.storage, "name", "storage"), error) from error

    def close(self, storage: Storage | None) -> None:
        """An open `storage` is not wanted any more, nor is what is being opened."""
        attempt = self._attempt
        if attempt is not None and not attempt.given_up:
            if not attempt.give_up():
                return
            storage = attempt.storage
        if storage is not None:
            closing = _closing(storage)
            try:
                self._begin(closing, storage.name)
            except StorageError as error:
                LOGGER.warning("%s; what is closed meanwhile holds up the others", error)
                closing.run()

    def _begin(self, attempt: _Attempt, name: str) -> _Attempt:
        try:
            self._in_thread(attempt.run, awaited=attempt.asks)
        except RuntimeError as error:  # nothing has begun that could end
            raise StorageError(f"{name} wants a thread, and there is none to be had ({error}): raise the limit of tasks "
                               "(ulimit -u, TasksMax)") from error
        self._attempt = attempt
        return attempt
