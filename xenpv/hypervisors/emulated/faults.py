"""Faults on purpose, for tests: the emulated Xen refuses what Xen would refuse only under bad stars.

A fault lets `skip` events of its kind pass and then spoils `times`. Kinds:

    share    a new segment for pages of domain `domid`: no space. (A segment is 256 pages for one peer, all writable or
             all read-only, so the first share() of a kind asks for one, and then every 256th page.)
    map      a map of a page of domain `domid`: GNTST_* `status`. Counted in each segment by itself, by the core.
    bind     a bind_interdomain by domain `domid`: refused.
    notify   a notification that domain `domid` sends: lost, or with `hold` kept until release(). Only on channels that
             are made after the fault was added.
"""

from __future__ import annotations

from dataclasses import dataclass

from .events import Port, set_pending

KINDS = ("share", "map", "bind", "notify")


@dataclass
class Fault:
    """What is to go wrong, and when."""

    kind: str
    domid: int
    skip: int = 0
    times: int = 1
    status: int = -13
    hold: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: one of {', '.join(KINDS)}")
        for name, top in (("domid", 0x7FEF), ("skip", 0xFFFFFFFF), ("times", 0xFFFF)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= top:
                raise ValueError(f"fault {self.kind}: {name} is a number from 0 to {top}")
        if type(self.status) is not int or not -0x8000 <= self.status < 0:
            raise ValueError(f"fault {self.kind}: status is a negative GNTST number")

    def strikes(self) -> bool:
        """Count one event. True when it is to be spoiled."""
        if self.skip:
            self.skip -= 1
            return False
        if self.times:
            self.times -= 1
            return True
        return False


class Faults:
    """The faults of one host: give it to the host at start, or add to it over the control socket."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = list(faults)
        self._held: list[Port] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        """Nothing goes wrong any more, and what is held is let go of. (Maps that are armed in a segment stay so.)"""
        self._faults.clear()
        self.release()

    def strikes(self, kind: str, domid: int) -> bool:
        """Whether this event of domain `domid` is to be spoiled; counts it."""
        return any([fault.strikes() for fault in self._faults if (fault.kind, fault.domid) == (kind, domid)])

    def maps_of(self, domid: int) -> Fault | None:
        """The fault for the maps of `domid`'s pages: the last one added."""
        found = [fault for fault in self._faults if (fault.kind, fault.domid) == ("map", domid)]
        return found[-1] if found else None

    def relays(self, *domids: int) -> bool:
        """Whether a channel between these must pass its notifications through the host."""
        return any(fault.kind == "notify" and fault.domid in domids for fault in self._faults)

    def relay(self, sender: Port) -> None:
        """`sender` has notified: pass it on to its peer, lose it or hold it."""
        struck = [fault for fault in self._faults
                  if fault.kind == "notify" and fault.domid == sender.domid and fault.strikes()]
        if not struck:
            self._deliver(sender)
        elif any(fault.hold for fault in struck):
            self._held.append(sender)

    def release(self) -> int:
        """Deliver what is held. Returns how many notifications that were."""
        held, self._held = self._held, []
        for sender in held:
            self._deliver(sender)
        return len(held)

    @staticmethod
    def _deliver(sender: Port) -> None:
        # The sender's port may be closed by now; its peer gets the event all the same.
        if any(sender.channel.ports):
            set_pending(sender.channel.wait_fds[1 - sender.side])
