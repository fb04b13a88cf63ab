"""What a connection still has to send.

RULES
- An event that equals one still unsent is dropped; never a special one ("@..."), of which each counts.
- An event of an unprivileged domain that is unread for EVENT_SECONDS is dropped, unless its first byte has left.
- A request of an unprivileged domain is outstanding until its answer, and every event that it caused on any connection,
  has left or was dropped (XSA-326).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from xenpv.errors import LocalProtocolError
from xenpv.wire.xs import Opcode, encode

from .quotas import Domain

EVENT_SECONDS = 20.0
"""How long an unprivileged domain may leave an event unread (timeout_watch_event_msec of C xenstored)."""

CHUNK = 65536
"""Bytes that are offered to the socket at once, about."""


class Ticket:
    """A request on its domain's account. `done` is called when its end brings the domain below the limit again."""

    def __init__(self, domain: Domain, done: Callable[[Domain], None]) -> None:
        self._domain = domain
        self._done = done
        self._uses = 1
        domain.usage.outstanding += 1

    def take(self) -> None:
        """Use it once more."""
        self._uses += 1

    def give_back(self) -> None:
        """End one use."""
        self._uses -= 1
        if self._uses == 0:
            domain = self._domain
            full = domain.exceeds("outstanding", domain.usage.outstanding + 1)
            domain.usage.outstanding -= 1
            if full:
                self._done(domain)


@dataclass(slots=True, eq=False)
class _Message:
    data: bytes
    event: bool
    ticket: Ticket | None
    deadline: float | None = None


class Output:
    """Messages in the order they leave."""

    def __init__(self, domain: Domain) -> None:
        self.size = 0
        """Bytes not sent yet."""
        self._domain = domain
        self._queue: deque[_Message] = deque()
        self._mergeable: dict[bytes, _Message] = {}
        self._sent = 0

    def reply(self, type: int, req_id: int, tx_id: int, payload: bytes, ticket: Ticket | None) -> None:
        """Append an answer. It takes over one use of `ticket`."""
        self._append(_Message(encode(type, req_id, tx_id, payload), False, ticket))

    def event(self, payload: bytes, ticket: Ticket | None) -> None:
        """Append a WATCH_EVENT, unless it is merged with an equal one or the domain's memory is used up."""
        data = encode(Opcode.WATCH_EVENT, 0, 0, payload)
        if data in self._mergeable or self._domain.exceeds("memory", self._domain.usage.memory + len(data)):
            return
        message = _Message(data, True, ticket)
        if not payload.startswith(b"@"):
            self._mergeable[data] = message
        self._domain.usage.memory += len(data)
        if ticket is not None:
            ticket.take()
        self._append(message)

    def pending(self) -> bytes:
        """The next bytes to send, whole messages but for the first; empty when there is nothing."""
        parts, size = [], -self._sent
        for message in self._queue:
            parts.append(message.data)
            size += len(message.data)
            if size >= CHUNK:
                break
        return b"".join(parts)[self._sent:]

    def sent(self, count: int) -> None:
        """`count` of these bytes have left. Raises LocalProtocolError when there were not so many."""
        if not 0 <= count <= self.size:
            raise LocalProtocolError(f"{count} bytes were sent of {self.size}")
        self.size -= count
        self._sent += count
        done: list[_Message] = []
        while self._queue and self._sent >= len(self._queue[0].data):
            message = self._queue.popleft()
            self._sent -= len(message.data)
            done.append(message)
        if self._sent:
            self._stop_merging(self._queue[0])
        self._finish(done)

    def expire(self, now: float) -> float | None:
        """Drop events that nobody read in time; give when the next one is due. A new event's time starts here."""
        if self._domain.privileged:
            return None
        gone: list[_Message] = []
        due: float | None = None
        for index, message in enumerate(self._queue):
            if not message.event or (index == 0 and self._sent):
                continue
            if message.deadline is None:
                message.deadline = now + EVENT_SECONDS
            if message.deadline <= now:
                gone.append(message)
            elif due is None:
                due = message.deadline
        if gone:
            left = set(gone)
            self._queue = deque(message for message in self._queue if message not in left)
            self.size -= sum(len(message.data) for message in gone)
            self._finish(gone)
        return due

    def clear(self) -> None:
        """Drop everything."""
        everything = list(self._queue)
        self._queue.clear()
        self.size = self._sent = 0
        self._finish(everything)

    def _append(self, message: _Message) -> None:
        self._queue.append(message)
        self.size += len(message.data)

    def _finish(self, messages: list[_Message]) -> None:
        for message in messages:
            if message.event:
                self._stop_merging(message)
                self._domain.usage.memory -= len(message.data)
            if message.ticket is not None:
                message.ticket.give_back()

    def _stop_merging(self, message: _Message) -> None:
        if self._mergeable.get(message.data) is message:
            del self._mergeable[message.data]
