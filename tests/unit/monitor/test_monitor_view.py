"""`xenpv top` as text: columns that fit, an order that can be chosen, and times that say how coarse they are."""

from __future__ import annotations

import re

import pytest

from tests.support.backend_files import latency_of
from xenpv.errors import UsageError
from xenpv_tools.monitor.interval import Interval
from xenpv_tools.monitor.source import Vbd
from xenpv_tools.monitor.view import SORT_KEYS, View, bytes_text, rate_text, span_text

_STYLE = re.compile("\033\\[[0-9]*m")


def row(domid: int = 1, devid: int = 51712, reads: int = 0, state: str = "", **more: object) -> Interval:
    counts = {} if state else {"requests.read": reads, "bytes_read": 4096 * reads, "notifications": 1}
    return Interval(domid, devid, 1.0, counts, state=state, **more)  # type: ignore[arg-type]


def view(*rows: Interval, pid: int | None = 7, **chosen: object) -> View:
    made = View("emulated:/run/xenpv", 1.0, **chosen)  # type: ignore[arg-type]
    made.update({(each.domid, each.devid): each for each in rows}, pid, "12:00:00")
    return made


def plain(lines: list[str]) -> list[str]:
    return [_STYLE.sub("", line) for line in lines]


def order(made: View) -> list[Vbd]:
    return [(each.domid, each.devid) for each in made.sorted_rows()]


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0, "0"), (0.5, "0.5"), (42.4, "42"), (1234, "1.23k"),
                                             (1_202_095, "1.2M")])
def test_rates_are_short(value: float | None, text: str) -> None:
    assert rate_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (512, "512"), (1024, "1.00Ki"), (1000 * 1024, "0.98Mi"),
                                             (4_925_000_000, "4.59Gi"), (123 << 20, "123Mi")])
def test_bytes_are_in_powers_of_1024(value: float | None, text: str) -> None:
    assert bytes_text(value) == text


@pytest.mark.parametrize(("span", "text"), [
    (None, "-"), ((99_000, 101_000), "100us"), ((0, 2_000), "<2us"), ((4_000_000, 12_000_000), "4..12ms")])
def test_a_time_is_one_figure_only_where_it_is_known_as_one(span: tuple[float, float] | None, text: str) -> None:
    assert span_text(span) == text


def test_the_table() -> None:
    made = view(row(reads=12_000, latency=latency_of(85, 85, 0, service=10), in_flight=32))
    head, line = made.table()
    assert head.split() == ["ID", "VDEV", "r/s", "w/s", "o/s", "rB/s", "wB/s", "ser-p50", "ser-p99", "tot-p50", "tot-p99",
                            "QD", "ntf/s", "saved/s", "clock", "zero", "lost"]
    assert line.split() == [
        "1", "xvda", "12k", "0", "0", "46.9Mi", "0", "9..11us", "9..11us", "85us", "85us", "0", "1.0", "0",
        "1us", "33.3%", "0%"]


def test_a_coarse_clock_shows_intervals_and_its_resolution() -> None:
    line = view(row(latency=latency_of(0, 0, 0, 1, unit="tick", resolution_ns=4_000_000))).table()[1]
    assert "<4ms" in line and "<8ms" in line and "75%" in line


def test_times_that_are_lost_are_told_where_there_are_none() -> None:
    latency = latency_of()
    latency.operations["write"].unknown = 2
    latency.operations["read"].refused = 1
    made = view(row(reads=3, latency=latency))
    assert made.table()[1].split()[7:11] == ["-"] * 4 and made.table()[1].split()[-1] == "100%"
    assert made.to_json(0.0)["vbds"][0]["lost_share"] == 1.0
    assert "times lost: 100 %" in plain(made.frame(78, 24))[-1]


def test_a_request_without_a_stamp_has_lost_nothing() -> None:
    latency = latency_of(service=5)
    latency.operations["read"].absent = 5
    assert row(reads=5, latency=latency).lost_share == 0
    assert row(reads=5).lost_share is None and row(latency=latency_of()).lost_share is None


@pytest.mark.parametrize("state", ["new", "no backend", "not a statistics page of this version"])
def test_a_row_without_rates_says_why(state: str) -> None:
    assert view(row(state=state)).table()[1] == f" 1  xvda  {state}"


def test_names_of_domains() -> None:
    table = view(row(), row(2), names={1: "web\033[31m", 2: "a-name-that-is-very-long"}).table()
    assert table[1].split()[1] == "web?[31m" and table[2].split()[1] == "a-name-that-is-v"


@pytest.mark.parametrize("width", range(1, 140))
def test_columns_go_until_the_rest_fits(width: int) -> None:
    made = view(row(reads=12_000, latency=latency_of(85)), names={1: "guest"})
    assert all(len(line) <= width for line in made.table(width))
    if width >= 40:
        assert {"ID", "VDEV", "r/s", "w/s", "tot-p99", "QD"} <= set(made.table(width)[0].split())


def test_eighty_columns_have_what_matters_and_a_line_says_what_the_times_may_be_believed() -> None:
    made = view(row(reads=43_700, latency=latency_of(0, 85, 3820, 7)))
    frame = plain(made.frame(80, 24))
    assert {"ID", "VDEV", "r/s", "w/s", "rB/s", "wB/s", "ser-p50", "ser-p99", "tot-p50", "tot-p99", "QD",
            "saved/s"} <= set(frame[1].split())
    assert frame[-1] == "clock 1 us; shorter than a step of it: 25 % at most; times lost: 0 % at most"
    assert "clock" not in plain(made.frame(200, 24))[-1]


def test_without_times_the_line_says_how_to_have_them() -> None:
    assert "--profile auto" in plain(view(row()).frame(80, 24))[-1]


def test_every_key_sorts() -> None:
    made = view(row(1, reads=5), row(2, reads=50), row(3, state="new"))
    for key in SORT_KEYS:
        made.sort = key
        assert sorted(order(made)) == [(1, 51712), (2, 51712), (3, 51712)]


def test_greatest_first_and_those_without_a_figure_last() -> None:
    made = view(row(1, reads=5), row(2, reads=50), row(3, state="new"), sort="reads")
    assert [domid for domid, _ in order(made)] == [2, 1, 3]
    made.press("R")
    assert [domid for domid, _ in order(made)] == [1, 2, 3]


def test_sorting_by_something_else_is_refused() -> None:
    with pytest.raises(UsageError, match="total-p99"):
        view(sort="colour")


def test_left_and_right_choose_the_column() -> None:
    made = view(row())
    made.press("right")
    assert made.sort == SORT_KEYS[1]
    for _ in range(2):
        made.press("left")
    assert made.sort == SORT_KEYS[-1]


@pytest.mark.parametrize("key", ["q", "Q", "eof"])
def test_keys_that_end_it(key: str) -> None:
    assert not view().press(key)


def test_the_interval_has_bounds() -> None:
    made = view()
    for _ in range(20):
        made.press("+")
    assert made.seconds == 60
    for _ in range(20):
        made.press("-")
    assert made.seconds == 0.125


def test_a_long_list_scrolls_and_stays_within_its_ends() -> None:
    made = view(*(row(domid) for domid in range(1, 31)))
    shown = plain(made.frame(130, 12))
    assert len(shown) == 12 and shown[2].startswith(" 1 ") and shown[-1].startswith("10 ")
    made.press("page-down")
    assert plain(made.frame(130, 12))[2].startswith("11 ")
    for _ in range(5):
        made.press("page-down")
    assert plain(made.frame(130, 12))[-1].startswith("30 ")
    made.press("home")
    assert plain(made.frame(130, 12))[2].startswith(" 1 ")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (20, 4), (80, 24), (300, 80)])
def test_a_frame_is_smaller_than_its_terminal(size: tuple[int, int]) -> None:
    made = view(*(row(domid, reads=10 ** domid) for domid in range(1, 9)))
    made.press("h")
    frame = plain(made.frame(*size))
    assert len(frame) <= size[1] and all(len(line) < max(size[0], 2) for line in frame)


def test_the_title_says_that_no_backend_runs() -> None:
    assert "no backend runs: `xenpv backend run`" in view(pid=None).title()
    assert "no vbd is served here yet" in plain(view(pid=None).frame(80, 24))


def test_json_of_an_interval() -> None:
    said = view(row(reads=5), names={1: "guest"}).to_json(1_700_000_000.1234)
    assert (said["time"], said["backend_pid"], said["vbds"][0]["name"]) == (1_700_000_000.123, 7, "guest")
    assert said["vbds"][0]["reads_per_second"] == 5
