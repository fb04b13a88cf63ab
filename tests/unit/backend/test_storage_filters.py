"""throttle, fault and log: each does what it says, with time and chance in the test's hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.storages import Held, ManualWorker, content, discard, do, flush, memory, read, write
from xenpv.wire.blkif import Op, Status
from xenpv_backend.storage import open_storage
from xenpv_backend.storage.base import StorageRequest, SubRequest
from xenpv_backend.storage.filters.fault import Fault, Plan
from xenpv_backend.storage.filters.log import Log
from xenpv_backend.storage.filters.throttle import Throttle, TokenBucket


def no_answer(request: StorageRequest) -> None:
    """For a test that looks at what is begun alone."""


# throttle

def begun_after(seconds: Sequence[float], requests: Sequence[SubRequest], **limits: int) -> list[int]:
    """How many of `requests` the storage was given at the start, and after each of `seconds`."""
    worker, below = ManualWorker(), Held(1 << 20)
    throttle = Throttle(below, worker=worker, **limits)
    throttle.submit(requests, no_answer)
    counts = [len(below.begun)]
    for pause in seconds:
        worker.pass_time(pause)
        counts.append(len(below.begun))
    throttle.close()
    return counts


def test_the_rate_of_requests_holds_over_time() -> None:
    assert begun_after([1.0, 1.0, 1.0], [read(8 * n) for n in range(100)], iops=20) == [2, 22, 42, 62]


def test_the_rate_of_bytes_holds_over_time() -> None:
    counts = begun_after([1.0, 1.0], [read(8 * n, 4096) for n in range(100)], bps=40960)
    assert counts == [1, 11, 21]


def test_a_request_larger_than_the_bucket_is_served_and_repaid() -> None:
    assert begun_after([9.8, 0.2], [read(0, 65536), read(0)], bps=6554) == [1, 1, 2]


def test_a_flush_costs_no_bytes() -> None:
    assert begun_after([], [flush() for _ in range(9)], bps=512) == [9]


def test_both_limits_hold() -> None:
    assert begun_after([1.0], [read(8 * n, 4096) for n in range(100)], iops=5, bps=1 << 30) == [1, 6]


def test_what_waits_begins_in_the_order_it_came() -> None:
    worker, below = ManualWorker(), Held()
    throttle = Throttle(below, iops=1, worker=worker)
    throttle.submit([read(1), read(2)], no_answer)
    throttle.submit([read(3)], no_answer)
    worker.pass_time(10.0)
    assert [request.sector for request in below.begun] == [1, 2, 3]


def test_an_idle_disk_does_not_save_more_than_its_burst() -> None:
    now = [0.0]
    bucket = TokenBucket(10.0, 5.0, lambda: now[0])
    now[0] = 1000.0
    taken = 0
    while not bucket.wait():
        bucket.take(1)
        taken += 1
    assert taken == 5


def test_a_clock_that_goes_back_gives_nothing() -> None:
    now = [100.0]
    bucket = TokenBucket(1.0, 1.0, lambda: now[0])
    bucket.take(2)
    now[0] = 50.0
    assert bucket.wait() == pytest.approx(1.0, abs=0.01)


def test_a_disk_that_is_let_go_does_not_wait() -> None:
    below = Held()
    throttle = Throttle(below, iops=1, worker=ManualWorker())
    throttle.submit([read(n) for n in range(5)], no_answer)
    throttle.drain()
    assert len(below.begun) == 5


# fault

def test_errors_are_the_same_for_the_same_seed() -> None:
    def story(seed: int) -> list[int]:
        return do(Fault(memory(), Plan(errors=0.3, seed=seed)), *[read(n) for n in range(64)])

    assert story(1) == story(1) != story(2)
    assert set(story(1)) == {Status.OKAY, Status.ERROR}


def test_only_the_operations_and_sectors_that_are_meant() -> None:
    fault = Fault(memory(), Plan(errors=1.0, ops=frozenset({Op.WRITE}), first=8, last=15))
    assert do(fault, read(8), write(0, bytes(512)), write(15, bytes(512)), write(16, bytes(512)),
              write(0, bytes(4608)), flush(), discard(8, 4096)) == [0, 0, -1, 0, -1, 0, 0]


def test_every_third() -> None:
    assert do(Fault(memory(), Plan(errors=1.0, every=3)), *[read(n) for n in range(7)]) == [0, 0, -1, 0, 0, -1, 0]


def test_only_while_the_file_is_there(tmp_path: Path) -> None:
    trigger = tmp_path / "now"
    fault = Fault(memory(), Plan(errors=1.0, trigger=str(trigger)))
    assert do(fault, read(0)) == [0]
    trigger.touch()
    assert do(fault, read(0)) == [-1]
    trigger.unlink()
    assert do(fault, read(0)) == [0]


@pytest.mark.parametrize(("lie", "status"), [(False, Status.ERROR), (True, Status.OKAY)])
def test_a_torn_write_leaves_its_first_sectors(lie: bool, status: Status) -> None:
    below = memory()
    fault = Fault(below, Plan(torn=1.0, lie=lie, seed=4))
    assert do(fault, write(0, b"x" * 8192)) == [status]
    found = content(below, 0, 8192)
    kept = found.count(b"x")
    assert found == b"x" * kept + bytes(8192 - kept) and kept % 512 == 0 and 0 < kept < 8192


def test_a_delayed_request_comes_after_its_time() -> None:
    worker, below = ManualWorker(), Held()
    fault = Fault(below, Plan(delays=1.0, delay=0.5), worker=worker)
    fault.submit([read(0)], no_answer)
    worker.pass_time(0.4)
    assert not below.begun
    worker.pass_time(0.2)
    assert len(below.begun) == 1
    assert fault.counts == {"errors": 0, "torn": 0, "delayed": 1}


def test_what_is_delayed_is_let_go_once() -> None:
    worker, below = ManualWorker(), Held()
    fault = Fault(below, Plan(delays=1.0, delay=0.5), worker=worker)
    fault.submit([read(0)], no_answer)
    fault.drain()
    worker.pass_time(1.0)
    assert len(below.begun) == 1


# log

def test_a_line_for_every_request(tmp_path: Path) -> None:
    now = iter([0.0, 1.0, 1.25, 2.0, 2.5, 3.0, 3.125])
    log = Log(memory(), str(tmp_path / "log"), clock=lambda: next(now))
    do(log, write(8, bytes(1024), flush_first=True))
    do(log, flush())
    do(log, discard(16, 512, secure=True))
    log.close()
    assert (tmp_path / "log").read_text().splitlines() == [
        "1.000000 write sector=8 bytes=1024 flush-first status=0 us=250000",
        "2.000000 flush sector=0 bytes=0 status=0 us=500000",
        "3.000000 discard sector=16 bytes=512 secure status=0 us=125000"]


def test_a_log_that_cannot_be_written_costs_no_request() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    with Log(memory(), "/dev/full") as log:
        assert do(log, read(0)) == [Status.OKAY]


# readonly

def test_readonly_leaves_the_image_to_the_core(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(65536))
    with open_storage(f"readonly:{image}", "w") as storage:
        assert storage.facts.readonly and storage.fileno() >= 0
        with pytest.raises(OSError):
            os.pwrite(storage.fileno(), b"x", 0)


def test_without_a_filter_the_image_is_the_cores(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(65536))
    with open_storage(str(image), "w") as storage:
        assert storage.fileno() >= 0 and not hasattr(storage, "submit")
