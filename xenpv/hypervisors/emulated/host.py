"""Starting, asking and ending a host process of the emulated Xen: what ``xenpv emu`` does."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from xenpv.errors import HypervisorError, XenpvError
from xenpv.limits import raise_file_limit
from xenpv.signals import handled, signal_pipe

from .rundir import Lock, RunDirectory

if TYPE_CHECKING:
    from .faults import Faults
    from .server import Server

Where = str | os.PathLike[str] | None
"""A run directory; None for the usual one (rundir.default_directory)."""

_START_TIMEOUT = 20.0
_ANSWER_TIMEOUT = 20.0


def request(rundir: Where, verb: str, *, timeout: float | None = _ANSWER_TIMEOUT, **values: Any) -> dict[str, Any]:
    """Ask the host in `rundir` over its control socket (control.py has the verbs), and return its answer.

    Raises HypervisorError when no host runs there, when it refuses, or does not answer in `timeout` seconds.
    """
    with _connect(RunDirectory(rundir)) as sock:
        sock.settimeout(timeout)
        return _ask(sock, {"verb": verb, **values})


def _connect(run: RunDirectory) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(run.control))
    except OSError as error:
        sock.close()
        raise HypervisorError(f"no emulated Xen runs in {run.path}: start it with `xenpv emu up`") from error
    return sock


def _ask(sock: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    answer = b""
    try:
        sock.sendall(json.dumps(message).encode() + b"\n")
        while not answer.endswith(b"\n"):
            data = sock.recv(65536)
            if not data:
                raise HypervisorError("the emulated Xen ended before it answered")
            answer += data
        reply = json.loads(answer)
    except (OSError, ValueError) as error:
        raise HypervisorError(f"the emulated Xen does not answer: {error}") from error
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        raise HypervisorError(str(reply.get("error")) if isinstance(reply, dict) else "an answer that makes no sense")
    return reply


def status(rundir: Where = None) -> dict[str, Any]:
    """pid, directory, control, xen, xenstored, uptime_s, domains, ended. Raises HypervisorError when none runs."""
    return request(rundir, "status")


def start(rundir: Where = None, *, foreground: bool = False, faults: Faults | None = None,
          ready: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Start a host in `rundir`; return its status, which `ready` is given too, as soon as it serves.

    In the background it is a process of its own. With `foreground` it is this process, until SIGTERM or SIGINT (only in
    the main thread), and the status returned is the first one. `faults` need `foreground`. Raises HypervisorError.
    """
    run = RunDirectory(rundir)
    if foreground:
        return _serve_here(run, faults, ready)
    if faults:
        raise ValueError("faults for a host in the background go over its control socket")
    _spawn(run)
    try:
        answer = status(run.path)
        if ready:
            ready(answer)
    except BaseException:
        stop(run.path)  # it is ours, and nobody will know of it
        raise
    return answer


def _spawn(run: RunDirectory) -> None:
    """A host that is nobody's child. It says over a pipe that it serves, or why it does not."""
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen([sys.executable, "-m", str(__package__), str(run.path), str(writer)],
                                 stdin=subprocess.DEVNULL, pass_fds=(writer,), start_new_session=True,
                                 stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    with os.fdopen(reader) as pipe, child:
        if not select.select([pipe], [], [], _START_TIMEOUT)[0]:
            raise HypervisorError(f"the emulated Xen in {run.path} did not say that it is ready")
        word = pipe.readline()
        if word == "ready\n":
            return
        trace = child.communicate()[1].strip().splitlines()
        raise HypervisorError(word.strip() or f"the emulated Xen did not start: {trace[-1] if trace else 'no word'}")


def _serve_here(run: RunDirectory, faults: Faults | None,
                ready: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    from .server import Server  # a third of the time of a command that only asks a host

    with ExitStack() as handlers:
        woken = handlers.enter_context(signal_pipe())
        with closing(Server(run, faults=faults)) as server:
            server.heed(woken)
            handlers.enter_context(handled(lambda *_: server.stop(), signal.SIGTERM, signal.SIGINT))
            answer = server.status()
            if ready:
                ready(answer)
            server.run()
            return answer


def serve_in_background(rundir: str, word: int) -> int:
    """The process that `start` makes: leave the caller, serve, and tell through descriptor `word`. Its exit status."""
    with os.fdopen(word, "w") as pipe:
        try:
            run = RunDirectory(rundir)
            run.create()
            if os.fork():
                os._exit(0)
            raise_file_limit()  # a segment costs the host two descriptors, a channel two, an opening one
            os.chdir("/")
            _serve_here(run, None, _Ready(pipe.fileno(), run))
        except XenpvError as error:
            pipe.write(f"{error}\n")
            return 1
    return 0


class _Ready:
    """Says "ready" once, and takes what is said later to the run directory's log."""

    def __init__(self, word: int, run: RunDirectory) -> None:
        self._word = word
        self._run = run

    def __call__(self, answer: dict[str, Any]) -> None:
        log = os.open(self._run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for fd in (1, 2):
            os.dup2(log, fd)
        os.close(log)
        os.write(self._word, b"ready\n")


def stop(rundir: Where = None) -> None:
    """End the host in `rundir` with all its domains, and wait until nothing of it is left.

    What a host that was killed has left is removed too. Raises HypervisorError when there is neither.
    """
    run = RunDirectory(rundir)
    try:
        sock = _connect(run)
    except HypervisorError:
        if not run.lock.exists():
            raise
        lock = Lock(run)
        run.clean()
        lock.release()
        return
    with sock:
        sock.settimeout(_ANSWER_TIMEOUT)
        pid = int(_ask(sock, {"verb": "status"})["pid"])
        process = os.pidfd_open(pid)
        try:
            _ask(sock, {"verb": "shutdown"})
            try:
                while sock.recv(4096):  # it ends the connection when all is gone
                    pass
            except ConnectionError:
                pass
            except OSError as error:
                raise HypervisorError(f"the emulated Xen (pid {pid}) does not end: {error}") from error
            if pid != os.getpid() and not select.select([process], [], [], _ANSWER_TIMEOUT)[0]:
                raise HypervisorError(f"the emulated Xen (pid {pid}) does not end")
        finally:
            os.close(process)


@contextmanager
def running(rundir: Where = None, *, faults: Faults | None = None) -> Iterator[Server]:
    """A host in a thread of this process, for tests; `create` and the like go over `request`."""
    from .server import Server

    server = Server(RunDirectory(rundir), faults=faults)

    def serve() -> None:
        try:
            server.run()
        finally:
            server.close()

    thread = threading.Thread(target=serve, name="emulated-xen", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
