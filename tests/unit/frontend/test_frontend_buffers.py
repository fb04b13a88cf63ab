"""The pool of granted pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_domain import FakeGrants
from xenpv.errors import ClosedError, GrantError
from xenpv_frontend.buffers import Pool, find_run


@pytest.fixture
def grants() -> FakeGrants:
    return FakeGrants(limit=600)


@pytest.fixture
def pool(grants: FakeGrants) -> Iterator[Pool]:
    pool = Pool(grants, 0, 16)
    yield pool
    pool.close()


@given(st.integers(0, (1 << 40) - 1), st.integers(1, 40))
def test_find_run_finds_the_lowest(free: int, pages: int) -> None:
    text = format(free, "b")[::-1]
    assert find_run(free, pages) == text.find("1" * pages)


def test_runs_do_not_overlap(pool: Pool) -> None:
    taken: set[int] = set()
    while (run := pool.take(3)) is not None:
        pages = set(range(run.first, run.first + run.pages))
        assert not taken & pages
        taken |= pages
    assert taken == set(range(16))


def test_what_is_given_back_is_free_again(pool: Pool) -> None:
    run = pool.take(16)
    assert run is not None and pool.take(1) is None
    pool.give(run)
    assert pool.free == 16 and pool.take(16) is not None


def test_a_fragmented_pool_gives_a_shorter_run(pool: Pool) -> None:
    runs = [pool.take(4) for _ in range(4)]
    assert all(runs)
    for run in runs[::2]:
        assert run is not None
        pool.give(run)
    shorter = pool.take(8)
    assert shorter is not None and shorter.pages == 4


def test_what_is_held_leaves_the_reserve(pool: Pool) -> None:
    held = pool.hold(2, 100)
    assert pool.free >= pool.reserve and len(held) == 6


@given(st.sampled_from([1, 2, 4, 8]), st.lists(st.integers(0, 63)))
def test_the_pages_used_least_rest(pages: int, steps: list[int]) -> None:
    """Never more different pages than were in use at once: a backend that keeps as many grants meets each of them again."""
    pool, out, most = Pool(FakeGrants(limit=600), 0, 256), [], 0
    for step in steps:
        if step < len(out):
            pool.give(out.pop(step))
        elif (run := pool.take(pages)) is not None:
            out.append(run)
            most = max(most, len(out))
            assert run.first + run.pages <= most * pages
    pool.close()


def test_the_view_is_the_granted_page(pool: Pool, grants: FakeGrants) -> None:
    run = pool.take(2)
    assert run is not None
    run.view[4096:4100] = b"here"
    assert bytes(grants.page(pool.refs[run.first + 1])[:4]) == b"here"


def test_a_large_pool_is_several_shares(grants: FakeGrants) -> None:
    pool = Pool(grants, 0, 600)
    assert len(grants.shared) == 3 and len(set(pool.refs)) == 600
    pool.close()
    assert grants.pages == 0


def test_a_pool_that_cannot_be_had_leaves_nothing(grants: FakeGrants) -> None:
    with pytest.raises(GrantError):
        Pool(grants, 0, 601)
    assert grants.pages == 0


def test_close_ends_who_waits_for_a_page(grants: FakeGrants) -> None:
    pool = Pool(grants, 0, 8)
    assert pool.take(8) is not None
    ended = threading.Event()

    def wait() -> None:
        with pytest.raises(ClosedError):
            pool.take_waiting(1)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    pool.close()
    thread.join(10)
    assert ended.is_set()
