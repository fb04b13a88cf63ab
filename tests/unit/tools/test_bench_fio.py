"""fio: the job it is given, and what is read from its JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from xenpv_tools.bench import fio
from xenpv_tools.bench.cases import CASES


CPU = {"usr_cpu": 5.0, "sys_cpu": 20.0, "job_runtime": 500}


def answer(**more: Any) -> dict[str, Any]:
    """What fio 3.33 says, cut to what is read, and to one key more."""
    idle = {"total_ios": 0, "iops": 0.0, "bw_bytes": 0, "lat_ns": {"min": 0}}
    busy = {"total_ios": 2000, "iops": 4000.5, "bw_bytes": 16386048,
            "lat_ns": {"percentile": {"50.000000": 1500, "99.000000": 27264}}}
    return {"fio version": "fio-3.33", "jobs": [{"error": 0, "read": busy, "write": idle, **CPU, **more}]}


def parsed(text: dict[str, Any] | str, err: str = "", status: int = 0) -> fio.FioResult:
    return fio.parse(text if isinstance(text, str) else json.dumps(text), err, status, 0.25)


def test_a_read_is_understood() -> None:
    assert parsed(answer()) == fio.FioResult(2000, 4000.5, 16386048.0, 1.5, 27.264, 0.25, 0.125)


def test_a_write_is_understood() -> None:
    jobs = answer()["jobs"][0]
    assert parsed(answer(read=jobs["write"], write=jobs["read"])).ios == 2000


def test_a_mix_is_understood_as_one() -> None:
    jobs = answer()["jobs"][0]
    assert parsed(json.dumps({"jobs": [{"error": 0, "mixed": jobs["read"], **CPU}]})).ios == 2000


def test_a_note_before_the_json_is_skipped() -> None:
    assert parsed("note: both iodepth >= 1 and synchronous I/O engine\n" + json.dumps(answer())).ios == 2000


@pytest.mark.parametrize(("text", "err", "status", "words"), [
    ("", "fio: engine nbd not loadable\n", 1, "fio: engine nbd not loadable"),
    ("", "", 3, "fio ended with status 3"),
    (json.dumps(answer(error=28)), "", 0, "No space left"),
    (json.dumps(answer(read={"total_ios": 0})), "", 0, "no I/O"),
    ("{}", "", 0, "not as expected"),
    ("nothing", "", 0, "not as expected"),
    (json.dumps(answer(read={"total_ios": 5})), "", 0, "not as expected"),
    (json.dumps(answer(read={"total_ios": "5"})), "", 0, "not as expected"),
    (json.dumps(answer(sys_cpu="much")), "", 0, "not as expected"),
])
def test_what_went_wrong_is_one_line(text: str, err: str, status: int, words: str) -> None:
    with pytest.raises(fio.FioError) as raised:
        parsed(text, err, status)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "rw"), [("randread-4k-qd32", "randread"), ("randwrite-4k-qd32", "randwrite"),
                                          ("read-256k-qd8", "read")])
def test_the_job_is_the_case(name: str, rw: str) -> None:
    case = CASES[name]
    lines = fio.job_text(fio.job(case, ioengine="psync")).splitlines()
    assert {f"rw={rw}", f"bs={case.block}", f"iodepth={case.depth}", "ioengine=psync"} < set(lines)


def test_the_job_of_a_mix_reports_both_as_one() -> None:
    lines = fio.job_text(fio.job(CASES["randrw-4k-qd32"])).splitlines()
    assert {"rw=randrw", "rwmixread=70", "unified_rw_reporting=mixed"} < set(lines)


def test_an_option_without_a_value_stands_alone() -> None:
    assert "thread" in fio.job_text(fio.job(CASES["randread-4k-qd1"])).splitlines()


def test_seconds_may_be_a_fraction() -> None:
    assert fio.timed({}, 0.2)["runtime"] == "200ms"


def test_cpu_of_both_sides_is_counted_and_of_the_start_is_not() -> None:
    found = fio.measurement(fio.FioResult(1000, 1.0, 1.0, 1.0, 1.0, 0.5, 0.4), other_cpu_seconds=0.3, overhead_seconds=0.1)
    assert found.cpu_us_per_io == pytest.approx(700)
