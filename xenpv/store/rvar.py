"""What a request waits on."""

from __future__ import annotations

from collections.abc import Callable

from ..waiting import Latch

from .connection import Op, Packet
from .rules import refused


class RVar:
    """The answer to one request, as soon as there is one. (pyxs's name for it.)"""

    __slots__ = ("op", "subject", "settled", "payload", "error", "abandoned", "on_late")

    def __init__(self, op: int, subject: str, on_late: Callable[[bytes], None] | None = None) -> None:
        self.op = op
        self.subject = subject
        self.settled = Latch()
        self.payload = b""
        self.error: Exception | None = None
        self.abandoned = False
        self.on_late = on_late

    def set(self, packet: Packet) -> None:
        if packet.op == Op.ERROR:
            self.error = refused(self.subject, packet.payload)
        else:
            self.payload = packet.payload
        self.settled.open()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.settled.open()

    def get(self) -> bytes:
        if self.error is not None:
            raise self.error
        return self.payload
