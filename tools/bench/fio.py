"""Running fio, and reading what it says.

Its JSON (`--output-format=json`, fio 3.33): ``jobs[0].read``, ``.write`` and, of a mix, ``.mixed`` hold `iops`, `bw_bytes`,
`total_ios` and `lat_ns` with the percentiles that were asked for; `error` is an errno; `usr_cpu` and `sys_cpu` are percent of
`job_runtime`, milliseconds, of the job's thread and without fio's start and end.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenpv.errors import XenpvError

from .cases import Case
from .measurement import Measurement

Options = dict[str, str | int | None]
"""Options of a fio job; None for one without a value."""

_ENOUGH = 120.0
"""Seconds that fio may take beyond the run itself."""


class FioError(XenpvError):
    """fio could not do it. The text is one line, its own where there is one."""


@dataclass(frozen=True)
class FioResult:
    """A run of fio."""

    ios: int
    iops: float
    bytes_per_second: float
    p50_us: float
    p99_us: float
    cpu_seconds: float
    """Of the whole process: start and end included."""
    run_cpu_seconds: float
    """Of the job's thread, while it ran."""


def job(case: Case, **more: str | int | None) -> Options:
    """The job of `case`, without its engine and length. Latencies are fio's `lat`: from submission to completion.

    No random map: which blocks were read already is bookkeeping that xenpv's load does not do either.
    """
    mix: Options = {} if case.reads is None else {"rwmixread": case.reads, "unified_rw_reporting": "mixed"}
    return {"rw": case.fio_rw, **mix, "bs": case.block, "iodepth": case.depth, "thread": None, "norandommap": None,
            "randrepeat": 1, "lat_percentiles": 1, "clat_percentiles": 0, "percentile_list": "50:99", **more}


def timed(options: Options, seconds: float) -> Options:
    """`options`, for that long."""
    return {**options, "time_based": None, "runtime": f"{round(seconds * 1000)}ms"}


def job_text(options: Options) -> str:
    """The job file."""
    lines = [name if value is None else f"{name}={value}" for name, value in options.items()]
    return "\n".join(["[bench]", *lines]) + "\n"


def has_engine(engine: str) -> bool:
    """Whether the fio here was built with it."""
    if shutil.which("fio") is None:
        return False
    done = subprocess.run(["fio", f"--enghelp={engine}"], capture_output=True, text=True, check=False)
    return done.returncode == 0


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(options: Options, folder: Path, seconds: float = 0.0) -> FioResult:
    """Run the job in a process of its own. Its files are in `folder`. Raises FioError."""
    file = folder / "bench.fio"
    file.write_text(job_text(options))
    try:
        process = subprocess.Popen(["fio", "--output-format=json", str(file)], cwd=folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise FioError("fio is not installed (apt-get install fio)") from error
    try:
        before = _children_seconds()
        out, err = process.communicate(timeout=seconds + _ENOUGH)
        used = _children_seconds() - before
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise FioError("fio does not end") from error
        raise
    return parse(out.decode(errors="replace"), err.decode(errors="replace"), process.returncode, used)


def _number(found: Any) -> float:
    if not isinstance(found, (int, float)):
        raise TypeError(f"{found!r} is no number")
    return float(found)


def parse(out: str, err: str, status: int, cpu_seconds: float) -> FioResult:
    """What a run said. Raises FioError when it failed, or did nothing."""
    complaint = next((line.strip() for line in [*err.splitlines(), *out.splitlines()] if line.startswith("fio:")), "")
    if status:
        raise FioError(complaint or f"fio ended with status {status}")
    try:
        found = json.loads(out[out.index("{"):])["jobs"][0]
        if found["error"]:
            raise FioError(complaint or f"fio: {os.strerror(int(found['error']))}")
        halves = (found[name] for name in ("read", "write", "mixed") if name in found)
        side = max(halves, key=lambda half: _number(half["total_ios"]))
        if not side["total_ios"]:
            raise FioError("fio did no I/O")
        percentile = side["lat_ns"]["percentile"]
        share = (_number(found["usr_cpu"]) + _number(found["sys_cpu"])) / 100
        return FioResult(int(side["total_ios"]), _number(side["iops"]), _number(side["bw_bytes"]),
                         _number(percentile["50.000000"]) / 1000, _number(percentile["99.000000"]) / 1000, cpu_seconds,
                         share * _number(found["job_runtime"]) / 1000)
    except (ValueError, LookupError, TypeError) as error:
        raise FioError(f"fio's JSON is not as expected ({error!r}): this reads that of fio 3.x") from error


def measurement(result: FioResult, other_cpu_seconds: float, overhead_seconds: float) -> Measurement:
    """With the other side's CPU time, and without fio's own start and end."""
    own = max(result.cpu_seconds - overhead_seconds, 0.0)
    return Measurement(result.iops, result.bytes_per_second, result.p50_us, result.p99_us,
                       (own + other_cpu_seconds) / result.ios * 1e6)
