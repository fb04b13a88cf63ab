"""A client of a `Xenstored` without a socket, in Xen's own notation: ``|`` stands for a NUL."""

from __future__ import annotations

from collections.abc import Iterable

from xenpv.hypervisors.emulated.xenstored import Xenstored
from xenpv.wire.xs import Decoder, Opcode, Packet, encode

Row = tuple["Client", int, str, str]
"""Who asks, in which transaction (0: none), the request, and the answer expected."""


class Client:
    """One connection of a domain."""

    def __init__(self, store: Xenstored, domid: int) -> None:
        self.store = store
        self.connection = store.connect(domid)
        self.events: list[str] = []
        """WATCH_EVENT payloads not taken yet."""
        self.answers: list[Packet] = []
        self._decoder = Decoder()
        self._requests = 0

    def send(self, request: str | bytes, tx: int = 0) -> None:
        """Send ``OPCODE payload`` and read nothing."""
        name, _, payload = (request.encode() if isinstance(request, str) else request).partition(b" ")
        self._requests += 1
        opcode = int(name) if name.isdigit() else Opcode[name.decode()]
        self.connection.receive(encode(opcode, self._requests, tx, payload.replace(b"|", b"\0")))

    def read(self) -> None:
        """Read all that there is, into `answers` and `events`."""
        while data := self.connection.send_pending():
            self.connection.sent(len(data))
            self._decoder.feed(data)
        while packet := self._decoder.next():
            if packet.type == Opcode.WATCH_EVENT:
                self.events.append(packet.payload.replace(b"\0", b"|").decode("latin-1"))
            else:
                self.answers.append(packet)

    def ask(self, request: str | bytes, tx: int = 0) -> str:
        """Send and give the answer: the payload, or the name of the error alone."""
        self.send(request, tx)
        self.read()
        answer = self.answers.pop()
        assert answer.req_id == self._requests and answer.tx_id == tx
        text = answer.payload.replace(b"\0", b"|").decode("latin-1")
        return text.removesuffix("|") if answer.type == Opcode.ERROR else text

    def start(self) -> int:
        """Begin a transaction."""
        return int(self.ask("TRANSACTION_START |").rstrip("|"))

    def commit(self, tx: int) -> str:
        """End it."""
        return self.ask("TRANSACTION_END T|", tx)

    def take_events(self) -> list[str]:
        """The events since the last call."""
        self.read()
        events, self.events = self.events, []
        return events


def create(store: Xenstored, dom0: Client, domid: int) -> Client:
    """What a toolstack does for a new domain; a client of it."""
    store.introduce(domid)
    run([(dom0, 0, f"MKDIR /local/domain/{domid}|", "OK|"),
         (dom0, 0, f"SET_PERMS /local/domain/{domid}|n{domid}|", "OK|")])
    return Client(store, domid)


def run(rows: Iterable[Row]) -> None:
    """Ask every row's request in turn and compare the answers."""
    for number, (client, tx, request, expected) in enumerate(rows):
        assert client.ask(request, tx) == expected, f"row {number}: domain {client.connection.domid}: {request}"
