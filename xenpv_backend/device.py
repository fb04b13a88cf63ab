"""One vbd's life in xenbus: what `xenpv.xenbus.next_step` says is done here.

RULES
- `turn` looks at the store anew; an event only says that it is time to look. So events may be merged, doubled or late.
- A state is written in one transaction with the keys that go with it, and only over the state that was decided upon.
- What the frontend wrote costs the frontend: its connection ends. What is wrong on our own side while a running vbd is
  being adopted costs time: it is tried again, and the state stays Connected, for 5 or 6 would end the guest's disk.
- A Device never waits. What has to be tried again has a `deadline`. Its storage is opened, asked and closed in other
  threads (opening.py), and the state stays until it is open. A connection that is to end drains first, and until it has
  nothing is done and nothing written: of a storage that hangs that may be for ever, and the other disks go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from xenpv.domain import Store, Transaction
from xenpv.errors import (DeviceError, HypervisorError, RemoteProtocolError, StorageError, StoreError,
                          XenpvError)
from xenpv.xenbus import (CLOSING_PATIENCE, FAILED, Action, BackendAdverts, BackendNode, DiskFacts, FrontendNode,
                          FrontendRings, Role, Situation, Step, VbdPlace, XenbusState, next_step, parse_state)

from .connection import Agreement, Attached, Connects
from .described import describe_storage, layers_of, summary
from .error_node import ErrorNode
from .keys import Keys, read
from .log import VbdLog
from .offers import adverts_of, check_whole, facts_of
from .opening import InThread, Opener, StillOpeningError, at_once
from .options import BackendOptions
from .queue import Queue
from .storage import Storage, StorageBusyError, StorageFacts, open_storage
from .storage.bundle import BUNDLE_KEY, bundle_id

STEPS_PER_TURN = 6
"""Steps before the other vbds have their turn."""
EVENTS_PENDING = 4
"""Events of one frontend that are kept; more of them are one."""
STORAGE_PATIENCE = 8.0
"""Seconds for a dead predecessor's last request to let go of the storage."""
OPEN_QUIETLY, OPEN_PATIENCE = 5.0, 60.0
"""Seconds for a storage to open, or to say itself that it cannot: until we say so, until it is given up."""
ADOPT_PATIENCE = 5.0
"""Seconds for a dead predecessor's ports to be free."""
SOON, LATER = 0.05, 1.0
"""Seconds until something is tried again: what ends by itself, and what somebody has to mend."""

_FLAG_ADVERT = "feature-xenpv-notify-flag"
_INDIRECT_ADVERT = "feature-max-indirect-segments"


class Device:
    """A vbd that this backend serves. For one thread.

    `in_thread` has a function run in another thread, and turn() called when it has ended. After `ended` is true there is
    nothing left to do but drop it.
    """

    def __init__(self, place: VbdPlace, store: Store, connector: Connects, options: Callable[[], BackendOptions], *,
                 clock: Callable[[], float] = time.monotonic, in_thread: InThread = at_once) -> None:
        self.place = place
        self.ended = False
        self.deadline: float | None = None
        """When turn() is due without an event, on `clock`."""
        self._store = store
        self._connector = connector
        self._options = options
        self._clock = clock
        self._log = VbdLog(place, clock=clock)
        self._storage: Storage | None = None
        self._opener = Opener(in_thread)
        self._resizing: Future[dict[str, Any]] | None = None
        self._connection: Attached | None = None
        self._announced = False
        self._closing_since: float | None = None
        self._trying_since: float | None = None
        self._complaint = ""
        self._refused = False
        self._draining_since: float | None = None
        self._reason = ErrorNode(store, place, self._log)
        self._fault: XenpvError | None = None
        self._state = XenbusState.UNKNOWN
        self._sector_size = 512
        self._watch = store.watch(f"{place.frontend}/state", limit=EVENTS_PENDING)

    # What the main loop needs.

    def fileno(self) -> int:
        """Readable when the frontend's state may have changed."""
        return self._watch.fileno()

    def take_events(self) -> None:
        """Forget what is pending. Raises StoreConnectionError when the store is gone for good."""
        for _ in range(2 * EVENTS_PENDING):
            if self._watch.wait(0) is None:
                return

    def halted(self, queue: Queue) -> bool:
        """The frontend broke the rules of `queue`, if that is one of ours: the next turn() ends the connection."""
        if not self.holds(queue):
            return False
        self._fault = RemoteProtocolError("the frontend broke the ring's rules")
        return True

    def holds(self, queue: Queue) -> bool:
        """Whether it is one of ours."""
        return self._connection is not None and self._connection.holds(queue)

    @property
    def opening(self) -> bool:
        """Whether its storage is being opened."""
        return self._opener.opening

    def turn(self) -> None:
        """Look, and do what follows. Raises StoreConnectionError when the store cannot be reached."""
        self.deadline = None
        if self.ended:
            return
        self._end_resize()
        for _ in range(STEPS_PER_TURN):
            now = self._look()
            step = FAILED if self._fault is not None else next_step(now)
            if not self._is_drained(now, step):
                return
            if self._fault is not None:
                fault, self._fault = self._fault, None
                if self._connection is not None:
                    self._fail(now, fault)
                continue
            if now.attached and self._connection is None:
                continue
            if self._is_refused(now) or not (step.actions or step.state) or not self._do(now, step):
                break
        else:
            self.deadline = self._clock()
        if not self.ended and self._closing_since is not None:
            overdue = self._closing_since + CLOSING_PATIENCE
            self.deadline = overdue if self.deadline is None else min(self.deadline, overdue)

    def detach(self) -> None:
        """Let go of everything and leave the store and the files as they are: a successor adopts the vbd."""
        if self.ended:
            return
        self.ended = True
        self._disconnect(keep=True)
        self._close_storage()
        self._close_watch()

    # Looking.

    def _look(self) -> Situation:
        own = self._own_state(self._store)
        if own is not XenbusState.CLOSING:
            self._closing_since = None
        elif self._closing_since is None:
            self._closing_since = self._clock()
        overdue = self._closing_since is not None and self._clock() >= self._closing_since + CLOSING_PATIENCE
        self._state = own
        return Situation(Role.BACKEND, own, self._peer_state(), attached=self._connection is not None,
                         announced=self._announced, online=read(self._store, f"{self.place.backend}/online") == b"1",
                         overdue=overdue)

    def _own_state(self, store: Transaction) -> XenbusState:
        path = f"{self.place.backend}/state"
        try:
            return parse_state(read(store, path), path)
        except RemoteProtocolError as error:
            self._log.guest(str(error), logging.ERROR)
            return XenbusState.RECONFIGURING  # a state that no vbd has: it is closed

    def _peer_state(self) -> XenbusState:
        path = f"{self.place.frontend}/state"
        try:
            return parse_state(read(self._store, path), path)
        except RemoteProtocolError as error:
            self._log.guest(str(error), logging.WARNING)
            return XenbusState.CLOSING  # whoever writes nonsense is done with

    def _is_refused(self, now: Situation) -> bool:
        """Whether we closed because of something that this frontend, which has not moved since, cannot mend."""
        self._refused = (self._refused and now.own in (XenbusState.CLOSING, XenbusState.CLOSED)
                         and now.peer is XenbusState.INITIALISING)
        return self._refused and now.own is XenbusState.CLOSED and now.online

    def _is_drained(self, now: Situation, step: Step) -> bool:
        """Whether the step may be taken: one that lets go of a connection only once what was taken is answered."""
        ends = not {Action.STOP, Action.DISCONNECT}.isdisjoint(step.actions)
        changed = self._draining_since is not None and now.own is XenbusState.CONNECTED
        if self._connection is None or not (ends or changed):
            return True
        if self._draining_since is None:
            self._draining_since = self._clock()
        if self._connection.drain():
            if not ends:
                self._disconnect(keep=True)  # somebody wants it connected after all: it is adopted
            return True
        self.deadline = self._draining_since + LATER
        if self._clock() >= self.deadline:
            self._try_again(LATER, f"{step.why}: waits for the storage, which has not answered what it has taken")
        return False

    # Doing.

    def _do(self, now: Situation, step: Step) -> bool:
        """Do the step; True: look again."""
        keys: dict[str, str] = {}
        try:
            for action in step.actions:
                keys |= self._act(action, now)
        except StoreError as error:
            self._disconnect(keep=Action.ADOPT in step.actions)
            self._try_again(LATER, f"{step.why}: {error}")
            return False
        except XenpvError as error:
            if self._may_wait(now, step, error):
                return False
            self._fail(now, error)
            return True
        if self.ended:
            return False
        self._trying_since, self._complaint = None, ""
        if not self._write(now.own, step.state, keys):
            return True
        if Action.ADVERTISE in step.actions:
            self._announced = True
        if step.state is XenbusState.CLOSED or now.own is XenbusState.CLOSED and step.state is None:
            self._close_storage()
            self._connector.forget(self.place)  # also what a predecessor left
        if step.state is XenbusState.CONNECTED:
            self._reason.unsay()
        if step.state is not None:
            self._log.guest(f"{step.why}: state {int(now.own)} to {int(step.state)}{self._summary(step)}")
        elif Action.ADOPT in step.actions:
            self._log.info(f"{step.why}: adopted{self._summary(step)}")
            self._say_size()
        return step.state is not None

    def _act(self, action: Action, now: Situation) -> Mapping[str, str]:
        """Do it. Returns the keys to write with the state that follows."""
        match action:
            case Action.ADVERTISE:
                return self._advertise(now)
            case Action.CONNECT:
                return self._connect()
            case Action.ADOPT:
                self._adopt()
            case Action.DISCONNECT:
                self._disconnect(keep=False)
            case Action.FORGET:
                self._forget()
        return {}

    def _write(self, expected: XenbusState, state: XenbusState | None, keys: Mapping[str, str]) -> bool:
        """Write `keys`, then `state`; False: our own state was not `expected` any more, and nothing was written."""
        if state is None and not keys:
            return True

        def write(transaction: Transaction) -> bool:
            if self._own_state(transaction) is not expected:
                return False
            indirect = f"{self.place.backend}/{_INDIRECT_ADVERT}"
            if _FLAG_ADVERT in keys and _INDIRECT_ADVERT not in keys and transaction.exists(indirect):
                transaction.remove(indirect)  # these are all our adverts: the kernel's own backend left it
            for name, value in keys.items():
                transaction.write(f"{self.place.backend}/{name}", value)
            if state is not None:
                transaction.write(f"{self.place.backend}/state", str(int(state)))
            return True

        return self._store.transact(write)

    def _fail(self, now: Situation, error: XenpvError) -> None:
        """An action failed for good: the connection ends, and the other end is told."""
        level = logging.WARNING if isinstance(error, RemoteProtocolError) else logging.ERROR
        self._log.guest(f"{error}; the connection ends", level)
        self._trying_since, self._complaint = None, ""
        self._disconnect(keep=False)
        self._refused = now.peer is XenbusState.INITIALISING
        if now.own is not XenbusState.CLOSED:
            self._write(now.own, FAILED.state, {})
        self._reason.say(str(error))

    def _may_wait(self, now: Situation, step: Step, error: XenpvError) -> bool:
        """Whether the step is tried again later: what stopped it ends by itself, or must not end a guest's disk."""
        if isinstance(error, RemoteProtocolError):
            return False
        adopting = Action.ADOPT in step.actions
        since = self._clock() if self._trying_since is None else self._trying_since
        waited = self._clock() - since
        if isinstance(error, StillOpeningError) and waited < OPEN_QUIETLY:
            self._trying_since, self.deadline = since, since + OPEN_QUIETLY
            return True
        if isinstance(error, StillOpeningError) and waited < OPEN_PATIENCE and not adopting:
            self._trying_since = since
            self._try_again(OPEN_PATIENCE - waited, str(error))
            self._reason.say(str(error))  # whoever attaches has less patience
            return True
        if isinstance(error, StorageBusyError) and waited < STORAGE_PATIENCE:
            pause = SOON
        elif adopting and isinstance(error, HypervisorError) and waited < ADOPT_PATIENCE:
            pause = SOON
        elif adopting and isinstance(error, StorageError):
            pause = LATER
        else:
            return False
        self._trying_since = since
        if pause == SOON:
            self.deadline = self._clock() + pause
        else:
            self._try_again(pause, f"cannot be adopted yet: {error}")
        return True

    def _try_again(self, pause: float, complaint: str) -> None:
        self.deadline = self._clock() + pause
        if complaint != self._complaint:
            self._log.error(complaint)
            self._complaint = complaint

    # The actions.

    def _open_storage(self) -> Storage:
        """The node's storage, opened unless it is. Raises RemoteProtocolError, StillOpeningError, StorageError."""
        place = self.place
        node = self._store.transact(lambda store: BackendNode.parse(Keys(store, place.backend), place.backend))
        node.check_place(place)
        peer = self._store.transact(lambda store: FrontendNode.parse(Keys(store, place.frontend), place.frontend))
        peer.check_place(place)
        self._node = node
        if self._storage is None:
            cache = self._options().cache
            self._storage = self._opener.open(node.params, lambda: open_storage(node.params, node.mode, cache=cache))
        return self._storage

    def _standing_adverts(self) -> BackendAdverts | None:
        """What a predecessor of ours has offered, None when nobody of ours was here."""
        keys = Keys(self._store, self.place.backend)
        return None if keys.get(_FLAG_ADVERT) is None else BackendAdverts.parse(keys, self.place.backend)

    def _advertise(self, now: Situation) -> Mapping[str, str]:
        storage = self._open_storage()
        waiting = (XenbusState.INIT_WAIT, XenbusState.INITIALISED)
        if now.own in waiting and not now.announced and self._standing_adverts() is not None:
            return {}
        bundle = bundle_id(storage)
        adverts = adverts_of(self._node, storage.facts, self._options(), self.place.backend_domid)
        return {**adverts.to_keys(), **({} if bundle is None else {BUNDLE_KEY: str(bundle)})}

    def _rings(self, adverts: BackendAdverts) -> FrontendRings:
        """What the frontend published. What the kernel's own backend may have offered it before us is accepted too."""
        options, where = self._options(), self.place.frontend
        return self._store.transact(lambda store: FrontendRings.parse(
            Keys(store, where), where, max_order=max(adverts.max_ring_page_order, options.max_ring_page_order),
            max_queues=max(adverts.max_queues, options.max_queues)))

    def _connect(self) -> Mapping[str, str]:
        storage = self._open_storage()
        standing = self._standing_adverts()
        adverts = standing or adverts_of(self._node, storage.facts, self._options(), self.place.backend_domid)
        facts = facts_of(self._node, storage.facts, self._options())
        self._sector_size = facts.sector_size
        self._connection = self._connector.connect(
            Agreement(self.place, self._rings(adverts), adverts, facts, storage))
        return facts.to_keys() if standing else {**adverts.to_keys(), **facts.to_keys()}

    def _adopt(self) -> None:
        storage = self._open_storage()
        adverts = self._standing_adverts()
        if adverts is None:
            raise StorageError("it is another backend's: left alone")
        facts = DiskFacts.parse(Keys(self._store, self.place.backend), self.place.backend)
        if facts.sector_size < storage.facts.sector_size or facts.size % facts.sector_size:
            raise StorageError(f"{storage.name} has sectors of {storage.facts.sector_size} bytes now, the disk "
                               f"{facts.sector_size}: put the image back where it was")
        self._sector_size = facts.sector_size
        facts = DiskFacts(storage.facts.sectors, facts.info, facts.sector_size, facts.physical_sector_size)
        self._connection = self._connector.connect(
            Agreement(self.place, self._rings(adverts), adverts, facts, storage, adopt=True))
        self._announced = True

    def _disconnect(self, *, keep: bool) -> None:
        connection, self._connection = self._connection, None
        self._draining_since = None
        if connection is not None:
            try:
                connection.close(keep=keep)
            except XenpvError as error:
                self._log.error(f"while disconnecting: {error}")

    def _forget(self) -> None:
        self.ended = True
        self._disconnect(keep=False)
        self._close_storage()
        self._close_watch()
        self._reason.unsay()
        self._connector.forget(self.place)
        self._log.info("has ended")

    def _close_storage(self) -> None:
        storage, self._storage = self._storage, None
        self._opener.close(storage)
        self._announced = False
        resizing, self._resizing = self._resizing, None
        if resizing is not None:
            resizing.set_exception(self._not_connected())

    def _close_watch(self) -> None:
        try:
            self._watch.close()
        except StoreError as error:
            self._log.error(f"while leaving: {error}")

    # Asked for from outside.

    def resize(self, size: int | None = None) -> Future[dict[str, Any]]:
        """Give the disk its storage's size, which becomes `size` bytes first unless that is None.

        The result is there after a turn(): ``bytes``. It, or this call, raises StorageError, StoreError; DeviceError when the
        disk is not connected, or is being resized already.
        """
        if self._connection is None or self._storage is None or self._draining_since is not None:
            raise self._not_connected()
        if self._resizing is not None:
            raise DeviceError(f"{self._name} is being resized already: wait until that has ended")
        if size is not None:
            check_whole(size, self._sector_size)
        self._opener.ask(self._storage, size)
        self._resizing = resizing = Future[dict[str, Any]]()
        self._end_resize()
        return resizing

    def _end_resize(self) -> None:
        """The storage may have answered."""
        resizing = self._resizing
        if resizing is None:
            return
        try:
            facts = self._opener.answer()
            if facts is None:
                return
            self._resized(facts)
        except XenpvError as error:
            self._resizing = None
            resizing.set_exception(error)
        else:
            self._resizing = None
            resizing.set_result({"bytes": facts.size})

    def _resized(self, facts: StorageFacts) -> None:
        check_whole(facts.size, self._sector_size)
        if self._connection is None or self._draining_since is not None:
            raise self._not_connected()
        self._connection.resize(facts.sectors)
        self._say_size()

    @property
    def _name(self) -> str:
        return f"domid {self.place.frontend_domid} devid {self.place.devid}"

    def _not_connected(self) -> DeviceError:
        return DeviceError(f"{self._name} is not connected: its size is read when it is")

    def _say_size(self) -> None:
        """Tell the frontend the size, unless it stands there: the same state written again makes it look."""
        if self._storage is None:
            return
        sectors = str(self._storage.facts.sectors)
        if read(self._store, f"{self.place.backend}/sectors") != sectors.encode():
            self._write(XenbusState.CONNECTED, XenbusState.CONNECTED, {"sectors": sectors})
            self._log.info(f"has {sectors} sectors now")

    def describe(self) -> dict[str, Any]:
        """For people and JSON: the state, the storage, what was negotiated, the counters."""
        about: dict[str, Any] = {"domid": self.place.frontend_domid, "devid": self.place.devid,
                                 "backend": self.place.backend, "state": int(self._state),
                                 "connected": self._connection is not None, "opening": self.opening,
                                 "resizing": self._resizing is not None}
        if self._storage is not None:
            about["storage"] = describe_storage(self._storage)
        if self._connection is not None:
            about |= self._connection.describe()
        return about

    def degraded(self) -> str | None:
        """What is wrong with a storage that works all the same, in words."""
        degraded = layers_of(self._storage).get("degraded")
        return str(degraded) if degraded else None

    def _summary(self, step: Step) -> str:
        if self._connection is None or self._storage is None or Action.DISCONNECT in step.actions[-1:]:
            return ""
        return f": {summary(self._storage, self._connection.describe())}"
