"""One client's connection: bytes in, bytes out, and what it owns in between.

RULES
- No input or output here: the owner of the socket moves the bytes. `ready` of the store names whom to look at.
- A client that does not read its answers is not read either: `wants_read` is false, and nothing more is served.
- A message that is too long ends the connection, and nothing else: the domain stays, for its @releaseDomain to come at
  its real death (XSA-325, XSA-420).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenpv.errors import RemoteProtocolError, StoreError
from xenpv.wire.xs import PAYLOAD_MAX, Decoder, Opcode, Packet

from .output import Output, Ticket
from .quotas import Domain
from .requests import serve
from .transaction import View

if TYPE_CHECKING:
    from .daemon import Xenstored

INPUT_MAX = 1 << 20
"""Bytes that may wait unserved: the owner went on feeding although `wants_read` was false."""

OUTPUT_PAUSE = 256 << 10
"""Unsent bytes from which on a connection is not read."""

OUTPUT_MAX = 16 << 20
"""Unsent bytes, mostly events, that end a connection of the control domain; others have their quota of memory."""


class Connection:
    """Made by `Xenstored.connect`."""

    def __init__(self, store: Xenstored, domain: Domain) -> None:
        self.store = store
        self.domain = domain
        self.closed = False
        """The socket is to be closed: the client broke the protocol, read nothing for too long, or is released."""
        self.transactions: dict[int, View] = {}
        self._decoder = Decoder()
        self._output = Output(domain)
        self._serving = False
        self._last_transaction = 0

    @property
    def domid(self) -> int:
        """Whose connection it is."""
        return self.domain.domid

    @property
    def wants_read(self) -> bool:
        """Whether the owner should receive more from the socket. A change makes the connection `ready`."""
        if self.closed or self._output.size >= OUTPUT_PAUSE:
            return False
        if self.domain.privileged:
            return True
        return (not self.domain.exceeds("outstanding", self.domain.usage.outstanding + 1)
                and not self.store.credits.blocked(self.domain.domid))

    def receive(self, data: bytes) -> None:
        """Take what the socket gave, and serve what is whole."""
        if self.closed:
            return
        self._decoder.feed(data)
        if self._decoder.pending > INPUT_MAX:
            self.drop()
        self.serve()

    def send_pending(self) -> bytes:
        """The bytes to send next, perhaps not all; empty when there are none. Then say how many were `sent`."""
        return self._output.pending()

    def sent(self, count: int) -> None:
        """`count` bytes of `send_pending` have left. Raises LocalProtocolError if there were not so many."""
        if not self.closed:
            self._output.sent(count)
            self.serve()

    def close(self) -> None:
        """The socket is gone: drop watches, transactions and output. A second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self.reset()
        self.store.disconnect(self)
        self._output.clear()

    # For the rest of the package

    def drop(self) -> None:
        """Close it from this side, and let the owner of the socket know."""
        self.close()
        self.store.note(self)

    def serve(self) -> None:
        """Serve what was received, as far as the limits allow."""
        if self._serving:
            return
        self._serving = True
        try:
            while self.wants_read:
                packet = self._decoder.next()
                if packet is None:
                    break
                self._answer(packet)
        except RemoteProtocolError:
            self.drop()
        finally:
            self._serving = False

    def queue_event(self, path: str, token: bytes) -> None:
        """Queue a WATCH_EVENT; one that fits in no message is dropped (XSA-324)."""
        payload = path.encode("ascii") + b"\0" + token + b"\0"
        if self.closed or len(payload) > PAYLOAD_MAX:
            return
        self._output.event(payload, self.store.cause)
        if self._output.size > OUTPUT_MAX:
            self.drop()
        self.store.note(self)

    def start_transaction(self) -> int:
        """Begin a transaction, and give its id. Raises StoreError (ENOSPC)."""
        usage = self.domain.usage
        self.domain.demand("transactions", usage.transactions + 1)
        number = self._last_transaction
        while not number or number in self.transactions:
            number = (number + 1) & 0xFFFFFFFF
        self._last_transaction = (number + 1) & 0xFFFFFFFF
        self.transactions[number] = View(self.store.tree, self.domain, lasting=True)
        usage.transactions += 1
        self.store.open_transactions += 1
        return number

    def end_transaction(self, number: int) -> View:
        """Take a transaction out, and give what it did. Raises StoreError (ENOENT)."""
        view = self.transactions.pop(number, None)
        if view is None:
            raise StoreError("there is no such transaction", "ENOENT")
        view.drop()
        self.domain.usage.transactions -= 1
        self.store.open_transactions -= 1
        return view

    def reset(self) -> None:
        """Drop every watch and every transaction (XSA-330, XSA-484)."""
        self.store.watches.remove_all(self)
        for number in tuple(self.transactions):
            self.end_transaction(number)

    def expire(self, now: float) -> float | None:
        """Drop events that were not read in time; when the next one is due."""
        return self._output.expire(now) if self._output.size else None

    def _answer(self, packet: Packet) -> None:
        ticket = None if self.domain.privileged else Ticket(self.domain, self.store.resume)
        cause, self.store.cause = self.store.cause, ticket
        type = packet.type
        afterwards: list[Callable[[], None]] = []
        try:
            payload, afterwards = serve(self, packet)
            if len(payload) > PAYLOAD_MAX:
                raise StoreError("the answer is longer than a message", "E2BIG")
        except StoreError as refusal:
            type, payload = Opcode.ERROR, refusal.code.encode("ascii") + b"\0"
        finally:
            self.store.cause = cause
        if self.closed:
            if ticket is not None:
                ticket.give_back()
            return
        self._output.reply(type, packet.req_id, packet.tx_id, payload, ticket)
        for call in afterwards:
            call()
        self.store.note(self)
