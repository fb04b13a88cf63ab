"""The contract of Events."""

from __future__ import annotations

import select

from xenpv.domain import Domain, EventChannel
from xenpv.errors import ClosedError, EventChannelError

from .contract import Check, MakePair, hold, refused, run

_SOON = 5.0
"""Seconds within which an event that was sent has arrived."""

_NOBODY = 0x7FEE


def _bound(first: Domain, second: Domain) -> tuple[EventChannel, EventChannel]:
    """Two ends, with the events that binding brings taken and unmasked."""
    ours = first.events.bind_unbound(second.domid)
    theirs = second.events.bind_interdomain(first.domid, ours.port)
    hold(theirs.wait(_SOON), "binding sets the binder's port pending")
    theirs.unmask()
    return ours, theirs


def _readable(channel: EventChannel, timeout: float) -> bool:
    return bool(select.select([channel], [], [], timeout)[0])


def binding_sets_pending(first: Domain, second: Domain) -> None:
    """The binder's port is pending at once, once; the other's is not."""
    with first.events.bind_unbound(second.domid) as ours:
        with second.events.bind_interdomain(first.domid, ours.port) as theirs:
            hold(theirs.wait(_SOON), "binding sets the binder's port pending")
            theirs.unmask()
            hold(not theirs.wait(0), "binding sets the port pending once")
            hold(not ours.wait(0), "binding does not set the other's port pending")


def events_go_both_ways(first: Domain, second: Domain) -> None:
    """notify() on one end is an event on the other, and on no other."""
    for ours, theirs in (_bound(first, second), _bound(second, first)):
        with ours, theirs:
            ours.notify()
            hold(theirs.wait(_SOON), "a notification arrives")
            hold(not ours.wait(0), "a notification does not come back")
            theirs.notify()
            hold(ours.wait(_SOON), "a notification arrives the other way")


def the_descriptor_is_readable(first: Domain, second: Domain) -> None:
    """fileno() is readable while an event is pending and the port is not masked."""
    ours, theirs = _bound(first, second)
    with ours, theirs:
        hold(not _readable(theirs, 0), "fileno() is readable without an event")
        ours.notify()
        hold(_readable(theirs, _SOON), "a pending event makes fileno() readable")
        hold(theirs.wait(0), "what is readable can be taken")
        ours.notify()
        hold(not _readable(theirs, 0), "fileno() of a masked port is readable")
        theirs.unmask()
        hold(_readable(theirs, _SOON), "unmask() makes fileno() readable for what came while masked")


def events_coalesce(first: Domain, second: Domain) -> None:
    """Notifications before the first is taken are fewer events than they are: one where nobody took it in between.

    On Xen the peer's kernel takes the first, and keeps what comes then as a second; of five, three events have been seen
    (Xen 4.17, two CPUs, a guest that notifies slowly). So a driver counts on no number.
    """
    ours, theirs = _bound(first, second)
    with ours, theirs:
        for _ in range(5):
            ours.notify()
        hold(theirs.wait(_SOON), "the event arrives")
        events = 1
        theirs.unmask()
        while events < 5 and theirs.wait(0):
            events += 1
            theirs.unmask()
        hold(events < 5, "five notifications were five events")


def a_taken_event_masks(first: Domain, second: Domain) -> None:
    """Between wait() and unmask() events are kept, as one."""
    ours, theirs = _bound(first, second)
    with ours, theirs:
        ours.notify()
        hold(theirs.wait(_SOON), "the first event arrives")
        ours.notify()
        ours.notify()
        hold(not theirs.wait(0), "a masked port gave an event")
        theirs.unmask()
        hold(theirs.wait(_SOON), "what came while masked is delivered by unmask()")
        theirs.unmask()
        hold(not theirs.wait(0), "what came while masked is one event")


def notifying_nobody_is_harmless(first: Domain, second: Domain) -> None:
    """notify() on an unbound port does nothing to anybody."""
    with first.events.bind_unbound(second.domid) as ours:
        ours.notify()
        hold(not ours.wait(0), "an unbound port notified itself")
        with second.events.bind_interdomain(first.domid, ours.port) as theirs:
            hold(theirs.wait(_SOON), "binding sets pending")
            theirs.unmask()
            hold(not theirs.wait(0), "a notification from before the binding is no second event")


def the_wrong_domain_is_refused(first: Domain, second: Domain) -> None:
    """A port is for the domain that it was offered to; nobody binds to what is not there."""
    with first.events.bind_unbound(first.domid) as ours:
        with refused(EventChannelError, "a port that was offered to another was bound"):
            second.events.bind_interdomain(first.domid, ours.port)
        with refused(EventChannelError, "a port that does not exist was bound"):
            second.events.bind_interdomain(first.domid, ours.port + 1000)
        with refused(EventChannelError, "a port of nobody was bound"):
            second.events.bind_interdomain(_NOBODY, 1)


def a_bound_port_is_taken(first: Domain, second: Domain) -> None:
    """Only an unbound port can be bound to."""
    ours, theirs = _bound(first, second)
    with ours, theirs:
        with refused(EventChannelError, "a port was bound twice"):
            second.events.bind_interdomain(first.domid, ours.port)


def closing_leaves_the_peer_unbound(first: Domain, second: Domain) -> None:
    """After one end closes the other stands, notifies nobody, and can be bound to again."""
    ours, theirs = _bound(first, second)
    theirs.close()
    ours.notify()
    with second.events.bind_interdomain(first.domid, ours.port) as again:
        hold(again.wait(_SOON), "binding again sets pending")
        again.unmask()
        hold(not again.wait(0), "binding again is one event")
        ours.notify()
        hold(again.wait(_SOON), "the new end gets notifications")
        again.notify()
        hold(ours.wait(_SOON), "and the old end gets its own")
    ours.close()


def the_first_end_may_go_too(first: Domain, second: Domain) -> None:
    """Which end offered the channel makes no difference when it closes."""
    ours, theirs = _bound(first, second)
    ours.close()
    with first.events.bind_interdomain(second.domid, theirs.port) as again:
        hold(again.wait(_SOON), "binding to the end that once was the binder works")
        theirs.notify()
        again.unmask()
        hold(again.wait(_SOON), "and it gets notifications")
    theirs.close()


def closed_channels_say_so(first: Domain, second: Domain) -> None:
    """After close(): ClosedError; a second close() does nothing."""
    ours = first.events.bind_unbound(second.domid)
    port = ours.port
    ours.close()
    ours.close()
    for use in (ours.notify, ours.unmask, ours.fileno, ours.wait_fileno, ours.notify_fileno, lambda: ours.wait(0)):
        with refused(ClosedError, "a closed channel was used"):
            use()
    with refused(EventChannelError, "a closed port was bound"):
        second.events.bind_interdomain(first.domid, port)


EVENT_CHECKS: tuple[Check, ...] = (
    binding_sets_pending, events_go_both_ways, the_descriptor_is_readable, events_coalesce, a_taken_event_masks,
    notifying_nobody_is_harmless, the_wrong_domain_is_refused, a_bound_port_is_taken, closing_leaves_the_peer_unbound,
    the_first_end_may_go_too, closed_channels_say_so,
)


def check_events(make_pair: MakePair) -> None:
    """Every claim about event channels. Raises ContractError."""
    run(EVENT_CHECKS, make_pair)
