"""The thread that serves one queue from a storage in Python.

RULES
- The ring's thread never waits for the storage: it takes requests while earlier ones are under way.
- remove() returns when all that was taken is answered.
- A barrier is alone in flight, which the core sees to; its data is durable before it is answered.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

from xenpv.errors import ClosedError, RemoteProtocolError
from xenpv.wire.blkif import Op, Status

from .log import LOGGER
from .queue import Queue, Request
from .storage.base import Drains, Storage, StorageRequest
from .storage.layers import asynchronous

BATCH = 32
"""Requests that a storage in Python is given at once."""


class PythonServer:
    """Serves a queue with `storage`, which must do what open_storage() returns does when it has several queues."""

    engine = "python"

    def __init__(self, storage: Storage, on_halt: Callable[[Queue], None]) -> None:
        self._storage = asynchronous(storage)
        self._on_halt = on_halt
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ending = False
        self._calls: list[tuple[Callable[[], None], threading.Event]] = []
        self._lock = threading.Lock()
        self._queue: Queue | None = None
        self._thread: threading.Thread | None = None
        self._out: dict[int, Request] = {}
        self._finished: deque[Request] = deque()
        self._barrier: tuple[Request, Request] | None = None  # and the flush that it waits for

    def __len__(self) -> int:
        return 0 if self._queue is None else 1

    def add(self, queue: Queue) -> None:
        """Serve `queue` from now on; one alone."""
        self._queue = queue
        self._thread = threading.Thread(target=self._serve, args=(queue,), name="xenpv-storage", daemon=True)
        self._thread.start()

    def remove(self, queue: Queue) -> None:
        """Serve it no more. Returns when what it took is answered."""
        if self._thread is None or queue is not self._queue:
            return
        self._ending = True
        os.eventfd_write(self._wake, 1)
        if isinstance(self._storage, Drains):
            self._storage.drain()
        self._thread.join()
        self._thread = self._queue = None

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the thread, between two batches."""
        self._post(function).wait()

    def soon(self, function: Callable[[], None]) -> None:
        """The same without waiting for it."""
        self._post(function)

    def _post(self, function: Callable[[], None]) -> threading.Event:
        done = threading.Event()
        with self._lock:
            if self._ending or self._thread is None:
                raise ClosedError("the queue is served no more")
            self._calls.append((function, done))
        os.eventfd_write(self._wake, 1)
        return done

    def close(self) -> None:
        """End the thread."""
        if self._queue is not None:
            self.remove(self._queue)
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def _serve(self, queue: Queue) -> None:
        try:
            while not self._ending:
                try:
                    requests = queue.next(BATCH, None, self._wake)
                except InterruptedError:
                    continue
                if requests:
                    self._submit(queue, requests)
                woken = self._complete(queue)
                called = self._run_calls()
                # Given nothing, though nobody woke us: what comes next in the ring, a barrier, waits for what is under way.
                # Woken for what was done already, as may be any number of times, we look at the ring again.
                if not (requests or woken or called) and self._out:
                    self._wait()
        except RemoteProtocolError:
            self._on_halt(queue)
        finally:
            self._answer_the_rest(queue)
            # Those who call now are answered by the end of the thread.
            with self._lock:
                self._ending = True
            self._run_calls()

    def _submit(self, queue: Queue, requests: list[Request]) -> None:
        for request in requests:
            request.status = Status.ERROR  # unless the storage says otherwise
        with self._lock:
            self._out.update((id(request), request) for request in requests)
        try:
            self._storage.submit(requests, self._done)
        except Exception as error:  # whatever it is: the requests are answered, and the next ones are tried
            LOGGER.error("domid %d: %s failed: %s", queue.config.domid, self._storage.name, error)
            for request in requests:
                self._done(request)

    def _done(self, done: StorageRequest) -> None:
        """From any thread; what is not under way (any more) is not answered.

        The lock is held to the end, and the thread takes it before it ends: nobody writes to a descriptor that was closed.
        """
        with self._lock:
            request = self._out.pop(id(done), None)
            if request is None:
                return
            self._finished.append(request)
            if threading.current_thread() is not self._thread:
                os.eventfd_write(self._wake, 1)

    def _complete(self, queue: Queue) -> bool:
        """Answer what is done. Whether anything was, or somebody woke the thread."""
        woken = True
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            woken = False
        finished = []
        while self._finished:
            request = self._finished.popleft()
            if self._barrier is not None and request is self._barrier[1]:
                barrier, self._barrier = self._barrier[0], None
                barrier.status = request.status
                finished.append(barrier)
            elif request.flush_after and request.status == Status.OKAY:
                flush = Request(Op.FLUSH_DISKCACHE, 0, 0, None, False, 0)
                self._barrier = request, flush
                self._submit(queue, [flush])
            else:
                finished.append(request)
        if finished:
            queue.complete(finished)
        return woken or bool(finished)

    def _wait(self) -> None:
        """Until somebody wakes the thread."""
        woken = select.poll()  # a descriptor may be beyond 1023
        woken.register(self._wake, select.POLLIN)
        woken.poll()

    def _answer_the_rest(self, queue: Queue) -> None:
        while True:
            self._complete(queue)
            with self._lock:
                if not self._out and not self._finished:
                    return
            self._wait()

    def _run_calls(self) -> bool:
        with self._lock:
            calls, self._calls = self._calls, []
        for function, done in calls:
            try:
                function()
            finally:
                done.set()
        return bool(calls)
