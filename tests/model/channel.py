"""A port of an event channel as /dev/xen/evtchn shows it, in four bits.

RULES
1. A send sets pending; sends coalesce. A send to a port that nobody has bound is dropped.
2. A pending, unmasked port is delivered: pending is cleared, the port is masked, a reader can take it.
3. Masked lasts until the reader writes the port back; an event that comes meanwhile stays pending and is delivered
   then.
4. Binding sets pending and starts unmasked (xen/common/event_channel.c, bind_interdomain). Death of the owner
   unbinds.

The emulated Xen's eventfd is the case of these rules in which delivery happens in the very step in which it is read.
"""

__all__ = ["BOUND", "DELIVERED", "MASKED", "PENDING", "bound", "can_deliver", "cleared", "delivered", "sent", "taken",
           "unmasked"]

BOUND, PENDING, MASKED, DELIVERED = 1, 2, 4, 8


def bound(pending: bool) -> int:
    """A port just bound."""
    return BOUND | PENDING if pending else BOUND


def sent(port: int) -> int:
    """The port after a notification."""
    return port | PENDING if port & BOUND else port


def can_deliver(port: int) -> bool:
    """Whether the kernel may deliver now."""
    return port & (BOUND | PENDING | MASKED) == BOUND | PENDING


def delivered(port: int) -> int:
    """The port after delivery."""
    return port & ~PENDING | MASKED | DELIVERED


def taken(port: int) -> int:
    """The port after its reader has woken and read it."""
    return port & ~DELIVERED


def unmasked(port: int) -> int:
    """The port after it was written back. One that was delivered and not read stays as it is, as in the kernel."""
    return port if port & DELIVERED else port & ~MASKED


def cleared(port: int) -> int:
    """The port with every event on it thrown away."""
    return port & ~(PENDING | DELIVERED)
