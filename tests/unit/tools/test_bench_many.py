"""Many vbds: what becomes of the runs' figures, and what /proc is asked."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from xenpv_tools.bench import many, process, report
from xenpv_tools.bench.cases import CASES, Case
from xenpv_tools.bench.files import MIB
from xenpv_tools.bench.load import LoadResult
from xenpv_tools.bench.many_system import Together, places

from xenpv.errors import UsageError, XenpvError

CASE = Case("case", 4096, 4)


def load(ios: int, p99_us: float = 9.0, rescues: int = 0) -> LoadResult:
    return LoadResult(ios, ios * 4096, 2.0, 5.0, p99_us, 0.5, {"notifications": 3, "rescues": rescues})


def together(*loads: LoadResult) -> Together:
    counters = {"requests": 1000, "notifications": 7, "sleeps": 2}
    return Together(list(loads), counters, 0.5, process.Switches(3, 1))


def test_domains_have_their_vbds_in_turn_each_with_a_name_of_its_own() -> None:
    assert places(5, 2) == [(0, "xvda"), (1, "xvda"), (0, "xvdb"), (1, "xvdb"), (0, "xvdc")]


def test_more_than_26_vbds_of_a_domain_have_names() -> None:
    found = places(60, 1)
    assert (found[25][1], found[26][1], found[52][1]) == ("xvdz", "xvdaa", "xvdba") and len(set(found)) == 60


def test_rates_add_up_and_the_slowest_is_of_the_mean() -> None:
    made = many.row(CASE, 2, [together(load(100), load(300))])
    assert (made["iops"], made["slowest_to_mean"], made["fastest_to_mean"]) == (200, 0.5, 1.5)


def test_the_worst_tail_is_told() -> None:
    assert many.row(CASE, 2, [together(load(1, 10.0), load(1, 70.0))])["p99_us"] == 70.0


def test_notifications_are_of_both_directions() -> None:
    assert many.row(CASE, 2, [together(load(1), load(1))])["notifications_per_1000"] == 13.0


def test_cpu_time_is_of_both_sides() -> None:
    assert many.row(CASE, 2, [together(load(500_000), load(500_000))])["cpu_us_per_io"] == 1.5


def test_a_single_rescue_is_not_lost_in_a_median() -> None:
    runs = [together(load(1)), together(load(1, rescues=1)), together(load(1))]
    assert many.row(CASE, 1, runs)["rescues"] == 1


@pytest.mark.parametrize(("vbds", "domains", "size"), [(2, 1, 64 * MIB), (8, 9, 64 * MIB), (65, 8, 64 * MIB)])
def test_a_plan_that_cannot_be(vbds: int, domains: int, size: int) -> None:
    with pytest.raises(UsageError, match="vbds"):
        many.ManyPlan(vbds, domains, list(CASES.values()), "tmpfs", 1.0, 1, size).check()


def test_memory_of_a_process_is_read() -> None:
    found = process.memory(os.getpid())
    assert found.rss >= found.anonymous > 0 and found.pss > 0


def test_a_thread_that_sleeps_and_wakes_is_counted() -> None:
    """Its switches are in the sum while it lives."""
    began, go, done, end = (threading.Event() for _ in range(4))

    def sleeper() -> None:
        began.set()
        go.wait()
        done.set()
        end.wait()

    thread = threading.Thread(target=sleeper)
    thread.start()
    began.wait()
    before = process.switches(os.getpid())
    go.set()
    done.wait()
    after = process.switches(os.getpid())
    end.set()
    thread.join()
    assert after.voluntary + after.involuntary >= before.voluntary + before.involuntary > 0


@pytest.mark.parametrize("ask", [process.memory, process.switches])
def test_a_process_that_has_ended_is_an_error(ask: Any) -> None:
    with pytest.raises(XenpvError, match="has ended"):
        ask(2 ** 22 + 1)


def test_the_table_has_one_against_all() -> None:
    rows = [many.row(CASE, 1, [together(load(400))]), many.row(CASE, 2, [together(load(100), load(300))])]
    found: dict[str, Any] = {
        "rows": rows, "vbds": 2, "domains": 1, "queues": 3, "storage": "tmpfs",
        "memory": {"per_vbd_connected": 102400, "per_vbd_after_load": 204800},
        "idle": {"wakeups_per_second": 0.0, "cpu_ms_per_second": 0.0},
        "neighbour": [{"quiet": "alone", "iops_each": 5, "worst_p50_us": 1.0, "worst_p99_us": 2.0, "cpu_us_per_io": 3.0,
                       "greedy_bytes_per_second": 0}],
        "versions": {}, "processors": {"count": 2, "model": "a processor"},
        "load_average": {"before": [0.5], "after": [1.5]},
        "options": {"seconds": 2.0, "runs": 3, "size": 1 << 30, "spin_us": 50, "pinning": "none"}}
    text = report.many(found)
    assert text.splitlines()[2].split()[:6] == ["case", "2", "200", "1", "1.00", "0.50"]
    assert "100 KiB connected, 200 KiB after" in text and "0 wake-ups" in text
    assert "2 vbds of 1 domains and the one, 3 queues each" in text
