"""The table of both roles: complete, at rest after a few steps, never an impossible order; and both ends together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenpv.errors import RemoteProtocolError
from xenpv.xenbus import FAILED, RULES, Action, Role, Situation, Wish, XenbusState, next_step, parse_state

S = XenbusState
BACK, FRONT = Role.BACKEND, Role.FRONTEND
bounded = settings(max_examples=150, derandomize=True, deadline=None)


def situations(role: Role) -> Iterator[Situation]:
    wishes = Wish if role is FRONT else (Wish.KEEP, Wish.LEAVE)
    flags = itertools.product((False, True), repeat=4)
    for own, peer, wish, (attached, announced, online, overdue) in itertools.product(S, S, wishes, list(flags)):
        yield Situation(role, own, peer, attached, announced, online, overdue, wish)


class Driver:
    """One end's driver over nothing: it keeps the books and objects to every impossible order."""

    def __init__(self, now: Situation) -> None:
        self.now = now
        self.forgotten = False
        self.started = now.attached

    def act(self, action: Action) -> None:
        assert not self.forgotten, "an action after FORGET"
        match action:
            case Action.DISCONNECT:
                self.now = replace(self.now, attached=False)
                self.started = False
            case Action.ADVERTISE:
                assert self.now.role is BACK and not self.now.attached
                self.now = replace(self.now, announced=True)
            case Action.ADOPT | Action.PUBLISH:
                assert self.now.role is (BACK if action is Action.ADOPT else FRONT)
                assert not self.now.attached, "attached twice"
                self.now = replace(self.now, attached=True)
                self.started = action is Action.ADOPT
                if action is Action.PUBLISH:
                    self.now = replace(self.now, wish=Wish.KEEP)
            case Action.CONNECT:
                assert self.now.attached is (self.now.role is FRONT), "connected without a ring, or twice"
                self.now = replace(self.now, attached=True)
                self.started = True
            case Action.STOP:
                self.started = False
            case Action.REFRESH | Action.REREAD:
                assert self.now.role is FRONT and self.now.attached
            case Action.FORGET:
                assert not self.now.attached and self.now.own in (S.UNKNOWN, S.CLOSED)
                self.forgotten = True

    def settle(self) -> int:
        """Step until at rest; how many steps it took."""
        for count in range(1, 10):
            step = next_step(self.now)
            for action in step.actions:
                self.act(action)
            if step.state is None:
                return count
            assert not self.forgotten, "a state after FORGET"
            assert step.state is not self.now.own
            self.now = replace(self.now, own=step.state)
        raise AssertionError(f"never at rest: {self.now}")


@pytest.mark.parametrize("role", Role)
def test_every_situation_comes_to_rest_in_order(role: Role) -> None:
    assert max(Driver(now).settle() for now in situations(role)) <= 5


@pytest.mark.parametrize("role", Role)
def test_at_rest_a_second_step_does_nothing_new(role: Role) -> None:
    idempotent = {Action.DISCONNECT, Action.REFRESH, Action.REREAD}
    for now in situations(role):
        driver = Driver(now)
        driver.settle()
        if not driver.forgotten:
            step = next_step(driver.now)
            assert step.state is None and set(step.actions) <= idempotent, driver.now


@pytest.mark.parametrize("role", Role)
def test_at_rest_in_connected_there_is_a_ring(role: Role) -> None:
    served = {S.INITIALISED, S.CONNECTED} if role is BACK else set(S)
    for now in situations(role):
        driver = Driver(now)
        driver.settle()
        if driver.now.own is S.CONNECTED and driver.now.peer in served:
            assert driver.now.attached, now


@pytest.mark.parametrize("role", Role)
def test_every_rule_is_of_use(role: Role) -> None:
    used = {id(next(rule for rule in RULES[role] if rule.fits(now))) for now in situations(role)}
    assert [rule for rule in RULES[role] if id(rule) not in used] == []


@pytest.mark.parametrize("role", Role)
def test_disconnect_precedes_whatever_attaches(role: Role) -> None:
    for rule in RULES[role]:
        actions = rule.step.actions
        if Action.PUBLISH in actions or (role is BACK and Action.CONNECT in actions):
            assert actions[0] is Action.DISCONNECT


@pytest.mark.parametrize("peer", [S.INITIALISED, S.CONNECTED])
def test_a_restarted_backend_adopts_and_writes_no_state(peer: S) -> None:
    step = next_step(Situation(BACK, S.CONNECTED, peer, attached=False, announced=False))
    assert (step.actions, step.state) == ((Action.ADOPT,), None)


@pytest.mark.parametrize("own", [S.INIT_WAIT, S.CONNECTED])
def test_a_restarted_backend_never_closes_a_live_frontend(own: S) -> None:
    driver = Driver(Situation(BACK, own, S.CONNECTED, attached=False, announced=False))
    seen = [own]
    while (step := next_step(driver.now)).state is not None:
        for action in step.actions:
            driver.act(action)
        driver.now = replace(driver.now, own=step.state)
        seen.append(step.state)
    assert not {S.CLOSING, S.CLOSED} & set(seen) and driver.now.own is S.CONNECTED


CASES = {
    "new vbd": (Situation(BACK, S.INITIALISING, S.INITIALISING), "advertise", S.INIT_WAIT),
    "frontend connected before us": (Situation(BACK, S.INIT_WAIT, S.CONNECTED), "connect", S.CONNECTED),
    "frontend closing": (Situation(BACK, S.CONNECTED, S.CLOSING, True), "", S.CLOSING),
    "frontend closed": (Situation(BACK, S.CONNECTED, S.CLOSED, True), "", S.CLOSED),
    "frontend closed, still online": (Situation(BACK, S.CLOSED, S.CLOSED), "", None),
    "frontend closed, offline": (Situation(BACK, S.CLOSED, S.CLOSED, online=False), "forget", None),
    "frontend gone": (Situation(BACK, S.CLOSED, S.UNKNOWN), "forget", None),
    "reconnect": (Situation(BACK, S.CLOSED, S.INITIALISING), "advertise", S.INIT_WAIT),
    "stale frontend after our close": (Situation(BACK, S.CLOSED, S.CONNECTED), "", None),
    "toolstack closes": (Situation(BACK, S.CLOSING, S.CONNECTED, True, online=False), "", None),
    "toolstack closes, frontend hangs": (
        Situation(BACK, S.CLOSING, S.CONNECTED, True, online=False, overdue=True), "", S.CLOSED),
    "frontend starts over": (Situation(BACK, S.CONNECTED, S.INITIALISING, True), "advertise", S.INIT_WAIT),
    "toolstack closes what never connected": (Situation(BACK, S.CLOSING, S.INITIALISED, online=False), "", S.CLOSED),
    "backend holds an earlier ring": (Situation(FRONT, S.INITIALISING, S.CONNECTED, wish=Wish.RENEW), "", S.CLOSED),
    "duplicate event": (Situation(BACK, S.CONNECTED, S.CONNECTED, True), "", None),
    "frontend begins": (Situation(FRONT, S.INITIALISING, S.INIT_WAIT), "publish", S.INITIALISED),
    "backend connected": (Situation(FRONT, S.INITIALISED, S.CONNECTED, True), "connect", S.CONNECTED),
    "backend closing": (Situation(FRONT, S.CONNECTED, S.CLOSING, True), "stop", S.CLOSING),
    "backend closed": (Situation(FRONT, S.CONNECTED, S.CLOSED, True), "", S.CLOSED),
    "backend gone": (Situation(FRONT, S.CONNECTED, S.UNKNOWN, True), "", S.CLOSED),
    "backend attaches anew": (Situation(FRONT, S.CONNECTED, S.INIT_WAIT, True), "reread", None),
    "resize": (Situation(FRONT, S.CONNECTED, S.CONNECTED, True), "refresh reread", None),
    "flag lost": (Situation(FRONT, S.CONNECTED, S.INIT_WAIT, True, wish=Wish.RENEW), "stop", S.CLOSING),
    "our close": (Situation(FRONT, S.CONNECTED, S.CONNECTED, True, wish=Wish.LEAVE), "stop", S.CLOSING),
    "left behind": (Situation(FRONT, S.CONNECTED, S.CONNECTED, wish=Wish.RENEW), "", S.CLOSED),
    "wait for the old ring": (Situation(FRONT, S.CLOSED, S.CONNECTED, wish=Wish.RENEW), "", None),
    "again": (Situation(FRONT, S.CLOSED, S.CLOSED, wish=Wish.RENEW), "", S.INITIALISING),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step(case: str) -> None:
    now, actions, state = CASES[case]
    step = next_step(now)
    said = " ".join(action.value for action in step.actions if action is not Action.DISCONNECT)
    assert (said, step.state) == (actions, state)


@bounded
@given(st.sampled_from(Role), st.data())
def test_no_peer_and_no_toolstack_brings_an_impossible_order(role: Role, data: st.DataObject) -> None:
    """A peer that flaps through any states, a toolstack that writes any state into our node, actions that fail."""
    driver = Driver(Situation(role, data.draw(st.sampled_from(S)), S.INITIALISING, announced=False))
    for _ in range(data.draw(st.integers(1, 20))):
        if driver.forgotten:
            break
        change = data.draw(st.sampled_from(["peer", "peer", "peer", "own", "online", "overdue", "wish", "failed"]))
        if change == "peer":
            driver.now = replace(driver.now, peer=data.draw(st.sampled_from(S)))
        elif change == "own":
            driver.now = replace(driver.now, own=data.draw(st.sampled_from(S)))
        elif change == "wish":
            wishes = list(Wish) if role is FRONT else [Wish.KEEP, Wish.LEAVE]
            driver.now = replace(driver.now, wish=data.draw(st.sampled_from(wishes)))
        elif change == "failed":
            for action in FAILED.actions:
                driver.act(action)
            driver.now = replace(driver.now, own=S.CLOSING)
        elif change == "online":
            driver.now = replace(driver.now, online=not driver.now.online)
        else:
            driver.now = replace(driver.now, overdue=not driver.now.overdue)
        driver.settle()
        if driver.started:
            assert driver.now.attached


# --- both ends ------------------------------------------------------------------------------------------------------

@dataclass
class World:
    """The store, and both ends' books. A ring is a number; the flag is what each ring was negotiated with."""

    state: dict[Role, S] = field(default_factory=lambda: {BACK: S.INITIALISING, FRONT: S.INITIALISING})
    online: bool = True
    advert: bool = False
    offers: bool = True
    published: tuple[int, bool] = (0, False)
    ring: dict[Role, tuple[int, bool] | None] = field(default_factory=lambda: {BACK: None, FRONT: None})
    announced: bool = False
    wish: Wish = Wish.RENEW
    forgotten: set[Role] = field(default_factory=set)
    states_written: list[tuple[Role, S]] = field(default_factory=list)

    def look(self, role: Role) -> Situation:
        peer = FRONT if role is BACK else BACK
        return Situation(role, self.state[role], self.state[peer], self.ring[role] is not None, self.announced,
                         self.online, False, self.wish if role is FRONT else Wish.KEEP)

    def do(self, now: Situation) -> bool:
        """One step on what was seen, perhaps some time ago. False: at rest."""
        role, step, wish = now.role, next_step(now), self.wish
        if role in self.forgotten or self.state[role] is not now.own or (self.ring[role] is not None) != now.attached:
            return role not in self.forgotten
        for action in step.actions:
            self.act(role, action)
        if step.state is not None:
            self.state[role] = step.state
            self.states_written.append((role, step.state))
        return step.state is not None or self.wish is not wish

    def act(self, role: Role, action: Action) -> None:
        match action:
            case Action.DISCONNECT:
                self.ring[role] = None
            case Action.ADVERTISE:
                self.advert, self.announced = self.offers, True
            case Action.PUBLISH:
                self.published = (self.published[0] + 1, self.advert)
                self.ring[FRONT], self.wish = self.published, Wish.KEEP
            case Action.CONNECT | Action.ADOPT if role is BACK:
                assert self.ring[BACK] is None
                self.ring[BACK] = (self.published[0], self.published[1] and self.advert)
            case Action.CONNECT | Action.REREAD:
                held = self.ring[FRONT]
                assert held is not None
                if held[1] and not self.advert:
                    self.wish = Wish.RENEW
            case Action.FORGET:
                assert self.ring[role] is None
                self.forgotten.add(role)

    def settle(self) -> None:
        for _ in range(60):
            if not any([self.do(self.look(role)) for role in Role]):
                return
        raise AssertionError(f"never at rest: {self}")

    def restart_backend(self) -> None:
        self.ring[BACK], self.announced = None, False

    def downgrade_backend(self) -> None:
        """The next backend does not know the flag, and comes back through InitWait."""
        if self.state[BACK] is S.CONNECTED:
            self.restart_backend()
            self.offers = self.advert = False
            self.state[BACK] = S.INIT_WAIT

    def restart_frontend(self) -> None:
        self.ring[FRONT], self.wish = None, Wish.RENEW

    def connected(self) -> bool:
        return (set(self.state.values()) == {S.CONNECTED} and self.ring[BACK] is not None
                and self.ring[BACK] == self.ring[FRONT])


EVENTS: list[Callable[[World], None]] = [World.restart_backend, World.downgrade_backend, World.restart_frontend]


def test_both_ends_connect() -> None:
    world = World()
    world.settle()
    assert world.connected() and world.ring[BACK] == (1, True)


def test_a_restarted_backend_is_connected_again_and_wrote_no_state() -> None:
    world = World()
    world.settle()
    world.states_written.clear()
    world.restart_backend()
    world.settle()
    assert world.connected() and world.states_written == []


def test_a_backend_without_the_flag_gets_a_new_ring_without_it() -> None:
    world = World()
    world.settle()
    world.downgrade_backend()
    world.settle()
    assert world.connected() and world.ring[BACK] == (2, False)


def test_a_frontend_that_died_comes_back_with_a_new_ring() -> None:
    world = World()
    world.settle()
    world.restart_frontend()
    world.settle()
    assert world.connected() and world.ring[BACK] == (2, True)


@pytest.mark.parametrize("by", ["toolstack", "frontend"])
def test_both_ends_close(by: str) -> None:
    world = World()
    world.settle()
    world.online = False
    if by == "toolstack":
        world.state[BACK] = S.CLOSING
    else:
        world.wish = Wish.LEAVE
    world.settle()
    assert set(world.state.values()) == {S.CLOSED} and world.forgotten == {BACK, FRONT}


@pytest.mark.parametrize("gone", Role)
def test_an_end_that_vanishes_ends_the_other(gone: Role) -> None:
    world = World()
    world.settle()
    world.state[gone], world.ring[gone] = S.UNKNOWN, None
    world.settle()
    assert world.forgotten == {BACK, FRONT} and world.ring == {BACK: None, FRONT: None}


@bounded
@given(st.lists(st.sampled_from(["look back", "look front", "do back", "do front", *EVENTS]), max_size=40))
def test_both_ends_connect_after_any_order_of_looks_steps_and_restarts(script: list[object]) -> None:
    """A step may act on what its end saw a while ago."""
    world = World()
    seen: dict[Role, Situation] = {}
    for event in script:
        if callable(event):
            event(world)
            continue
        verb, name = str(event).split()
        role = BACK if name == "back" else FRONT
        if verb == "look":
            seen[role] = world.look(role)
        elif role in seen:
            world.do(seen[role])
    world.settle()
    assert world.connected()


# --- a state from the store -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("state", S)
def test_a_state_is_read(state: S) -> None:
    assert parse_state(str(int(state)).encode()) is state


def test_no_node_is_unknown() -> None:
    assert parse_state(None) is S.UNKNOWN


@pytest.mark.parametrize("value", [b"", b"9", b"-1", b"04", b" 4", b"4\n", b"4\0", b"0x4", b"\xff" * 5000])
def test_a_bad_state_is_refused_by_name(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="^/some/path is b.{0,200}want a xenbus state"):
        parse_state(value, "/some/path")
