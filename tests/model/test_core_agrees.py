"""The C core's verbs and the reference give the same answers and leave the same page, on random walks and pages."""

from random import Random
from types import ModuleType
from typing import Any

import pytest

from .reference_ring import HEADER, MASK, ReferenceRing, init

core: ModuleType = pytest.importorskip("xenpv.core", reason="the core is not built", exc_type=ImportError)
ffi: Any = core.ffi
lib: Any = core.lib

ENTRY = 112
SIZE = HEADER + 4 * ENTRY
FIELDS = ("produced", "consumed", "word", "notifications", "saved")


class Pair:
    """One end twice: the core's ring on its page, the reference on a copy of it."""

    def __init__(self, page: Any, copy: bytearray, back: bool, flag: bool) -> None:
        self.core = ffi.new("struct xenpv_ring *")
        self.reference = ReferenceRing(copy, ENTRY, back, flag)
        self.page = page
        self.copy = copy
        self.attached = lib.xenpv_ring_attach(self.core, page, SIZE, ENTRY, back, flag)
        assert self.attached == self.reference.attach()

    def do(self, verb: str, *arguments: int) -> int:
        """The verb on both; the answer, when they agree in answer, state and page."""
        answer = getattr(lib, f"xenpv_ring_{verb}")(self.core, *arguments)
        expected = getattr(self.reference, verb)(*arguments)
        assert answer == expected, (verb, arguments)
        self.check()
        return 0 if answer is None else int(answer)

    def consume(self, count: int) -> None:
        """Entries were taken."""
        self.reference.consumed = self.core.consumed = self.reference.consumed + count & MASK

    def check(self) -> None:
        """State and page are equal."""
        fields = FIELDS if self.reference.flag else tuple(name for name in FIELDS if name != "word")
        for name in fields:
            assert getattr(self.core, name) == getattr(self.reference, name), name
        if self.reference.notified_any:
            assert (self.core.notified_any, self.core.notified_for) == (1, self.reference.notified_for)
        assert bytes(ffi.buffer(self.page, SIZE)) == bytes(self.copy)


def page_of(content: bytes) -> tuple[Any, bytearray]:
    """The content twice: in memory of the core's, 8-byte aligned, and in a bytearray."""
    words = ffi.new("uint64_t[]", (SIZE + 7) // 8)
    page = ffi.cast("uint8_t *", words)
    ffi.memmove(page, content, SIZE)
    return ffi.gc(page, lambda _: words), bytearray(content)


def header(random: Random, near: int, spread: int) -> bytes:
    """A page of random bytes whose six header words lie within `spread` of `near`."""
    content = bytearray(random.randbytes(SIZE))
    for offset in (0, 4, 8, 12, 32, 36):
        content[offset:offset + 4] = (near + random.randint(-spread, spread) & MASK).to_bytes(4, "little")
    return bytes(content)


def test_init_writes_the_same_page() -> None:
    page, copy = page_of(b"\xa5" * SIZE)
    lib.xenpv_ring_init(page)
    init(copy)
    assert bytes(ffi.buffer(page, SIZE)) == bytes(copy)


@pytest.mark.parametrize("size", (4096, 8192, 16384, 32768, 65536))
@pytest.mark.parametrize("entry", (108, 112))
def test_entries(size: int, entry: int) -> None:
    ring = ffi.new("struct xenpv_ring *")
    words = ffi.new("uint64_t[]", size // 8)
    assert lib.xenpv_ring_attach(ring, ffi.cast("void *", words), size, entry, 1, 0) == 0
    assert ring.entries == ReferenceRing(bytearray(size), entry, True, False).entries


@pytest.mark.parametrize("flag", (False, True), ids=("standard", "flag"))
@pytest.mark.parametrize("near", (0, 0xfffffffe, 0x7fffffff), ids=hex)
def test_walk_of_two_honest_ends(near: int, flag: bool) -> None:
    random = Random(f"{near} {flag}")
    for _ in range(60):
        start = near + random.randint(-3, 3) & MASK
        content = bytearray(header(random, start, 4))
        content[0:4] = content[8:12] = start.to_bytes(4, "little")
        page, copy = page_of(bytes(content))
        front, back = Pair(page, copy, False, flag), Pair(page, copy, True, flag)
        for _ in range(80):
            _honest_step(random, front, back)


def _honest_step(random: Random, front: Pair, back: Pair) -> None:
    end = random.choice((front, back))
    mine = end.reference
    verb = random.choice(("publish", "publish", "consume", "consume", "arm", "run", "attach"))
    if verb == "consume":
        waiting = end.do("available")
        assert waiting >= 0
        end.consume(random.randint(0, waiting))
    elif verb == "publish":
        _publish(random, end)
    elif verb == "attach":
        # Only a back is taken over. Its counters begin anew; what it took and did not answer is taken again.
        if mine.back and random.random() < 0.2:
            end.__init__(end.page, end.copy, True, mine.flag)  # type: ignore[misc]
    else:
        end.do(verb)


def _publish(random: Random, end: Pair) -> None:
    """Publish as much as this end may: a back no more than it has taken, a front no more than there is room for."""
    mine = end.reference
    free = mine.consumed - mine.produced + (0 if mine.back else mine.entries) & MASK
    if free:
        end.do("publish", mine.produced + random.randint(1, free) & MASK)


def test_random_pages_of_a_hostile_peer() -> None:
    random = Random(20)
    refused = served = 0
    for _ in range(10_000):
        near = random.choice((0, 0xfffffffe, 0x80000000, random.getrandbits(32)))
        back, flag = random.random() < 0.5, random.random() < 0.5
        content = bytearray(header(random, near, random.choice((2, 5, 40))))
        if random.random() < 0.8:  # as far apart as a ring allows, mostly
            content[0:4] = (int.from_bytes(content[8:12], "little") + random.randint(0, 4) & MASK).to_bytes(4, "little")
        end = Pair(*page_of(bytes(content)), back, flag)
        if end.attached:
            refused += 1
            continue
        if random.random() < 0.5:
            end.consume(max(0, end.do("available")))
        peer_prod = 0 if back else 8
        value = _jump(random, end.reference)
        ffi.memmove(end.page + peer_prod, value, 4)
        end.copy[peer_prod:peer_prod + 4] = value
        if random.random() < 0.5:
            _publish(random, end)
        answer = end.do(random.choice(("available", "arm")))
        refused += answer < 0
        served += answer > 0
    assert refused > 1_000 and served > 1_000


def _jump(random: Random, mine: ReferenceRing) -> bytes:
    """A producer index forward from where this end has consumed: near, far, or just outside. Back: the next test."""
    reach = random.choice((random.randint(0, 3), random.randint(0, 9), (1 << 31) - 1))
    return (mine.consumed + reach & MASK).to_bytes(4, "little")


@pytest.mark.parametrize("verb", ("available", "arm"))
@pytest.mark.parametrize("flag", (0, 1), ids=("standard", "flag"))
def test_a_request_index_that_goes_back_is_not_read_as_entries(flag: int, verb: str) -> None:
    page, _ = page_of(bytes(SIZE))
    ring = ffi.new("struct xenpv_ring *")
    assert lib.xenpv_ring_attach(ring, page, SIZE, ENTRY, 1, flag) == 0
    ffi.memmove(page, (3).to_bytes(4, "little"), 4)
    assert lib.xenpv_ring_available(ring) == 3
    ring.consumed = 3
    ffi.memmove(page, (2).to_bytes(4, "little"), 4)  # 3 taken, none answered, 1 entry free: 2 is behind what was taken
    answer = getattr(lib, f"xenpv_ring_{verb}")(ring)
    assert answer < 0 or answer <= ring.entries - 3
