"""The host process of the emulated Xen: one thread, one loop over every socket.

Data and notifications do not pass here; what passes is the making and ending of segments, ports, domains and watches.
"""

from __future__ import annotations

import errno
import os
import selectors
import shutil
import socket
import struct
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenpv.errors import HypervisorError, StoreError

from .calls import Refused
from .connections import READ, CallConnection, ControlConnection, Listener, SocketConnection, StoreConnection
from .events import Port
from .faults import Faults
from .hypervisor import Hypervisor, Limits
from .processes import DomainProcess
from .rundir import Lock, RunDirectory
from .toolstack import Toolstack
from .xenstored import Connection, Xenstored

_LOGS_KEPT = 16
_ENDED_KEPT = 256
_CONTROL_MAX = 64
_STORE_MAX = 256


@dataclass(eq=False)
class RunningDomain:
    """What the host has of a domain outside the hypervisor: sockets, process, who waits for its end."""

    domid: int
    name: str
    directory: Path
    argv: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "/"
    paused: bool = False
    started: float = field(default_factory=time.monotonic)
    process: DomainProcess | None = None
    listeners: list[Listener] = field(default_factory=list)
    connections: set[SocketConnection] = field(default_factory=set)
    waiters: list[Callable[[int | None], None]] = field(default_factory=list)


class Server:
    """The emulated Xen in `run`. Holds the run directory's lock from here to close(). Raises HypervisorError."""

    def __init__(self, run: RunDirectory, *, faults: Faults | None = None, limits: Limits = Limits()) -> None:
        from .control import Control  # it names this class

        run.create()
        self.run_directory = run
        self.faults = faults or Faults()
        self._lock = Lock(run)
        run.clean()
        self.started = time.monotonic()
        self.domains: dict[int, RunningDomain] = {}
        self.ended: deque[dict[str, Any]] = deque(maxlen=_ENDED_KEPT)
        self._logs: deque[Path] = deque()
        self._selector = selectors.DefaultSelector()
        self._wake_lock = threading.RLock()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector.register(self._wake, READ, self._woken)
        self._running = True
        self._controls: set[SocketConnection] = set()
        self._control_listener: Listener | None = None
        self._control = Control(self)
        self.hypervisor = Hypervisor(limits=limits, faults=self.faults, on_relay=self._on_relay)
        self._store = Xenstored()
        self._store_connections: dict[Connection, StoreConnection] = {}
        self._toolstack = Toolstack(self._store)
        try:
            self._open_domain(RunningDomain(0, "Domain-0", run.domain(0)))
            self._control_listener = Listener(self._selector, str(run.control), socket.SOCK_STREAM,
                                              self._accept_control)
        except BaseException:
            self.close()
            raise

    # ---- the loop

    def run(self) -> None:
        """Serve until stop(). Then call close()."""
        while self._running:
            for key, mask in self._selector.select(self._store.tick(time.monotonic())):
                # An earlier event of this round may have ended this one's connection.
                if self._selector.get_map().get(key.fd) is key:
                    self._dispatch(key.data, mask)
            self._pump_store()

    def _dispatch(self, handler: Callable[[int], None], mask: int) -> None:
        """One event. A bug that it meets ends the connection that it came from, with its trace in the host's log."""
        try:
            handler(mask)
        except Exception:  # whatever it is, the other domains go on
            traceback.print_exc(file=sys.stderr)
            owner = getattr(handler, "__self__", None)
            if isinstance(owner, SocketConnection):
                owner.close()

    def _pump_store(self) -> None:
        while ready := list(self._store.ready()):
            for connection in ready:
                served = self._store_connections.get(connection)
                if served:
                    self._dispatch(served.on_ready, 0)

    def stop(self) -> None:
        """End run(), from any thread or a signal handler. Nothing happens after close()."""
        self._running = False
        with self._wake_lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def heed(self, woken: int) -> None:
        """Let `woken`, a signal_pipe(), interrupt every wait of run(). It may be closed after close()."""
        self._selector.register(woken, READ, lambda mask: os.read(woken, 4096))

    def _woken(self, mask: int) -> None:
        os.eventfd_read(self._wake)

    def close(self) -> None:
        """End every domain and remove everything; those who asked for it over the control socket are told last."""
        for domid in sorted(self.domains, reverse=True):
            self._close_domain(self.domains[domid])
        self._toolstack.close()
        self.hypervisor.close()
        if self._control_listener:
            self._control_listener.close()
        self.run_directory.clean()
        self._lock.release()
        for connection in list(self._controls):
            connection.close()
        self._selector.close()
        with self._wake_lock:
            wake, self._wake = self._wake, -1
            os.close(wake)

    # ---- domains

    def create(self, name: str, argv: Sequence[str] = (), *, environment: Mapping[str, str] | None = None,
               cwd: str = "/", paused: bool = False) -> RunningDomain:
        """A new domain, with a process when `argv` names one. Raises HypervisorError."""
        try:
            domid = self.hypervisor.create(name).domid
        except Refused as refusal:
            reason = "there is one of that name" if refusal.code == errno.EEXIST else "there are too many"
            raise HypervisorError(f"cannot create domain {name!r}: {reason}") from refusal
        domain = RunningDomain(domid, name, self.run_directory.domain(domid), tuple(argv),
                               dict(os.environ if environment is None else environment), cwd, paused)
        try:
            self._open_domain(domain)
            if argv and not paused:
                self._spawn(domain)
        except (HypervisorError, StoreError, OSError) as error:
            self.destroy(domid)
            raise HypervisorError(f"cannot create domain {name!r}: {error}") from error
        return domain

    def unpause(self, domid: int) -> None:
        """Start the process of a paused domain. Raises HypervisorError."""
        domain = self.domains[domid]
        if not domain.paused:
            raise HypervisorError(f"domain {domid} is not paused")
        if domain.argv:
            self._spawn(domain)
        domain.paused = False

    def destroy(self, domid: int) -> None:
        """End a domain: its process, its connections, its grants, ports and nodes."""
        domain = self.domains.get(domid)
        status = self._close_domain(domain) if domain else None
        self.hypervisor.destroy(domid)
        try:
            self._toolstack.domain_destroyed(domid)
        except StoreError as error:
            print(f"domain {domid}: {error}", file=sys.stderr)
        if domain:
            self._keep_log(domain.directory)
            self.ended.append({"domid": domid, "name": domain.name, "status": status})
            for waiter in domain.waiters:
                waiter(status)

    def _open_domain(self, domain: RunningDomain) -> None:
        shutil.rmtree(domain.directory, ignore_errors=True)  # of a domain that had this number long ago
        domain.directory.mkdir(mode=0o700, parents=True)
        self.domains[domain.domid] = domain

        def accept_calls(sock: socket.socket) -> None:
            self._accept_calls(domain, sock)

        def accept_store(sock: socket.socket) -> None:
            self._accept_store(domain, sock)

        for name, kind, accept in (("xen", socket.SOCK_SEQPACKET, accept_calls),
                                   ("xenstored", socket.SOCK_STREAM, accept_store)):
            domain.listeners.append(Listener(self._selector, str(domain.directory / name), kind, accept))
        self._toolstack.domain_created(domain.domid, domain.name)

    def _spawn(self, domain: RunningDomain) -> None:
        domain.process = DomainProcess(domain.directory, domain.argv, domain.environment, domain.cwd)
        self._selector.register(domain.process.pidfd, READ, lambda mask: self.destroy(domain.domid))

    def _close_domain(self, domain: RunningDomain) -> int | None:
        """Its process, sockets and connections. Returns the exit status of the process."""
        status = None
        if domain.process:
            self._selector.unregister(domain.process.pidfd)
            status = domain.process.end()
        for listener in domain.listeners:
            listener.close()
        for connection in list(domain.connections):
            connection.close()
        for name in ("xen", "xenstored"):
            (domain.directory / name).unlink(missing_ok=True)
        del self.domains[domain.domid]
        return status

    def _keep_log(self, directory: Path) -> None:
        """Of the domains that have ended, keep the last few logs."""
        if not (directory / "console.log").exists():
            shutil.rmtree(directory, ignore_errors=True)
            return
        self._logs.append(directory)
        if len(self._logs) > _LOGS_KEPT:
            oldest = self._logs.popleft()
            if int(oldest.name) not in self.domains:
                shutil.rmtree(oldest, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """What the control socket's ``status`` says."""
        return self._control.status()

    # ---- connections

    def _accept_calls(self, domain: RunningDomain, sock: socket.socket) -> None:
        try:
            client = self.hypervisor.connect(domain.domid)
        except Refused:
            sock.close()
            return
        domain.connections.add(CallConnection(self._selector, sock, domain.connections.discard, self.hypervisor,
                                              client))

    def _accept_store(self, domain: RunningDomain, sock: socket.socket) -> None:
        if sum(isinstance(connection, StoreConnection) for connection in domain.connections) >= _STORE_MAX:
            sock.close()
            return
        connection = self._store.connect(domain.domid)

        def closed(served: SocketConnection) -> None:
            domain.connections.discard(served)
            self._store_connections.pop(connection, None)

        served = StoreConnection(self._selector, sock, closed, connection)
        self._store_connections[connection] = served
        domain.connections.add(served)

    def _accept_control(self, sock: socket.socket) -> None:
        uid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in (0, os.geteuid()) or len(self._controls) >= _CONTROL_MAX:
            sock.close()
            return
        self._controls.add(ControlConnection(self._selector, sock, self._controls.discard, self._control.handle))

    # ---- faults

    def _on_relay(self, port: Port, there: bool) -> None:
        fd = port.channel.notify_fds[port.side]
        if not there:
            self._selector.unregister(fd)
            return

        def relay(mask: int) -> None:
            os.eventfd_read(fd)
            self.faults.relay(port)

        self._selector.register(fd, READ, relay)
