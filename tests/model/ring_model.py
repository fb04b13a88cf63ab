"""The ring's algorithm, once more, over load, store, release and fence.

RULES (sources: xen/include/public/io/ring.h; the flag: docs on the notify-suppression flag)
1. Indices run freely and wrap at 2^32; every difference is taken modulo 2^32. Slot = index mod entries.
2. publish: entries first; the producer index by store-release; a full fence; only then read what the peer asked for.
   Standard mode: notify if the peer's event index lies in (old, new]. Flag mode: notify if the peer's word is even
   (SLEEPING) and is not the value already notified for.
3. arm: say that an event is wanted (standard: event = consumed + 1; flag: an odd word becomes even, plus one); a full
   fence; look again. What the look finds is served without sleep.
4. The word: even SLEEPING, odd RUNNING, every change adds one, only its owner writes it. Whoever wakes, for whatever
   reason, makes it odd before he looks. Attaching counts as an event: take the word as it stands, make it odd, drain,
   and only then think of sleep. It never starts again from zero.
5. A port is written back after the second look and before the wait.
6. A request is noted in the journal before its slot is used again; an attaching backend believes the journal, not the
   slot.
7. An attaching backend notifies the frontend once: its predecessor may have died between publishing and notifying.
"""

from .operations import Process, Steps, bind, choose, consume, fence, load, notify, release, room, store, unmask, wait
from .properties import MASK, value_of

__all__ = ["BACK", "BACK_WORD", "ENTRIES", "FRONT", "FRONT_WORD", "JOURNAL", "REQUESTS", "REQ_EVENT", "REQ_PROD",
           "RESPONSES", "RSP_EVENT", "RSP_PROD", "Ring", "SLOTS", "fresh_page"]

ENTRIES = 2
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT, BACK_WORD, FRONT_WORD = range(6)
SLOTS = 6
JOURNAL = SLOTS + ENTRIES
FRONT, BACK = 0, 1  # processes, and the ports they wait on
REQUESTS, RESPONSES = 0, 1


def fresh_page(start: int, word: int) -> tuple[int, ...]:
    """The page as the frontend grants it, indices and words started anywhere; behind it the backend's journal."""
    event = start + 1 & MASK
    return (start, event, start, event, word, word) + (0,) * (2 * ENTRIES)


class Ring:
    """One end of the ring: its private indices and words, the verbs, and the loops that use them."""

    binding_pends = True

    def __init__(self, end: int, flag: bool, start: int, word: int) -> None:
        self.end = end
        self.flag = flag
        self.start = start
        front = end == FRONT
        self.own_prod, self.peer_event = (REQ_PROD, REQ_EVENT) if front else (RSP_PROD, RSP_EVENT)
        self.peer_prod, self.own_event = (RSP_PROD, RSP_EVENT) if front else (REQ_PROD, REQ_EVENT)
        self.own_word, self.peer_word = (FRONT_WORD, BACK_WORD) if front else (BACK_WORD, FRONT_WORD)
        self.produced = self.published = self.consumed = start
        self.word = word
        self.notified_for = -1

    def snapshot(self) -> tuple[int, ...]:
        """What can change, for the scheduler to compare."""
        return (self.produced, self.published, self.consumed, self.word, self.notified_for)

    # The verbs.

    def attach(self) -> Steps[None]:
        """Take a ring over as it stands, as its backend."""
        self.produced = self.published = self.consumed = yield load(RSP_PROD)
        if self.flag:
            self.word = yield load(self.own_word)
        self.notified_for = -1

    def available(self) -> Steps[int]:
        """How many entries the peer has published and this end has not consumed."""
        prod = yield load(self.peer_prod)
        count = prod - self.consumed & MASK
        if self.end == BACK:
            count = min(count, ENTRIES - (self.consumed - self.produced & MASK))
        return count

    def insert(self, value: int) -> Steps[None]:
        """Fill the next slot. The peer does not see it before publish."""
        yield store(SLOTS + self.produced % ENTRIES, value)
        self.produced = self.produced + 1 & MASK

    def publish(self) -> Steps[bool]:
        """Make what was inserted visible; True: notify the peer."""
        old = self.published
        self.published = self.produced
        yield release(self.own_prod, self.produced)
        # The index must be seen before the peer's wish is read: he writes his wish and then reads the index.
        yield fence()
        wanted = yield from self.peer_wants_event(old)
        return wanted

    def peer_wants_event(self, old: int) -> Steps[bool]:
        """The test for a notification, after entries from `old` on were published."""
        if self.flag:
            word = yield load(self.peer_word)
            if word & 1 or word == self.notified_for:
                return False
            self.notified_for = word
            return True
        event = yield load(self.peer_event)
        return (self.published - event & MASK) < (self.published - old & MASK)

    def run(self) -> Steps[None]:
        """Promise to look again unprompted."""
        if self.flag and not self.word & 1:
            self.word = self.word + 1 & MASK
            yield store(self.own_word, self.word)

    def ask_for_event(self) -> Steps[None]:
        """The first half of arm."""
        if not self.flag:
            yield store(self.own_event, self.consumed + 1 & MASK)
        elif self.word & 1:
            self.word = self.word + 1 & MASK
            yield store(self.own_word, self.word)

    def arm(self) -> Steps[int]:
        """Ask for an event and look again: above 0, do not sleep."""
        yield from self.ask_for_event()
        # The wish must be seen before the look: the producer writes the index and then reads the wish.
        yield fence()
        count = yield from self.available()
        return count

    # The loops. The half: one direction, the other one replaced by `room` and the journal.

    def producer(self, messages: int) -> Process:
        """Publishes messages in batches of every possible size; goes on as soon as there is room."""
        sent = 0
        while sent < messages:
            yield room(RSP_PROD, self.produced, ENTRIES)
            yield from self.insert(value_of(REQUESTS, self.start, self.produced))
            sent += 1
            hold = 0
            if sent < messages and (self.produced - self.published & MASK) < ENTRIES:
                hold = yield choose(2)
            if not hold:
                yield from self.publish_and_notify(BACK)

    def consumer(self) -> Process:
        """Consumes for ever. Consuming a message gives its slot back in the same step; a successor goes on behind."""
        yield bind(BACK)
        yield from self.attach()
        while True:
            yield from self.run()
            yield from self.drain()
            look = yield from self.arm()
            if not look:
                yield from self.sleep()

    def drain(self) -> Steps[None]:
        """Consume until nothing remains."""
        count = yield from self.available()
        while count:
            value = yield load(SLOTS + self.consumed % ENTRIES)
            yield consume(REQUESTS, self.consumed, value, RSP_PROD)
            self.consumed = self.produced = self.published = self.consumed + 1 & MASK
            count -= 1
            if not count:
                count = yield from self.available()

    # The whole: both directions on one ring, responses in the slots of their requests.

    def front(self, messages: int) -> Process:
        """Submits requests while there is room, reaps responses, sleeps when it can do neither."""
        sent = reaped = 0
        yield from self.run()
        while reaped < messages:
            while sent < messages and (self.produced - self.consumed & MASK) < ENTRIES:
                yield from self.insert(value_of(REQUESTS, self.start, self.produced))
                sent += 1
                yield from self.publish_and_notify(BACK)
            count = yield from self.available()
            if not count:
                count = yield from self.arm()
                if not count:
                    yield from self.sleep()
                yield from self.run()
            while count:
                value = yield load(SLOTS + self.consumed % ENTRIES)
                yield consume(RESPONSES, self.consumed, value)
                self.consumed = self.consumed + 1 & MASK
                reaped += 1
                count -= 1

    def back(self) -> Process:
        """Takes requests and answers each in order, for ever."""
        yield bind(BACK)
        yield from self.attach()
        yield from self.notify_at_attach()
        while True:
            yield from self.run()
            count = yield from self.available()
            while count:
                yield from self.answer()
                count -= 1
                if not count:
                    yield from self.publish_and_notify(FRONT)
                    count = yield from self.available()
            count = yield from self.arm()
            if not count:
                yield from self.sleep()

    def answer(self) -> Steps[None]:
        """Take one request, note it in the journal, and put its response into its slot."""
        journal = JOURNAL + self.consumed % ENTRIES
        value = yield load(journal)
        if value != value_of(REQUESTS, self.start, self.consumed):
            value = yield load(SLOTS + self.consumed % ENTRIES)
        yield consume(REQUESTS, self.consumed, value, journal)
        self.consumed = self.consumed + 1 & MASK
        yield from self.insert(value_of(RESPONSES, self.start, self.produced))

    # What both use.

    def publish_and_notify(self, peer: int) -> Steps[None]:
        """Publish, and notify if told to."""
        wanted = yield from self.publish()
        if wanted:
            yield notify(peer)

    def notify_at_attach(self) -> Steps[None]:
        """Rule 7."""
        yield notify(FRONT)

    def sleep(self) -> Steps[None]:
        """Rule 5."""
        yield unmask(self.end)
        yield wait(self.end)
