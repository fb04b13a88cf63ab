"""A client's connection to the host process: one call at a time (core/emulated.h)."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

from xenpv.errors import ClosedError, HypervisorError

from . import calls
from .calls import Call, Op, Refused, Reply

_TIMEOUT = 10.0
_FDS_MAX = 3


def connect(directory: Path) -> socket.socket:
    """A socket to the calls of the domain whose directory this is. Raises HypervisorError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(directory / "xen"))
    except OSError as error:
        sock.close()
        raise HypervisorError(f"no emulated Xen answers in {directory} ({error.strerror}): start it with "
                              "`xenpv emu up`") from error
    return sock


class Link:
    """Calls for any thread. What is made through a Link ends with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._sock: socket.socket | None = connect(directory)
        self._sock.settimeout(_TIMEOUT)
        try:
            reply = self.call(Call(Op.HELLO, number=calls.VERSION))
        except Refused as refusal:
            self.close()
            raise HypervisorError(f"the emulated Xen in {directory} is another version of xenpv: end it and start it "
                                  "again") from refusal
        self.domid = reply.domid

    def call(self, call: Call, *, fds: int = 0) -> Reply:
        """Ask, and take `fds` descriptors with the answer; they are the caller's to close.

        Raises Refused, HypervisorError when the host process is gone, ClosedError.
        """
        with self._lock:
            if not self._sock:
                raise ClosedError("this domain was closed")
            try:
                self._sock.send(call.pack(), socket.MSG_NOSIGNAL)
                data, received, _, _ = socket.recv_fds(self._sock, calls.SIZE + 1, _FDS_MAX, socket.MSG_CMSG_CLOEXEC)
            except OSError as error:
                raise self._gone(self._sock, str(error.strerror or error)) from error
            if not data:
                raise self._gone(self._sock, "it has ended")
            try:
                reply = calls.unpack_reply(data, tuple(received))
            except ValueError as error:
                _close(received)
                raise self._gone(self._sock, str(error)) from error
            if reply.status < 0:
                _close(received)
                raise Refused(-reply.status)
            if len(received) != fds:
                _close(received)
                raise HypervisorError(f"the emulated Xen sent {len(received)} descriptors of {fds}: raise the limit of "
                                      "open files (ulimit -n)")
            return reply

    def _gone(self, sock: socket.socket, reason: str) -> HypervisorError:
        try:
            sock.shutdown(socket.SHUT_RDWR)  # an answer that comes late must not be taken for the next call's
        except OSError:
            pass
        return HypervisorError(f"the emulated Xen behind {self.directory} is gone, or has ended this domain ({reason}): see "
                               "`xenpv emu status`")

    def close(self) -> None:
        with self._lock:
            if self._sock:
                self._sock.close()
                self._sock = None


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
