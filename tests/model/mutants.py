"""The algorithm with one fault each, a class a fault; mutant_table.py says which property must catch it."""

from .operations import Process, Steps, bind, clear, consume, fence, load, notify, release, store, unmask, wait
from .properties import MASK
from .ring_model import BACK, ENTRIES, REQUESTS, REQ_PROD, RSP_PROD, SLOTS, Ring


# publish

class NoFenceInPublish(Ring):
    """The peer's wish may be read while the index is still in the store buffer."""

    def publish(self) -> Steps[bool]:
        old = self.published
        self.published = self.produced
        yield release(self.own_prod, self.produced)
        wanted = yield from self.peer_wants_event(old)
        return wanted


class FenceBeforeIndex(Ring):
    """The fence stands, but on the wrong side of the index."""

    def publish(self) -> Steps[bool]:
        old = self.published
        self.published = self.produced
        yield fence()
        yield release(self.own_prod, self.produced)
        wanted = yield from self.peer_wants_event(old)
        return wanted


class WishReadBeforeIndex(Ring):
    """The test for a notification comes before the index is stored."""

    def publish(self) -> Steps[bool]:
        old = self.published
        self.published = self.produced
        wanted = yield from self.peer_wants_event(old)
        yield release(self.own_prod, self.produced)
        yield fence()
        return wanted


class NotifyBeforePublish(Ring):
    """The event is sent first; its receiver may look, find nothing and sleep before the index is there."""

    def publish_and_notify(self, peer: int) -> Steps[None]:
        old = self.published
        self.published = self.produced
        wanted = yield from self.peer_wants_event(old)
        if wanted:
            yield notify(peer)
        yield release(self.own_prod, self.produced)
        yield fence()


class IndexBeforeEntry(Ring):
    """The index is stored, then the entry."""

    def insert(self, value: int) -> Steps[None]:
        slot = SLOTS + self.produced % ENTRIES
        self.produced = self.produced + 1 & MASK
        yield release(self.own_prod, self.produced)
        yield store(slot, value)


class IndexNotReleased(Ring):
    """The order of the program is right, but the index may overtake the entry where stores are not ordered."""

    def publish(self) -> Steps[bool]:
        old = self.published
        self.published = self.produced
        yield store(self.own_prod, self.produced)
        yield fence()
        wanted = yield from self.peer_wants_event(old)
        return wanted


class SignedDifference(Ring):
    """Differences are not taken modulo 2^32 in the test for a notification."""

    def peer_wants_event(self, old: int) -> Steps[bool]:
        event = yield load(self.peer_event)
        return self.published - event < self.published - old


class TwoStateWord(Ring):
    """The word is 0 or 1: nobody can tell one sleep from the next, so every publish in a sleep notifies."""

    def peer_wants_event(self, old: int) -> Steps[bool]:
        word = yield load(self.peer_word)
        return not word & 1

    def run(self) -> Steps[None]:
        if not self.word & 1:
            self.word = 1
            yield store(self.own_word, 1)

    def ask_for_event(self) -> Steps[None]:
        if self.word & 1:
            self.word = 0
            yield store(self.own_word, 0)


class TwoStateWordRemembered(TwoStateWord):
    """The word is 0 or 1 and the producer does not notify twice for the same value."""

    def peer_wants_event(self, old: int) -> Steps[bool]:
        wanted = yield from Ring.peer_wants_event(self, old)
        return wanted


# arm

class NoFenceInArm(Ring):
    """The second look may come while the wish is still in the store buffer."""

    def arm(self) -> Steps[int]:
        yield from self.ask_for_event()
        count = yield from self.available()
        return count


class FenceBeforeWish(Ring):
    """The fence stands, but on the wrong side of the wish."""

    def arm(self) -> Steps[int]:
        yield fence()
        yield from self.ask_for_event()
        count = yield from self.available()
        return count


class NoSecondLook(Ring):
    """After the wish there is no look."""

    def arm(self) -> Steps[int]:
        yield from self.ask_for_event()
        yield fence()
        return 0


class LookBeforeWish(Ring):
    """The look comes first, the wish behind it."""

    def arm(self) -> Steps[int]:
        count = yield from self.available()
        yield from self.ask_for_event()
        yield fence()
        return count


class SleepsWithoutWish(Ring):
    """Sleeps RUNNING, or with an old event index."""

    def ask_for_event(self) -> Steps[None]:
        yield fence()


class EventAtCons(Ring):
    """The event index is `consumed`, which the producer has passed already, instead of consumed + 1."""

    def ask_for_event(self) -> Steps[None]:
        yield store(self.own_event, self.consumed)


# available and drain

class SignedAvailable(Ring):
    """Differences are not taken modulo 2^32 in available."""

    def available(self) -> Steps[int]:
        prod = yield load(self.peer_prod)
        return max(prod - self.consumed, 0)


class EntryReadBeforeIndex(Ring):
    """The slot is read, and only then the index that says whether it is filled."""

    def drain(self) -> Steps[None]:
        while True:
            value = yield load(SLOTS + self.consumed % ENTRIES)
            count = yield from self.available()
            if not count:
                return
            yield consume(REQUESTS, self.consumed, value, RSP_PROD)
            self.consumed = self.produced = self.published = self.consumed + 1 & MASK


class SlotGivenBackEarly(Ring):
    """The slot is given back, and only then read."""

    def drain(self) -> Steps[None]:
        count = yield from self.available()
        while count:
            index = self.consumed
            self.consumed = self.produced = self.published = index + 1 & MASK
            yield release(RSP_PROD, self.consumed)
            value = yield load(SLOTS + index % ENTRIES)
            yield consume(REQUESTS, index, value)
            count -= 1


# waking and sleeping

class WakesWithoutRun(Ring):
    """Only attaching makes the word odd; whoever wakes leaves it as it is, so the next sleep looks like the last."""

    def run(self) -> Steps[None]:
        if self.consumed == self.start:
            yield from Ring.run(self)


class PortNotWrittenBack(Ring):
    """The port stays masked after the first event."""

    def sleep(self) -> Steps[None]:
        yield wait(self.end)


class EventClearedBeforeWait(Ring):
    """Throws away what is pending between the second look and the wait (an eventfd that is read too late)."""

    def sleep(self) -> Steps[None]:
        yield clear(self.end)
        yield unmask(self.end)
        yield wait(self.end)


# attaching

class StaleRunning(Ring):
    """The successor believes that it is SLEEPING and leaves a stale RUNNING in the page; no event mends it."""

    binding_pends = False

    def consumer(self) -> Process:
        yield bind(BACK)
        yield from self.attach()
        self.word &= ~1
        while True:
            yield from self.drain()
            look = yield from self.arm()
            if not look:
                yield from self.sleep()
            yield from self.run()


class StaleRunningCounted(Ring):
    """The successor begins as SLEEPING and adds one for each change, whatever stood there: RUNNING may read as even."""

    awake = False

    def snapshot(self) -> tuple[int, ...]:
        return (*Ring.snapshot(self), int(self.awake))

    def run(self) -> Steps[None]:
        if not self.awake:
            self.awake = True
            self.word = self.word + 1 & MASK
            yield store(self.own_word, self.word)

    def ask_for_event(self) -> Steps[None]:
        if self.awake:
            self.awake = False
            self.word = self.word + 1 & MASK
            yield store(self.own_word, self.word)


class EpochRestarts(Ring):
    """The successor counts its word from zero, through values that the producer has notified for already."""

    def attach(self) -> Steps[None]:
        yield from Ring.attach(self)
        self.word = 0


class AttachSleepsFirst(Ring):
    """The successor waits for an event before its first look; here binding sets none pending."""

    binding_pends = False

    def consumer(self) -> Process:
        yield bind(BACK)
        yield from self.attach()
        while True:
            yield from self.sleep()
            look = 1
            while look:
                yield from self.run()
                yield from self.drain()
                look = yield from self.arm()


class AttachAtProducer(Ring):
    """The successor begins behind everything that was published, as if it had been consumed."""

    def attach(self) -> Steps[None]:
        yield from Ring.attach(self)
        self.consumed = self.produced = self.published = yield load(REQ_PROD)


class NoJournal(Ring):
    """The successor believes the slot, in which its predecessor may already have put the response."""

    def answer(self) -> Steps[None]:
        value = yield load(SLOTS + self.consumed % ENTRIES)
        yield consume(REQUESTS, self.consumed, value)
        self.consumed = self.consumed + 1 & MASK
        yield from self.insert(100 + value)


class NoNotifyAtAttach(Ring):
    """The successor stays silent; the frontend waits for a response whose notification died with the predecessor."""

    def notify_at_attach(self) -> Steps[None]:
        yield from ()


# What looks like a fault and is none.

class WrittenBackBeforeArm(Ring):
    """The port is written back before the second look: an event may come earlier, none is lost."""

    def arm(self) -> Steps[int]:
        yield unmask(self.end)
        count = yield from Ring.arm(self)
        return count

    def sleep(self) -> Steps[None]:
        yield wait(self.end)


class BindingDoesNotPend(Ring):
    """The algorithm looks when it attaches, so it does not need the event that binding sets pending."""

    binding_pends = False


class AttachWaitsForBinding(AttachSleepsFirst):
    """Waiting before the first look is saved by binding, which sets the port pending."""

    binding_pends = True
