"""Asking a running backend over its control socket: one line of JSON out, one in (xenpv_backend/control.py)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
from pathlib import Path
from typing import Any, Final

from xenpv.errors import DeviceError

__all__ = ["ask", "describe_devices", "remove_if_empty", "running", "stop_backend"]

_TIMEOUT: Final = 20.0
_ANSWER_MAX: Final = 16 << 20


def ask(run: Path, verb: str, **values: Any) -> dict[str, Any]:
    """The answer of the backend in the run directory `run`. Raises DeviceError when there is none, or it refuses."""
    path = run / "backend" / "control"
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError as error:
            raise DeviceError(f"no backend runs in {run}: start it with `xenpv backend run`") from error
        try:
            sock.sendall(json.dumps({"verb": verb, **values}).encode() + b"\n")
            while not answer.endswith(b"\n"):
                data = sock.recv(65536)
                if not data or len(answer) > _ANSWER_MAX:
                    raise DeviceError("the backend ended before it answered")
                answer += data
            reply = json.loads(answer)
        except (OSError, ValueError) as error:
            raise DeviceError(f"the backend does not answer: {error}") from error
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        raise DeviceError(str(reply.get("error")) if isinstance(reply, dict) else "the backend's answer makes no sense")
    del reply["ok"]
    return reply


def describe_devices(run: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """What the backend says of its vbds, by domid and devid; nothing when no backend answers."""
    try:
        devices = ask(run, "list")["devices"]
    except DeviceError:
        return {}
    return {(int(each["domid"]), int(each["devid"])): each for each in devices}


def running(run: Path) -> bool:
    """Whether a backend answers in the run directory `run`."""
    try:
        ask(run, "status")
    except DeviceError:
        return False
    return True


def stop_backend(run: Path) -> int | None:
    """End the backend in `run`, if there is one. Returns its pid when it has not ended in time, else None."""
    try:
        pid = _pid(run)
        if pid is None:
            return None
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        try:
            ask(run, "shutdown")
        except DeviceError:
            pass  # it ends already
        return None if select.select([process], [], [], _TIMEOUT)[0] else pid
    finally:
        os.close(process)


def _pid(run: Path) -> int | None:
    """The backend's. One that ends has closed its control socket already, and holds its lock until it is done."""
    try:
        return int(ask(run, "status")["pid"])
    except DeviceError:
        pass
    try:
        with open(run / "backend" / "lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read(32))
    except (FileNotFoundError, ValueError):
        pass  # it went meanwhile
    return None


def remove_if_empty(run: Path) -> None:
    """Remove a run directory in which nothing is left."""
    try:
        run.rmdir()
    except OSError:
        pass  # others' files are in it
