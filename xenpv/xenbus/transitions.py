"""What each end of a vbd does next, as data.

RULES

- Every transition of both roles is in this file, and in no other.
- This file does nothing. `next_step` is told the situation and answers with actions in their order and the state to
  write after them; the driver executes. The first rule that fits decides, and in every situation one fits.
- The driver writes a state only over the own state that the situation named, both in one transaction: the toolstack
  writes into the same node. It asks again when that was no longer so, and while a step changed the state or the wish.
  A step without a state means: then wait for the next event.
- DISCONNECT may come at any time, also when there is nothing to disconnect, and comes before whatever attaches.
- FORGET comes alone or after DISCONNECT, only when our own state is Closed or our own node is gone.
- A backend that starts never passes through Closing or Closed by itself: a vbd in Connected with nobody behind it is
  adopted, because a stock frontend gives its disk up for ever when it sees 5 or 6.
- A backend in Closed comes back when its frontend is Initialising, and for nothing else: what the frontend published
  before belongs to a ring that has ended.

Sources: xen/include/public/io/blkif.h (state diagram; states may be skipped), Linux's xen-blkback and xen-blkfront,
libxl's removal of a device (it writes Closing and online=0 into the backend's node and waits 10 s for Closed).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .states import XenbusState

__all__ = ["Action", "CLOSING_PATIENCE", "FAILED", "RULES", "Role", "Rule", "Situation", "Step", "Wish", "next_step"]

CLOSING_PATIENCE = 8.0
"""Seconds in Closing after which a situation is `overdue`: libxl gives a backend 10."""


class Role(Enum):
    BACKEND = "backend"
    FRONTEND = "frontend"


class Wish(Enum):
    """What this end's own caller wants."""

    KEEP = "keep"
    """Stay as long as the other end does."""
    RENEW = "renew"
    """Frontend: come up with a new ring, also out of a state that was left behind; KEEP once PUBLISH is done."""
    LEAVE = "leave"
    """Close, whatever the other end does."""


class Action(Enum):
    """What the driver does, in its own words."""

    ADVERTISE = "advertise"
    """Backend: make the adverts stand in the store. Those that stand there from a predecessor of ours are kept."""
    CONNECT = "connect"
    """Backend: read the frontend's rings and the adverts that stand, map, bind, start, write the disk's facts.
    Frontend: read the disk's facts, and the flag's advert once more; start."""
    ADOPT = "adopt"
    """Backend: take rings, ports and features over as they stand in the store, writing none of them."""
    PUBLISH = "publish"
    """Frontend: share new rings, bind ports, write their keys."""
    REFRESH = "refresh"
    """Frontend: read the disk's size again (a backend that resizes writes the same state again)."""
    REREAD = "reread"
    """Frontend: read the flag's advert again; when it is lost, the wish becomes RENEW."""
    STOP = "stop"
    """Take no new request. Those in flight go on."""
    DISCONNECT = "disconnect"
    """Let rings and ports go. Requests in flight fail, or wait for the new ring when the wish is RENEW."""
    FORGET = "forget"
    """The device has ended for this driver."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that decides.

    `attached`: this process holds the rings (a backend has them mapped, a frontend has them shared). `announced`: a
    backend's adverts are known to stand in the store. `online`: the key of that name in the backend's node. `overdue`:
    our own state has been Closing for longer than CLOSING_PATIENCE.
    """

    role: Role
    own: XenbusState
    peer: XenbusState
    attached: bool = False
    announced: bool = True
    online: bool = True
    overdue: bool = False
    wish: Wish = Wish.KEEP


@dataclass(frozen=True, slots=True)
class Step:
    """`actions` in order, then `state` is written unless it is None. `why` is for the log."""

    actions: tuple[Action, ...] = ()
    state: XenbusState | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Fits when own and peer state are among those named and every condition that is not None holds."""

    own: frozenset[XenbusState]
    peer: frozenset[XenbusState]
    step: Step
    attached: bool | None = None
    announced: bool | None = None
    online: bool | None = None
    overdue: bool | None = None
    wish: Wish | None = None

    def fits(self, now: Situation) -> bool:
        return (now.own in self.own and now.peer in self.peer
                and self.attached in (None, now.attached) and self.announced in (None, now.announced)
                and self.online in (None, now.online) and self.overdue in (None, now.overdue)
                and self.wish in (None, now.wish))


def next_step(now: Situation) -> Step:
    """What to do in the situation `now`."""
    return next(rule.step for rule in RULES[now.role] if rule.fits(now))


def _states(digits: str) -> frozenset[XenbusState]:
    return frozenset(XenbusState(int(digit)) for digit in digits)


def _rule(own: str, peer: str, actions: str, state: int | None, why: str, *, attached: bool | None = None,
          announced: bool | None = None, online: bool | None = None, overdue: bool | None = None,
          wish: Wish | None = None) -> Rule:
    step = Step(tuple(Action(word) for word in actions.split()), None if state is None else XenbusState(state), why)
    return Rule(_states(own), _states(peer), step, attached, announced, online, overdue, wish)


_ANY = "012345678"

# The states by their numbers: 0 Unknown (no node), 1 Initialising, 2 InitWait, 3 Initialised, 4 Connected, 5 Closing,
# 6 Closed, 7 Reconfiguring, 8 Reconfigured.

_BACKEND = (
    #     own     peer    actions                 state
    _rule("0",    _ANY,   "disconnect forget",    None, "our own node is gone"),

    _rule("6",    _ANY,   "disconnect forget",    None, "closed, and not wanted any more", online=False),
    _rule("6",    _ANY,   "disconnect forget",    None, "closed by our own wish", wish=Wish.LEAVE),
    _rule("6",    "0",    "disconnect forget",    None, "the frontend's node is gone"),
    _rule("6",    "1",    "disconnect advertise", 2,    "the frontend starts again"),
    _rule("6",    _ANY,   "disconnect",           None, "closed by another hand", attached=True),
    _rule("6",    _ANY,   "",                     None, "closed; the frontend may start again"),

    _rule("5",    "016",  "disconnect",           6,    "the frontend has let go"),
    _rule("5",    _ANY,   "disconnect",           6,    "closing, and no ring to drain", attached=False),
    _rule("5",    _ANY,   "disconnect",           6,    "the frontend does not answer", overdue=True),
    _rule("5",    _ANY,   "",                     None, "the frontend drains its ring"),

    _rule("123478", "0",  "disconnect",           6,    "the frontend's node is gone"),
    _rule("123478", "6",  "disconnect",           6,    "the frontend has closed"),
    _rule("123478", "5",  "",                     5,    "the frontend closes"),
    _rule("1234", _ANY,   "stop",                 5,    "our own wish", wish=Wish.LEAVE),
    _rule("78",   _ANY,   "stop",                 5,    "our own state is one that no vbd has"),

    _rule("1",    _ANY,   "disconnect advertise", 2,    "a new vbd"),

    _rule("23",   "34",   "disconnect connect",   4,    "the frontend has published its rings"),
    _rule("23",   _ANY,   "disconnect advertise", None, "set back by another hand", attached=True),
    _rule("23",   _ANY,   "advertise",            None, "found waiting, without our adverts", announced=False),
    _rule("23",   _ANY,   "",                     None, "the frontend has yet to publish"),

    _rule("4",    "1",    "disconnect advertise", 2,    "the frontend starts again without having closed"),
    _rule("4",    "34",   "adopt",                None, "connected, and nobody behind it", attached=False),
    _rule("4",    _ANY,   "",                     None, "connected"),
)

_FRONTEND = (
    #     own     peer    actions                 state
    _rule("0",    _ANY,   "disconnect forget",    None, "our own node is gone"),

    _rule("6",    "0",    "disconnect forget",    None, "the backend's node is gone"),
    _rule("6",    "45",   "disconnect",           None, "the backend has yet to let the old ring go", wish=Wish.RENEW),
    _rule("6",    _ANY,   "disconnect",           1,    "a new ring is wanted", wish=Wish.RENEW),
    _rule("6",    _ANY,   "disconnect forget",    None, "closed"),

    _rule("5",    "056",  "disconnect",           6,    "the backend closes as well"),
    _rule("5",    _ANY,   "disconnect",           6,    "closing, and no ring to drain", attached=False),
    _rule("5",    _ANY,   "disconnect",           6,    "the backend does not answer", overdue=True),
    _rule("5",    _ANY,   "",                     None, "the backend drains the ring"),

    _rule("123478", "0",  "disconnect",           6,    "the backend's node is gone"),
    _rule("12",   _ANY,   "disconnect",           6,    "our own wish", wish=Wish.LEAVE),
    _rule("12",   "5",    "disconnect",           6,    "the backend closes"),
    _rule("12",   "4",    "disconnect",           6,    "the backend still holds an earlier ring"),
    _rule("12",   "6",    "",                     None, "the backend has yet to see that we start again",
          wish=Wish.RENEW),
    _rule("123478", "6",  "disconnect",           6,    "the backend has closed"),

    _rule("12",   "23",   "disconnect publish",   3,    "the backend waits for our rings"),
    _rule("12",   _ANY,   "",                     None, "the backend has yet to start"),

    _rule("3478", _ANY,   "disconnect",           6,    "left behind by another process", attached=False),
    _rule("34",   "5",    "stop",                 5,    "the backend closes"),
    _rule("34",   _ANY,   "stop",                 5,    "our own wish", wish=Wish.LEAVE),
    _rule("34",   _ANY,   "stop",                 5,    "a new ring is wanted", wish=Wish.RENEW),
    _rule("78",   _ANY,   "stop",                 5,    "our own state is one that no vbd has"),

    _rule("3",    "4",    "connect",              4,    "the backend has connected"),
    _rule("3",    _ANY,   "",                     None, "the backend has yet to connect"),

    # A backend that went 4, 2, 4 may have been seen in 4 alone: watches merge.
    _rule("4",    "4",    "refresh reread",       None, "connected"),
    _rule("4",    "23",   "reread",               None, "the backend attaches anew"),
    _rule("4",    _ANY,   "",                     None, "the backend starts again"),
)

RULES: dict[Role, tuple[Rule, ...]] = {Role.BACKEND: _BACKEND, Role.FRONTEND: _FRONTEND}

FAILED = Step((Action.DISCONNECT,), XenbusState.CLOSING, "an action failed")
"""The step of either end when CONNECT, ADOPT or PUBLISH raised: nothing stays attached, and the other end is told."""
