"""A recording: what is written is what is read, its size is bounded, and what is no recording is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.backend_files import latency_of
from xenpv.errors import UsageError
from xenpv.latency import DiskLatency, Histogram
from xenpv_tools.monitor.interval import Interval
from xenpv_tools.monitor.recording import COUNTERS, Header, Period, Recorder, Recording, merged, read_recording

HEADER = Header(1, 51712, "guest", 1_700_000_000.0, 1.0, "backend", "us", 1000)
COUNTS = dict.fromkeys(COUNTERS, 3)
LARGE = 1 << 20


def period(number: int, *times: int, gap: str = "") -> Period:
    if gap:
        return Period(float(number), 1.0, {}, gap=gap)
    return Period(float(number), 1.0, COUNTS, 2, latency_of(*times))


def write(path: Path, *periods: Period, size_max: int = LARGE) -> Recording:
    with Recorder(path, HEADER, size_max=size_max) as recorder:
        for each in periods:
            recorder.add(each)
    return read_recording(path)


def totals(recording: Recording) -> list[int]:
    return [each.latency.stage("total").total for each in recording.periods if each.latency]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = period(0, 5, 900, 70_000, -3, 1 << 30), period(1, gap="no backend"), period(2)
    assert written[0].latency
    written[0].latency.operations["write"].unknown = 4
    found = write(tmp_path / "r", *written)
    assert (found.header, found.cut) == (HEADER, False)
    assert found.periods[1:] == written[1:]
    first = found.periods[0]
    assert first.latency and first.latency.to_json() == written[0].latency.to_json()
    assert (first.counts, first.in_flight) == (COUNTS, 2)


def counted(histogram: Histogram) -> tuple[object, ...]:
    return histogram.total, histogram.underflow, histogram.overflow, [*histogram.buckets()]


@given(st.lists(st.integers(-5, 1 << 28), max_size=50))
def test_every_histogram_survives(tmp_path_factory: pytest.TempPathFactory, times: list[int]) -> None:
    path = tmp_path_factory.mktemp("any") / "r"
    found, = write(path, period(0, *times)).periods
    assert found.latency
    for stage, histogram in latency_of(*times).operations["read"].stages.items():
        assert counted(found.latency.operations["read"].stages[stage]) == counted(histogram)


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("mine")
    with pytest.raises(UsageError, match="-f overwrites"):
        Recorder(tmp_path / "r", HEADER, size_max=LARGE)
    Recorder(tmp_path / "r", HEADER, size_max=LARGE, overwrite=True).close()
    assert read_recording(tmp_path / "r").periods == ()


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no file"):
        Recorder(Path("/dev/null"), HEADER, size_max=LARGE, overwrite=True)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("r")
    with Recorder(tmp_path / "link", HEADER, size_max=2000) as recorder:
        for number in range(30):
            recorder.add(period(number, 5))
    assert (tmp_path / "link").is_symlink() and read_recording(tmp_path / "r").header.interval > 1


def test_a_full_file_has_longer_intervals_and_the_same_sums(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with Recorder(path, HEADER, size_max=20_000) as recorder:
        for number in range(500):
            recorder.add(period(number, 10 * number))
            assert path.stat().st_size <= 20_000
    found = read_recording(path)
    assert recorder.interval > 1 and found.header.interval == recorder.interval
    assert sum(totals(found)) == sum(10 * number for number in range(500))
    assert found.periods[-1].start + found.periods[-1].seconds == 500
    assert [*tmp_path.iterdir()] == [path]


def test_gaps_by_turns_are_bounded_too(tmp_path: Path) -> None:
    path = tmp_path / "r"
    with Recorder(path, HEADER, size_max=8_000) as recorder:
        for number in range(300):
            recorder.add(period(number, 5, gap="no backend" if number % 2 else ""))
            assert path.stat().st_size <= 8_000
    assert read_recording(path).periods[-1].start == 299


def test_neighbours_become_one_and_gaps_stay(tmp_path: Path) -> None:
    found = list(merged([period(0, 1), period(1, 2), period(2, gap="x"), period(3, gap="x"), period(4, 3)], 2))
    assert [(each.start, each.seconds, each.gap) for each in found] == [(0, 2, ""), (2, 2, "x"), (4, 1, "")]
    assert found[0].counts == dict.fromkeys(COUNTERS, 6) and found[0].latency
    assert found[0].latency.stage("total").total == 3


def test_a_last_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r"
    write(path, period(0, 1), period(1, 2))
    path.write_bytes(path.read_bytes()[:-20])
    found = read_recording(path)
    assert found.cut and [each.start for each in found.periods] == [0]


def interval(state: str = "", latency: DiskLatency | None = None) -> Interval:
    return Interval(1, 51712, 1.0, dict.fromkeys(COUNTERS, 1), 5, latency, state)


@pytest.mark.parametrize(("seen", "gap"), [
    (None, "not connected"), (interval("new"), "new"), (interval(), "not measured"),
    (interval(latency=latency_of(1, unit="tick", resolution_ns=4_000_000)), "another clock"),
    (interval(latency=latency_of(1)), "")])
def test_what_cannot_be_known_is_a_gap_with_a_reason(seen: Interval | None, gap: str) -> None:
    assert Period.of(0.0, seen, 1.0, latency_of()).gap == gap


def spoil(path: Path, line: int, **values: Any) -> None:
    """Other values in a line of a recording; a key with dots is a path."""
    lines = path.read_text().splitlines()
    whole = json.loads(lines[line])
    for name, value in values.items():
        *parents, last = name.split("__")
        place = whole
        for parent in parents:
            place = place[parent]
        place[last] = value
    lines[line] = json.dumps(whole)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("line", "values"), [
    (0, {"xenpv-recording": 2}), (0, {"bits": 7}), (0, {"unit": "s"}), (0, {"end": 1}), (0, {"resolution_ns": 0}),
    (0, {"domid": -1}), (0, {"devid": 1 << 40}), (0, {"resolution_ns": 1 << 40}), (0, {"started": "now"}),
    (0, {"interval": float("nan")}), (1, {"seconds": 0}),
    (1, {"start": -1}), (1, {"seconds": True}), (1, {"seconds": 1e300}), (1, {"counts": []}), (1, {"counts": {}}),
    (1, {"counts__bytes_read": 1 << 63}), (1, {"counts__bytes_read": 1.5}), (1, {"latency": None}),
    (1, {"latency__read": 3}), (1, {"latency__format": {}}), (1, {"latency__read__unknown": -1}),
    (1, {"latency__read__stages": None}), (1, {"latency__read__stages__total": []}),
    (1, {"latency__read__stages__total__runs": None}), (1, {"latency__read__stages__total__runs": [[0]]}),
    (1, {"latency__read__stages__total__runs": [[1408, 1]]}), (1, {"latency__read__stages__total__runs": [[-1, 1]]}),
    (1, {"latency__read__stages__total__runs": [[0, -1]]}), (1, {"latency__read__stages__total__runs": [["0", 1]]}),
    (1, {"latency__read__stages__total__total": None}), (2, {"start": 0.5})])
def test_what_cannot_be_is_refused_with_its_line(tmp_path: Path, line: int, values: dict[str, Any]) -> None:
    path = tmp_path / "r"
    write(path, period(0, 5), period(1, 6))
    spoil(path, line, **values)
    with pytest.raises(UsageError, match=f"is no recording of `xenpv record`: line {line + 1}: "):
        read_recording(path)


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"[]\n", b"\x7fELF\x00\n", b"[" * 100_000 + b"\n", b"\xff\n",
                                  b"1" * 5000 + b"\n"])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is no recording"):
        read_recording(path)
