"""Medians, ratios, and the tables."""

from __future__ import annotations

from typing import Any

import pytest
from xenpv_tools.bench import compare, report
from xenpv_tools.bench.cases import CASES, LOADS
from xenpv_tools.bench.measurement import Measurement, medians
from xenpv_tools.bench.notifications import Count, row


def result(system: str, iops: float, case: str = "randread-4k-qd32", storage: str = "tmpfs") -> dict[str, Any]:
    return {"case": case, "system": system, "storage": storage, "iops": iops, "bytes_per_second": iops * 4096,
            "p50_us": 12.34, "p99_us": 56.7, "cpu_us_per_io": 3.21, "iops_of_runs": [iops],
            "options": {"setup": f"setup of {system}"}}


def found(*results: dict[str, Any], not_run: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {
        "results": list(results), "not_run": not_run or [],
        "versions": {"xenpv": "0.1.0", "kernel": "6.1", "fio": "3.33", "nbdkit": None, "python": "3.11.2"},
        "processors": {"count": 2, "model": "a processor"},
        "load_average": {"before": [0.5, 0.4, 0.3], "after": [1.5, 1, 1]},
        "options": {"seconds": 2.0, "runs": 3, "size": 1 << 30, "queues": 1, "pinning": "none"}, "how": compare.EXPLANATIONS,
    }


def test_medians_are_taken_field_by_field() -> None:
    runs = [Measurement(1, 50, 3, 4, 5), Measurement(3, 40, 1, 6, 5), Measurement(2, 60, 2, 5, 7)]
    assert medians(runs) == Measurement(2, 50, 2, 5, 5)


def test_a_ratio_is_of_the_same_case_and_storage() -> None:
    rows = [result("xenpv", 600), result("nbdkit", 200), result("nbdkit", 100, storage="disk")]
    assert compare.ratio(rows, "randread-4k-qd32", "tmpfs", "nbdkit") == 3.0


@pytest.mark.parametrize("rows", [[result("xenpv", 600)], [result("nbdkit", 600)],
                                  [result("xenpv", 6), result("nbdkit", 0)]])
def test_without_both_there_is_no_ratio(rows: list[dict[str, Any]]) -> None:
    assert compare.ratio(rows, "randread-4k-qd32", "tmpfs", "nbdkit") is None


def test_the_table_has_figures_and_ratios() -> None:
    rows = [result("xenpv", 600000), result("nbdkit", 100000), result("raw", 800000)]
    own = next(line for line in report.comparison(found(*rows)).splitlines() if "xenpv" in line.split())
    assert {"600,000", "2,458", "12.3", "56.7", "3.21", "6.00", "0.75"} < set(own.split())


def test_the_table_names_each_setup() -> None:
    assert "setup of raw" in report.comparison(found(result("raw", 800000)))


def test_fios_job_and_its_server_are_shown_as_they_were_run() -> None:
    row = result("nbdkit", 100000)
    row["options"] |= {"fio_job": "[bench]\nrw=randread\nruntime=500ms\n", "server": "nbdkit --threads 4"}
    shown = report.comparison(found(row, result("xenpv", 1)))
    assert ("tmpfs, randread-4k-qd32, nbdkit: fio: [bench] rw=randread runtime=500ms\n    served by: nbdkit --threads 4\n"
            in shown)


def test_what_was_not_run_says_why() -> None:
    missing = [{"case": "all", "system": "nbdkit", "storage": "tmpfs", "reason": "nbdkit is not installed"}]
    assert "tmpfs, all, nbdkit: not run: nbdkit is not installed" in report.comparison(found(not_run=missing))


def test_versions_and_load_stand_below_the_table() -> None:
    text = report.comparison(found(result("raw", 1)))
    assert "nbdkit not installed" in text and "Load average 0.5 before, 1.5 after" in text


def test_how_latencies_are_taken_stands_below_the_table() -> None:
    assert compare.EXPLANATIONS["latency"]["xenpv"] in report.comparison(found(result("xenpv", 1)))


@pytest.mark.parametrize(("queues", "lines"), [(1, 0), (4, 1)])
def test_several_queues_and_who_has_them_stand_below_the_table(queues: int, lines: int) -> None:
    answer = found(result("xenpv", 1))
    answer["options"]["queues"] = queues
    text = report.comparison(answer).splitlines()
    assert len([line for line in text if line.startswith(f"Queues: {queues}: ") and "numjobs=1" in line]) == lines


def counts() -> list[Count]:
    return [Count(1000, 10, 20, 3, 0, 5.0, 1.5), Count(2000, 80, 20, 8, 1, 7.0, 2.5), Count(1000, 5, 5, 2, 0, 6.0, 0.5)]


def test_notifications_are_of_both_directions_and_the_median_run() -> None:
    made = row(LOADS["qd1"], 20, "flag", counts())
    assert (made["notifications_per_1000"], made["to_backend_per_1000"], made["to_frontend_per_1000"]) == (30, 10, 10)


def test_a_single_rescue_is_not_lost_in_a_median() -> None:
    assert row(LOADS["qd1"], 20, "flag", counts())["rescues"] == 1


def test_the_notifications_table_has_a_row_each() -> None:
    rows = [row(LOADS["qd1"], 20, mode, counts()) for mode in ("flag", "event_index")]
    text = report.notifications({**found(), "loads": rows})
    first = [line.split()[:3] for line in text.splitlines()[1:3]]
    assert first == [["qd1", "20", "flag"], ["qd1", "20", "event_index"]]


def test_the_cases_are_those_that_the_issue_names() -> None:
    assert list(CASES) == ["randread-4k-qd32", "randwrite-4k-qd32", "randread-4k-qd1", "read-256k-qd8", "randrw-4k-qd32"]
