"""The threads that serve queues.

A queue gets a service thread of its own until there are as many as CPUs; then it goes to the one with the fewest. A
queue whose storage is in Python has its own thread always.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Protocol

from xenpv.closing import Closing
from xenpv.errors import ClosedError

from .python_server import PythonServer
from .queue import Queue, Service
from .storage import Storage


class Server(Protocol):
    """A thread that serves queues."""

    engine: str

    def add(self, queue: Queue) -> None: ...
    def remove(self, queue: Queue) -> None: ...
    def call(self, function: Callable[[], None]) -> None: ...
    def soon(self, function: Callable[[], None]) -> None: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...


class Drain:
    """A thread that waits until a server has let go of `queue`: with a storage that hangs, for ever."""

    def __init__(self, server: Server, queue: Queue, on_drained: Callable[[Queue], None]) -> None:
        self.done = False
        self._server = server
        self._queue = queue
        self._on_drained = on_drained
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="xenpv-drain", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.remove(self._queue)
        except Exception as error:  # whoever waits is told
            self._error = error
        self.done = True
        self._on_drained(self._queue)

    def wait(self) -> None:
        """Until it is done. Raises what the server's remove() raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error


class ServicePool(Closing):
    """Distributes queues over threads. For the main thread alone.

    `on_halt` is called in a service thread for a queue whose frontend broke the ring's rules, `on_drained` in another one
    for a queue that drain() was asked for and that has; they must not block.
    """

    def __init__(self, on_halt: Callable[[Queue], None], on_drained: Callable[[Queue], None], *, engine: str = "auto",
                 threads: int | None = None) -> None:
        self._on_halt = on_halt
        self._on_drained = on_drained
        self._engine = engine
        self._limit = len(os.sched_getaffinity(0)) if threads is None else threads
        self._services: list[Service] = []
        self._servers: dict[int, Server] = {}
        self._drains: dict[int, Drain] = {}

    def add(self, queue: Queue, storage: Storage) -> None:
        """Serve `queue`. Raises StorageError when the engine asked for cannot be had."""
        server: Server
        if storage.fileno() < 0:
            server = PythonServer(storage, self._on_halt)
        else:
            server = self._service()
        self._servers[id(queue)] = server
        try:
            server.add(queue)
        except BaseException:
            self._drop(queue, server)
            raise

    def _service(self) -> Service:
        leaving = [self._servers[queue] for queue in self._drains]  # these may be slow to answer
        free = [service for service in self._services if service not in leaving]
        if len(self._services) < self._limit or not free:
            self._services.append(Service(engine=self._engine, on_halt=self._on_halt))
            return self._services[-1]
        return min(free, key=len)

    def drain(self, queue: Queue) -> bool:
        """Begin to serve it no more: True once its requests in flight are answered. Does not wait; remove() is still due."""
        if id(queue) not in self._drains:
            self._drains[id(queue)] = Drain(self._servers[id(queue)], queue, self._on_drained)
        return self._drains[id(queue)].done

    def remove(self, queue: Queue) -> None:
        """Serve it no more. Returns when its requests in flight are answered."""
        server = self._servers.get(id(queue))
        if server is not None:
            try:
                if id(queue) in self._drains:
                    self._drains.pop(id(queue)).wait()
                else:
                    server.remove(queue)
            finally:
                self._drop(queue, server)

    def _drop(self, queue: Queue, server: Server) -> None:
        """End a thread that has nothing to serve any more."""
        del self._servers[id(queue)]
        if len(server) or any(other is server for other in self._servers.values()):
            return  # another queue of its may be drained, and not removed yet
        if isinstance(server, Service):
            self._services.remove(server)
        server.close()

    def call(self, queue: Queue, function: Callable[[], None]) -> None:
        """Run `function` in the thread that serves `queue`, between two turns."""
        self._servers[id(queue)].call(function)

    def soon(self, queue: Queue, function: Callable[[], None]) -> None:
        """The same without waiting for it; not at all for a queue that is served no more, or about to be."""
        if id(queue) not in self._drains:
            with contextlib.suppress(ClosedError):
                self._servers[id(queue)].soon(function)

    def engine_of(self, queue: Queue) -> str:
        """What does the queue's I/O that waits for a device: ``io_uring``, ``threads`` or ``python``."""
        return self._servers[id(queue)].engine

    def close(self) -> None:
        """Let go of every queue, after its requests in flight were answered, and end the threads."""
        servers = {id(server): server for server in (*self._servers.values(), *self._services)}
        self._servers.clear()
        self._services.clear()
        for server in servers.values():
            server.close()
