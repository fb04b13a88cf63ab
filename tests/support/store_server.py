"""A xenstored on Unix sockets, in a thread of the test: one socket a domain."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from xenpv.hypervisors.emulated.xenstored import Connection, Quotas, Xenstored


class StoreServer:
    """Serves `store` below `directory` until close(). Touch the store only through `call`."""

    def __init__(self, directory: Path, *, domids: tuple[int, ...] = (0,), quotas: Quotas | None = None) -> None:
        self.store = Xenstored(quotas=quotas or Quotas())
        self._directory = directory
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[Connection, socket.socket] = {}
        self._calls: list[Callable[[], None]] = []
        self._stopped = False
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._listeners: list[socket.socket] = []
        for domid in domids:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path(domid))
            listener.listen()
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, domid)
            self._listeners.append(listener)
        self._thread = threading.Thread(target=self._run, name="xenstored", daemon=True)
        self._thread.start()

    def path(self, domid: int = 0) -> str:
        """The socket of a domain."""
        return os.fspath(self._directory / f"{domid}.sock")

    def call(self, function: Callable[[Xenstored], None]) -> None:
        """Run `function` on the store in its own thread, and wait for it."""
        done = threading.Event()

        def run() -> None:
            function(self.store)
            done.set()

        self._calls.append(run)
        self._wake.send(b"\0")
        if not done.wait(5):
            raise TimeoutError("the store's thread does not answer")

    def close(self) -> None:
        """Stop, and close every socket. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._wake.send(b"\0")
        self._thread.join(5)
        for closable in (*self._listeners, *self._sockets.values(), self._wake, self._woken):
            closable.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopped:
            timeout = self.store.tick(time.monotonic())
            for key, events in self._selector.select(timeout):
                if key.data is None:
                    self._woken.recv(4096)
                    while self._calls:
                        self._calls.pop(0)()
                elif isinstance(key.data, int):
                    self._accept(key.fileobj, key.data)  # type: ignore[arg-type]
                else:
                    self._move(key.data, events)
            for connection in self.store.ready():
                self._move(connection, selectors.EVENT_WRITE)

    def _accept(self, listener: socket.socket, domid: int) -> None:
        client, _ = listener.accept()
        client.setblocking(False)
        connection = self.store.connect(domid)
        self._sockets[connection] = client
        self._selector.register(client, selectors.EVENT_READ, connection)

    def _move(self, connection: Connection, events: int) -> None:
        client = self._sockets.get(connection)
        if client is None:
            return
        try:
            if events & selectors.EVENT_READ and connection.wants_read:
                data = client.recv(65536)
                if not data:
                    connection.close()
                connection.receive(data)
            while data := connection.send_pending():
                connection.sent(client.send(data))
        except BlockingIOError:
            pass
        except OSError:
            connection.close()
        if connection.closed:
            self._select(client, connection, 0)
            client.close()
            del self._sockets[connection]
            return
        self._select(client, connection, (selectors.EVENT_READ if connection.wants_read else 0)
                     | (selectors.EVENT_WRITE if connection.send_pending() else 0))

    def _select(self, client: socket.socket, connection: Connection, wanted: int) -> None:
        """Wait for `wanted`; a connection that waits for another one to be read wants nothing, until it is ready."""
        known = client in self._selector.get_map()
        if wanted and known:
            self._selector.modify(client, wanted, connection)
        elif wanted:
            self._selector.register(client, wanted, connection)
        elif known:
            self._selector.unregister(client)
