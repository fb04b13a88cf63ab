"""The host's side of event channels: who is bound to whom. The events themselves never pass through here.

A channel is two eventfds, one a direction; a port is one side of a channel. What Xen's hypercalls do to a port is done
to the sides (public/event_channel.h): closing one leaves the other unbound, and the same domain may bind to it again.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass, field
from enum import IntEnum


class PortStatus(IntEnum):
    """EVTCHNSTAT_* (public/event_channel.h), as far as the emulated Xen has them."""

    CLOSED = 0
    UNBOUND = 1
    INTERDOMAIN = 2


def eventfd() -> int:
    """A counter at zero. A guest may share it, so no call on it may wait."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def set_pending(fd: int) -> None:
    """Make the event of `fd` pending.

    A guest that shares the descriptor can fill the counter and make it blocking; not zero is pending as it is.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(0):
        os.eventfd_write(fd, 1)


class Channel:
    """Side 0 waits on the first eventfd and notifies through the second, side 1 the other way round.

    With `relayed`, notifications go to eventfds of the host's instead, which passes them on or not (faults.py).
    """

    def __init__(self, relayed: bool = False) -> None:
        self.wait_fds = [eventfd()]
        try:
            self.wait_fds.append(eventfd())
            self.notify_fds = self.wait_fds[::-1]
            if relayed:
                self.notify_fds = [eventfd(), eventfd()]
        except OSError:
            for fd in self.wait_fds:
                os.close(fd)
            raise
        self.relayed = relayed
        self.ports: list[Port | None] = [None, None]

    def close(self) -> None:
        for fd in {*self.wait_fds, *self.notify_fds}:
            os.close(fd)


@dataclass(eq=False)
class Port:
    """A port of domain `domid`: one side of a channel, which `remote` holds the other side of, or may bind to."""

    domid: int
    number: int
    remote: int
    channel: Channel = field(repr=False)
    side: int

    def __post_init__(self) -> None:
        self.channel.ports[self.side] = self

    @property
    def peer(self) -> Port | None:
        return self.channel.ports[1 - self.side]

    @property
    def status(self) -> PortStatus:
        return PortStatus.INTERDOMAIN if self.peer else PortStatus.UNBOUND

    @property
    def fds(self) -> tuple[int, int]:
        """To wait on, and to notify through."""
        return self.channel.wait_fds[self.side], self.channel.notify_fds[self.side]

    def set_pending(self) -> None:
        set_pending(self.channel.wait_fds[self.side])

    def close(self) -> bool:
        """Leave the peer unbound. True when this was the last side, and the channel is gone."""
        self.channel.ports[self.side] = None
        if self.peer:
            return False
        self.channel.close()
        return True
