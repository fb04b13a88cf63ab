"""The reference itself, on cases whose answer is plain from ring.h."""

from errno import EPROTO

import pytest

from .reference_ring import HEADER, MASK, ReferenceRing, entries_of, init


def page(req_prod: int, rsp_prod: int) -> bytearray:
    shared = bytearray(HEADER + 4 * 112)
    init(shared)
    shared[0:4] = req_prod.to_bytes(4, "little")
    shared[8:12] = rsp_prod.to_bytes(4, "little")
    return shared


@pytest.mark.parametrize("order, entries", list(enumerate((32, 64, 128, 256, 512))))
def test_entries_of_every_page_order(order: int, entries: int) -> None:
    assert entries_of(4096 << order, 112) == entries_of(4096 << order, 108) == entries


def test_a_fresh_page_asks_for_the_first_event() -> None:
    front = ReferenceRing(page(0, 0), 112, back=False, flag=False)
    assert front.attach() == 0
    assert [front.publish(1), front.publish(2)] == [1, 0]


def test_a_back_counts_across_the_wrap() -> None:
    back = ReferenceRing(page(1, MASK - 1), 112, back=True, flag=False)
    assert back.attach() == 0
    assert back.available() == 3


@pytest.mark.parametrize("ahead", (5, 1 << 31, MASK))
def test_an_impossible_request_index_is_refused(ahead: int) -> None:
    shared = page(7, 7)
    back = ReferenceRing(shared, 112, back=True, flag=False)
    assert back.attach() == 0
    shared[0:4] = (7 + ahead & MASK).to_bytes(4, "little")
    assert back.available() == -EPROTO


def test_more_responses_than_requests_are_refused() -> None:
    shared = page(9, 7)
    front = ReferenceRing(shared, 112, back=False, flag=False)
    assert front.attach() == 0
    shared[8:12] = (10).to_bytes(4, "little")
    assert front.available() == -EPROTO


def test_one_sleep_costs_one_notification() -> None:
    shared = page(0, 0)
    front, back = (ReferenceRing(shared, 112, back=end, flag=True) for end in (False, True))
    assert (front.attach(), back.attach(), back.arm()) == (0, 0, 0)
    assert [front.publish(1), front.publish(2)] == [1, 0]
    back.run()
    back.consumed = 2
    assert (front.publish(3), back.arm()) == (0, 1)
