"""A backend's files read at one moment, and what came between two: nothing invented, nobody disturbed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.backend_files import BackendFiles, latency_of
from xenpv.errors import UsageError
from xenpv.latency import Histogram
from xenpv_tools.monitor.interval import Interval, intervals
from xenpv_tools.monitor.source import read_all

VBD = (1, 51712)


@pytest.fixture
def files(tmp_path: Path) -> BackendFiles:
    return BackendFiles(tmp_path)


def after(files: BackendFiles, seconds: float = 2.0, **counters: int) -> Interval:
    """What is shown when the counters become `counters`."""
    before = read_all(files.run)
    files.put(**counters)
    return intervals(before, read_all(files.run), seconds)[VBD]


def test_no_backend_has_run_yet(tmp_path: Path) -> None:
    reading = read_all(tmp_path)
    assert (reading.pid, reading.vbds) == (None, {})


def test_counters_of_all_queues(files: BackendFiles) -> None:
    files.put(queue=0, requests_read=3, in_flight=1)
    files.put(queue=1, requests_read=4, in_flight=2)
    reading = read_all(files.run)
    assert reading.pid == os.getpid()
    assert (reading.vbds[VBD].sum("requests.read"), reading.vbds[VBD].sum("in_flight")) == (7, 3)


def test_rates(files: BackendFiles) -> None:
    files.put(requests_read=10, bytes_read=1000, notifications=1)
    found = after(files, requests_read=30, bytes_read=9000, notifications=1, notifications_saved=4, in_flight=5)
    assert (found.rate("requests.read"), found.rate("bytes_read"), found.rate("notifications")) == (10, 4000, 0)
    assert (found.rate("notifications_saved"), found.in_flight, found.state) == (2, 5, "")


def test_times_are_those_of_the_interval(files: BackendFiles) -> None:
    files.put(latency=latency_of(9000, service=50), requests_read=1)
    found = after(files, latency=latency_of(9000, 100, 100, service=50), requests_read=3)  # type: ignore[arg-type]
    assert found.quantile_ns("total", 0.99) == (99_000, 101_000)
    assert found.latency is not None and found.latency.count == 2


def test_depth_is_the_time_of_all_requests_over_the_interval(files: BackendFiles) -> None:
    files.put(latency=latency_of())
    found = after(files, latency=latency_of(*[1_000_000] * 8, service=5), in_flight=1)  # type: ignore[arg-type]
    assert found.depth == 4


def test_depth_without_stamps_is_that_of_the_backend(files: BackendFiles) -> None:
    bare = latency_of(10, 10, service=500_000)
    bare.operations["read"].stages["total"] = Histogram()
    files.put(latency=latency_of())
    assert after(files, latency=bare).depth == 0.5  # type: ignore[arg-type]


def test_depth_without_times_is_that_of_the_moment(files: BackendFiles) -> None:
    files.put()
    assert after(files, in_flight=7).depth == 7


def test_the_first_look_is_no_difference(files: BackendFiles) -> None:
    files.put(requests_read=1000)
    found = intervals(read_all(files.run.parent / "nowhere"), read_all(files.run), 1.0)[VBD]
    assert (found.state, found.rate("requests.read")) == ("new", None)


def test_a_counter_that_went_back_is_another_ring(files: BackendFiles) -> None:
    files.put(requests_read=1000)
    assert after(files, requests_read=10).state == "new ring"


def test_in_flight_may_go_back(files: BackendFiles) -> None:
    files.put(in_flight=32)
    assert after(files, in_flight=1).state == ""


def test_another_number_of_queues_is_another_connection(files: BackendFiles) -> None:
    files.put(queue=0)
    files.put(queue=1)
    before = read_all(files.run)
    files.page(1, 51712, 1).unlink()
    assert intervals(before, read_all(files.run), 1.0)[VBD].state == "new ring"


def test_another_clock_has_no_difference(files: BackendFiles) -> None:
    files.put(latency=latency_of(1))
    found = after(files, latency=latency_of(1, unit="tick", resolution_ns=4_000_000))  # type: ignore[arg-type]
    assert found.latency is None and found.state == ""


@pytest.mark.parametrize("pid", [None, "nonsense", str(2 ** 22 - 1)])
def test_a_backend_that_has_gone_is_not_idle(files: BackendFiles, pid: str | None) -> None:
    files.put(requests_read=10)
    files.end()
    if pid is not None:
        (files.directory / "lock").write_text(pid)
    found = after(files, requests_read=10)
    assert (found.state, found.rate("requests.read")) == ("no backend", None)


def test_a_page_that_is_being_made_is_not_there_yet(files: BackendFiles) -> None:
    files.page(1, 51712).write_bytes(bytes(4096))
    files.page(1, 51728).write_bytes(b"")
    assert read_all(files.run).vbds == {}


def test_one_bad_page_costs_its_own_vbd(files: BackendFiles) -> None:
    files.page(2, 51712).write_bytes(b"\x01" * 4096)
    files.put(requests_read=1)
    found = intervals(read_all(files.run), read_all(files.run), 1.0)
    assert (found[2, 51712].state, found[VBD].state) == ("not a statistics page of this version: use the xenpv that the "
                                                         "backend runs", "")


def test_a_link_is_not_followed(files: BackendFiles, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"\x01" * 4096)
    files.page(1, 51712).symlink_to(tmp_path / "elsewhere")
    assert "symbolic" in read_all(files.run).vbds[VBD].fault


def test_a_directory_that_others_may_write_is_refused(files: BackendFiles) -> None:
    files.directory.chmod(0o777)
    with pytest.raises(UsageError, match="not ours alone"):
        read_all(files.run)


def test_one_vbd_alone(files: BackendFiles) -> None:
    files.put(requests_read=5)
    files.put(domid=2)
    assert [*read_all(files.run, VBD).vbds] == [VBD]
    assert not read_all(files.run, (9, 9)).vbds


def test_json_has_every_figure(files: BackendFiles) -> None:
    files.put(latency=latency_of(1))
    said = after(files, latency=latency_of(1, 1, 50), requests_write=8).to_json()  # type: ignore[arg-type]
    assert (said["vdev"], said["writes_per_second"], said["zero_share"]) == ("xvda", 4, 0)
    assert said["total_p99_ns"] == (49000, 51000)
