"""The backend as a daemon: one loop for watches, xenbus, signals and the control socket.

RULES
- The loop's thread never enters a C loop; queues have their own threads (pool.py).
- The end of a backend is no end of its disks: what was taken is answered, states and files stay, a successor adopts.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self

from xenpv.closing import Closing
from xenpv.domain import Domain
from xenpv.errors import StoreConnectionError, UsageError, XenpvError
from xenpv.hypervisors import is_xen
from xenpv.limits import raise_file_limit
from xenpv.signals import handled, signal_pipe
from xenpv.xenbus import HANDOVER, HANDOVER_SCRIPT, VbdPlace

from . import log
from .clock import Clock
from .connection import Connector
from .control import Control
from .device import Device
from .keys import read
from .log import LOGGER
from .options import BackendOptions, load_options
from .pool import ServicePool
from .queue import Queue
from .rundir import BackendDirectory
from .watcher import Watcher

START_PATIENCE = 3.0
"""Seconds for the disks that are there at the start to open; those that take longer follow."""


class Loop:
    """Waits for descriptors and calls who registered them."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` while `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def remove(self, fd: int) -> None:
        """The pair of add(); after close() nothing is left to do."""
        if self._selector.get_map() is not None:
            self._selector.unregister(fd)

    def once(self, timeout: float | None) -> None:
        """Wait once, up to `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            if key.fd in self._selector.get_map():  # an earlier callback may have removed it
                key.data()

    def close(self) -> None:
        self._selector.close()


def is_offered(domain: Domain, place: VbdPlace) -> bool:
    """On the emulated Xen there is no other backend; on Xen the kernel's is, until the vbd is handed over.

    Of kind vbd3 (xl's backendtype=tap) the kernel has none, and libxl waits for the offer before it runs the script that
    would hand over: there the script's name says whose it is. Raises StoreError.
    """
    if not is_xen(domain) or read(domain.store, f"{place.backend}/{HANDOVER}") == b"1":
        return True
    script = read(domain.store, f"{place.backend}/script") or b""
    return place.kind == "vbd3" and script.rpartition(b"/")[2] == HANDOVER_SCRIPT.encode()


class Backend(Closing):
    """Serves every vbd of `domain` that is offered to it. stop() from any thread; all else from one.

    `rundir` is the run directory of DESIGN's command line. Raises UsageError, StorageError, StoreError.
    """

    def __init__(self, domain: Domain, rundir: str | os.PathLike[str], options: BackendOptions) -> None:
        self.options = options
        self._domain = domain
        self._store = domain.store
        self._stopping = False
        self._host_gone = False
        self._waking = threading.RLock()  # held while _wake is written; a signal's handler may be in there twice
        self._halts: deque[Queue] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._awaited: list[threading.Thread] = []
        with contextlib.ExitStack() as made:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            made.callback(os.close, self._wake)
            self._loop = Loop()
            made.callback(self._loop.close)
            self._directory = made.enter_context(BackendDirectory(rundir))
            made.callback(self._clean)
            self._clock = made.enter_context(Clock(domain, self._loop, self.soon))
            self._pool = made.enter_context(ServicePool(self._on_halt, self._on_drained, engine=options.storage_engine))
            made.callback(self._await)
            connector = Connector(domain, self._directory, self._pool, lambda: self.options, self._clock)
            self._loop.add(self._wake, self._woken)
            self._watcher = Watcher(self._store, domain.domid, self._loop, lambda place: Device(
                place, self._store, connector, lambda: self.options.settled(is_xen(domain)),
                in_thread=partial(self._run, place)),
                takes=lambda place: is_offered(domain, place))
            made.callback(self._watcher.close)
            self._first_turn()
            self._control = Control(self._directory.control, self._loop, {
                "list": self._list, "status": self._status, "resize": self._resize, "shutdown": self._shutdown})
            made.callback(self._control.close)
            self._made = made.pop_all()

    @property
    def loop(self) -> Loop:
        """What its thread waits for."""
        return self._loop

    def _first_turn(self) -> None:
        """Every vbd that is there has its Device when this returns, its storage if it opens soon, and what is left of others
        is gone.
        """
        self._watcher.take_events()
        pause = self._watcher.turn()
        until = time.monotonic() + START_PATIENCE
        while any(device.opening for device in self._watcher.devices.values()) and (left := until - time.monotonic()) > 0:
            self._loop.once(left if pause is None else min(pause, left))
            pause = self._watcher.turn()
        stale = self._directory.remove_stale(self._watcher.devices)
        if stale:
            LOGGER.info("removed what was left of disks that are gone: %s", ", ".join(stale))

    def serve(self) -> None:
        """Until stop(). Raises StoreConnectionError when the store is gone for good."""
        try:
            while not self._stopping:
                self._loop.once(self._watcher.turn())
        except StoreConnectionError:
            self._host_gone = True
            raise

    def stop(self) -> None:
        """Make serve() return. For a signal handler and for any thread, before close()."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def _on_halt(self, queue: Queue) -> None:
        """In a service thread."""
        self._halts.append(queue)
        os.eventfd_write(self._wake, 1)

    def _on_drained(self, queue: Queue) -> None:
        """In a thread of the pool."""
        self.soon(lambda: self._watcher.drained(queue))

    def _run(self, place: VbdPlace, function: Callable[[], None], *, awaited: bool) -> None:
        """See InThread: the Device of `place` has its turn then."""
        def run() -> None:
            function()
            self.soon(lambda: self._watcher.due(place))

        thread = threading.Thread(target=run, name="xenpv-storage", daemon=True)
        thread.start()
        if awaited:
            self._awaited = [other for other in self._awaited if other.is_alive()] + [thread]

    def _await(self) -> None:
        """Until every storage that was let go is closed."""
        for thread in self._awaited:
            thread.join()

    def soon(self, errand: Callable[[], None]) -> None:
        """Have serve() call it in its next turn. For a signal handler, which may log nothing itself, and for any thread."""
        with self._waking:
            if not self._stopping:
                self._errands.append(errand)
                os.eventfd_write(self._wake, 1)

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        while self._halts:
            self._watcher.halted(self._halts.popleft())
        while self._errands:
            self._errands.popleft()()

    def close(self) -> None:
        """Answer what was taken, and let go. States and the files of connected vbds stay for a successor."""
        with self._waking:
            self._stopping = True
        self._made.close()

    def _clean(self) -> None:
        """When the hypervisor is gone, so is every vbd, and nobody will need its files."""
        if self._host_gone:
            self._directory.remove_stale([])

    # The control socket's verbs.

    def _list(self, request: dict[str, Any]) -> dict[str, Any]:
        places = sorted(self._watcher.devices, key=lambda place: (place.frontend_domid, place.devid))
        return {"devices": [self._watcher.devices[place].describe() for place in places]}

    def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "hypervisor": self._domain.uri, "domid": self._domain.domid,
                "directory": str(self._directory.path), "devices": len(self._watcher.devices), "degraded": self._degraded(),
                "options": asdict(self.options)}

    def _degraded(self) -> list[str]:
        found = ((place, device.degraded()) for place, device in self._watcher.devices.items())
        return [f"domid {place.frontend_domid} devid {place.devid}: {words}" for place, words in found if words]

    def _resize(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        size = request.get("bytes")
        if size is not None and (type(size) is not int or size <= 0):
            raise UsageError(f"bytes is a size, not {size!r}")
        for place, device in self._watcher.devices.items():
            if (place.frontend_domid, place.devid) == (request.get("domid"), request.get("devid")):
                return device.resize(size)
        raise UsageError(f"there is no disk {request.get('devid')!r} of domain {request.get('domid')!r} here")

    def _shutdown(self, request: dict[str, Any]) -> dict[str, Any]:
        self.stop()
        return {}


def notify_service_manager(state: str) -> None:
    """Tell systemd, if it started us and asked for it (sd_notify(3)): ``READY=1``, ``STOPPING=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(state.encode(), address.replace("@", "\0", 1))
    except OSError as error:
        LOGGER.warning("cannot tell the service manager %s: %s", state, error.strerror)


class _Signals:
    """SIGTERM and SIGINT end the backend, the second one at once; SIGHUP calls `reload`. For the main thread."""

    def __init__(self, loop: Loop, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        self._loop = loop
        self._stop = stop
        self._reload = reload
        self._asked = False
        self._made = contextlib.ExitStack()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif self._asked:
            os._exit(1)  # what was taken stands in the journals
        else:
            self._asked = True
            self._stop()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as made:
            woken = made.enter_context(signal_pipe())
            self._loop.add(woken, lambda: os.read(woken, 4096))
            made.callback(self._loop.remove, woken)
            made.enter_context(handled(self._handle, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            self._made = made.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._made.close()


def run(domain: Domain, rundir: str | os.PathLike[str], *, ready: Callable[[], None] | None = None,
        options: BackendOptions | None = None,
        reload: Callable[[], BackendOptions] = load_options) -> int:
    """Serve `domain`'s vbds until SIGTERM. The exit status: 0, 1 failed, 2 usage. For the main thread.

    `ready` is called once every vbd that was there is served. `options` None: `reload()`, which SIGHUP calls too.
    """
    try:
        options = reload() if options is None else options
        log.configure(options.log_level)
        raise_file_limit()  # each queue of each disk has four, and storage some
        with Backend(domain, rundir, options) as backend:
            def reread() -> None:
                try:
                    backend.options = reload()
                except XenpvError as error:
                    LOGGER.error("the configuration stays as it was: %s", error)
                else:
                    log.configure(backend.options.log_level)
                    LOGGER.info("configuration read again; it counts for new connections")

            with _Signals(backend.loop, backend.stop, lambda: backend.soon(reread)):
                notify_service_manager("READY=1")
                if ready is not None:
                    ready()
                backend.serve()
                notify_service_manager("STOPPING=1")
                LOGGER.info("ends: what was taken is answered, connected disks wait for the next backend")
                backend.close()
    except UsageError as error:
        print(f"xenpv: {log.one_line(str(error))}", file=sys.stderr)
        return 2
    except XenpvError as error:
        print(f"xenpv: {log.one_line(str(error))}", file=sys.stderr)
        return 1
    return 0
