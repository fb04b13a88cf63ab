"""One page in memory: what a writer writes and a reader believes; and the ticker, a turn at a time."""

from __future__ import annotations

import random
import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenpv.errors import ClosedError, HypervisorError, LocalProtocolError, TimeMalformedError, TimeTornError
from xenpv.timepage.page import ALIVE, CHEAP_NS, Cost, Facts, PageView, PageWriter, Ticker, own_clock_is_cheap
from xenpv.wire import timepage as wire
from xenpv.wire.timepage import HISTORY, MAGIC, SIZE, SIZE_MIN, Kind

NSEC = 4_000_000
FACTS = Facts(NSEC, 250, Kind.JIFFIES, uuid.UUID(int=77), 5, 500_000_000)
AT = wire.layout()
U64 = st.integers(0, (1 << 64) - 1)

bounded = settings(max_examples=50, derandomize=True, deadline=None)


def page() -> tuple[memoryview, PageWriter]:
    memory = memoryview(bytearray(4096))
    return memory, PageWriter(memory, FACTS)


def put(memory: memoryview, name: str, form: str, value: int) -> None:
    struct.pack_into(f"<{form}", memory, AT[f"time.{name}"], value)


def test_the_magic_number_is_letters() -> None:
    assert MAGIC.to_bytes(4, "little") == b"xtim"


def test_a_page_is_valid_before_its_first_tick() -> None:
    memory, _ = page()
    assert PageView(memory).read().facts == FACTS


@pytest.mark.parametrize(("measured", "cheap"), [
    ([20 * CHEAP_NS, CHEAP_NS, 30, 30, 20 * CHEAP_NS], True), ([CHEAP_NS + 1] * 5, False)])
def test_a_clock_that_was_cheap_once_is_cheap(monkeypatch: pytest.MonkeyPatch, measured: list[int], cheap: bool) -> None:
    costs = iter(measured)
    monkeypatch.setattr(PageView, "measure", lambda view, rounds: Cost(0, next(costs), 0))
    assert own_clock_is_cheap.__wrapped__() is cheap


@bounded
@given(U64, U64, U64, U64)
def test_what_is_written_is_read(tick: int, ns: int, disruptions: int, missed: int) -> None:
    memory, writer = page()
    writer.write(tick, ns, disruptions=disruptions, missed=missed)
    copy = PageView(memory).read()
    assert (copy.tick, copy.ns, copy.disruptions, copy.missed) == (tick, ns, disruptions, missed)
    assert copy.history[tick % HISTORY] == (tick, ns)


@bounded
@given(U64, U64)
def test_construct_reads_what_the_core_writes(tick: int, ns: int) -> None:
    memory, writer = page()
    writer.write(tick, ns)
    shown = wire.decode_page(bytes(memory))
    assert (shown["magic"], shown["size"], shown["tick"], shown["ns"]) == (MAGIC, SIZE, tick, ns)
    assert (shown["hz"], shown["tick_nsec"], shown["generation"]) == (250, NSEC, 5)
    assert shown["boot_id"] == FACTS.boot_id.bytes


def test_a_short_copy_is_not_decoded() -> None:
    with pytest.raises(LocalProtocolError):
        wire.decode_page(bytes(100))


def test_every_write_adds_two_to_the_sequence_word() -> None:
    memory, writer = page()
    for tick in range(3):
        writer.write(tick, 0)
    assert PageView(memory).read().sequence == 6


def test_the_sequence_word_wraps() -> None:
    memory, writer = page()
    put(memory, "sequence", "I", 0xFFFFFFFE)
    writer.write(9, 0)
    assert (PageView(memory).read().sequence, PageView(memory).tick()) == (0, 9)


def test_an_odd_word_is_torn() -> None:
    memory, writer = page()
    writer.write(9, 0)
    put(memory, "sequence", "I", 3)
    view = PageView(memory)
    assert view.tick() is None
    with pytest.raises(TimeTornError):
        view.read()


def test_a_write_heals_an_odd_word() -> None:
    memory, writer = page()
    put(memory, "sequence", "I", 3)
    writer.write(9, 0)
    assert PageView(memory).read().sequence == 4


def test_the_tick_alone() -> None:
    memory, writer = page()
    writer.write(1 << 40, 0)
    assert PageView(memory).tick() == 1 << 40


@pytest.mark.parametrize("still", ["retire", "pause"])
def test_a_page_that_stands_still_has_no_tick(still: str) -> None:
    memory, writer = page()
    writer.write(9, 0)
    writer.pause(True) if still == "pause" else writer.retire()
    copy = PageView(memory).read()
    assert PageView(memory).tick() is None
    assert (copy.alive, copy.paused) == (still != "retire", still == "pause")


def test_the_byte_that_the_kernel_clears() -> None:
    memory, _ = page()
    assert memory[ALIVE] == 1
    memory[ALIVE] = 0
    assert not PageView(memory).read().alive


@pytest.mark.parametrize(("name", "form", "value", "word"), [
    ("magic", "I", 0, "magic"),
    ("major", "H", 2, "version 2.0"),
    ("major", "H", 0, "version 0.0"),
    ("size", "I", SIZE_MIN - 8, "size 96"),
    ("size", "I", 4104, "size 4104"),
    ("size", "I", 0, "size 0"),
    ("size", "I", 0xFFFFFFFF, "contradicts itself"),
    ("tick_nsec", "I", 0, "tick of 0 ns"),
    ("tick_nsec", "I", 4_000_000_000, "tick of 4000000000 ns"),
    ("hz", "I", 0, "HZ 0"),
    ("history_slots", "H", 65, "contradicts itself"),
])
def test_malformed(name: str, form: str, value: int, word: str) -> None:
    memory, _ = page()
    put(memory, name, form, value)
    with pytest.raises(TimeMalformedError, match=word):
        PageView(memory).read()


def test_memory_without_a_page_is_malformed() -> None:
    with pytest.raises(TimeMalformedError):
        PageView(memoryview(bytearray(4096))).read()


@bounded
@given(st.integers(0, 1000))
def test_no_bytes_do_harm(seed: int) -> None:
    memory = bytearray(random.Random(seed).randbytes(4096))
    memory[:4] = MAGIC.to_bytes(4, "little")
    try:
        copy = PageView(memory).read()
    except (TimeMalformedError, TimeTornError):
        return
    assert copy.major == 1 and SIZE_MIN <= copy.size <= 4096


def test_a_later_minor_version_with_more_fields_is_read() -> None:
    memory, writer = page()
    writer.write(9, 8)
    put(memory, "minor", "H", 7)
    put(memory, "size", "I", 2048)
    copy = PageView(memory).read()
    assert (copy.tick, copy.ns, copy.size, copy.minor) == (9, 8, 2048, 7)


def test_a_field_beyond_the_size_is_not_there() -> None:
    memory, writer = page()
    writer.write(9, 8)
    put(memory, "size", "I", SIZE_MIN)
    copy = PageView(memory).read()
    assert (copy.tick, copy.history) == (9, ())


def test_closed_ones_say_so() -> None:
    memory, writer = page()
    view = PageView(memory)
    view.close()
    view.close()
    writer.close()
    with pytest.raises(ClosedError):
        view.read()
    with pytest.raises(ClosedError):
        writer.write(1, 1)


def test_the_cost_of_a_read_is_measured() -> None:
    memory, writer = page()
    writer.write(9, 0)
    cost = PageView(memory).measure(100)
    assert cost.tick > 0 and cost.monotonic > 0 and cost.coarse > 0


# ---- the ticker

BASE, PHASE = (1 << 32) - 3, 1_000_000_000


@pytest.fixture
def ticker() -> Ticker:
    made = Ticker(NSEC)
    made.calibrate(BASE, PHASE)
    return made


@pytest.mark.parametrize(("ns", "ticks"), [(0, 0), (NSEC, 1), (NSEC + NSEC // 3, 1), (10 * NSEC - 1, 10), (-NSEC, -1),
                                           (-NSEC // 3, 0), (-3 * NSEC + 5, -3)])
def test_the_tick_of_a_moment_is_the_nearest(ticker: Ticker, ns: int, ticks: int) -> None:
    assert ticker.tick(PHASE + ns) == BASE + ticks


def test_every_tick_is_written(ticker: Ticker) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    for step in range(1, 6):
        ticker.step(PHASE + step * NSEC)
    copy = PageView(memory).read()
    assert (copy.tick, copy.ns, copy.missed) == (BASE + 5, PHASE + 5 * NSEC, 0)
    assert {tick for tick, _ in copy.history if tick} == {BASE + step for step in range(6)}


def test_a_turn_within_a_tick_writes_nothing(ticker: Ticker) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    before = bytes(memory)
    ticker.step(PHASE)
    assert bytes(memory) == before


def test_missed_ticks_are_counted(ticker: Ticker) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    ticker.step(PHASE + NSEC)
    ticker.step(PHASE + 5 * NSEC)
    ticker.step(PHASE + 7 * NSEC)
    assert PageView(memory).read().missed == 3 + 1
    assert ticker.stats()["missed"] == 4


def test_ticks_of_a_pause_are_not_missed(ticker: Ticker) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    ticker.remove(writer)
    ticker.step(PHASE + 100 * NSEC)
    assert PageView(memory).read().tick == BASE
    ticker.add(writer, PHASE + 200 * NSEC)
    copy = PageView(memory).read()
    assert (copy.tick, copy.missed) == (BASE + 200, 0)


@pytest.mark.parametrize("off", [-2, -1, 0, 1, 2])
def test_a_calibration_that_is_near_disrupts_nothing(ticker: Ticker, off: int) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    assert not ticker.calibrate(BASE + 10 + off, PHASE + 10 * NSEC)
    ticker.step(PHASE + 10 * NSEC)
    copy = PageView(memory).read()
    assert (copy.tick, copy.disruptions) == (BASE + 10 + off, 0)


@pytest.mark.parametrize("off", [-1000, -3, 3, 1000])
def test_a_calibration_that_is_far_disrupts(ticker: Ticker, off: int) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    ticker.step(PHASE + 10 * NSEC)
    assert ticker.calibrate(BASE + 10 + off, PHASE + 10 * NSEC)
    assert PageView(memory).read().disruptions == 1


def test_a_page_never_goes_back(ticker: Ticker) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    ticker.step(PHASE + 10 * NSEC)
    ticker.calibrate(BASE + 5, PHASE + 10 * NSEC)
    seen = []
    for step in range(10, 18):
        ticker.step(PHASE + step * NSEC)
        seen.append(PageView(memory).read().tick - BASE)
    assert seen == [10, 10, 10, 10, 10, 10, 11, 12]


def test_what_is_declared_disrupted(ticker: Ticker) -> None:
    memory, writer = page()
    ticker.add(writer, PHASE)
    ticker.disrupt()
    copy = PageView(memory).read()
    assert (copy.disruptions, copy.tick) == (1, BASE)


def test_many_pages_are_of_one_tick(ticker: Ticker) -> None:
    pages = [page() for _ in range(5)]
    for _, writer in pages:
        ticker.add(writer, PHASE)
    ticker.step(PHASE + NSEC)
    assert {PageView(memory).read().tick for memory, _ in pages} == {BASE + 1}
    assert (ticker.stats()["pages"], ticker.stats()["ticks"]) == (5, 1)


def test_a_tick_of_no_time_is_refused() -> None:
    with pytest.raises(HypervisorError):
        Ticker(0)


def test_a_started_ticker_without_pages_does_not_wake(ticker: Ticker) -> None:
    with ticker:
        ticker.start()
        assert ticker.stats()["wakes"] == 0
