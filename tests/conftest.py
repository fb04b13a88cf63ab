"""What every test may use: programs that may be missing, waiting on a condition, and a readable summary."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# A user's PATH often lacks sbin, where mkfs.ext4 is.
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

# A shell that runs us in the background may ignore SIGINT for us, and what we start would inherit that. A handler becomes the
# default in a new program, so Ctrl-C in a test is Ctrl-C wherever the tests run.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no limit on time: a slow machine is not a failure.
hypothesis.settings.register_profile("xenpv", derandomize=True, deadline=None)
hypothesis.settings.load_profile("xenpv")


def programs() -> dict[str, tuple[str, str]]:
    """The rows of tests/programs: name (a path's last component) to where to look and the Debian package."""
    rows = (line.split() for line in Path(__file__).with_name("programs").read_text().splitlines())
    return {row[0].rpartition("/")[2]: (row[0], row[1].strip("()")) for row in rows if row and not row[0].startswith("#")}


@pytest.fixture(scope="session")
def requires() -> Callable[[str], str]:
    """`requires("fio")` is the path of fio, or skips the test with a reason that names the package.

    A name that tests/programs does not list is an error: ./dev could not install it.
    """
    known = programs()

    def find(program: str) -> str:
        where, package = known[program]
        found = sorted(glob.glob(where)) if where.startswith("/") else [shutil.which(where, path=SEARCH_PATH)]
        if found and found[-1]:
            return found[-1]
        pytest.skip(f"{program} is not installed (apt-get install '{package}')")

    return find


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """`until(condition, "what is awaited", seconds=10)` returns once `condition()` is true, and fails after `seconds`.

    The one place in the tests that sleeps, `every` so many seconds. For what cannot be waited on by itself: another
    process, a file.
    """

    def wait(condition: Callable[[], object], what: str, seconds: float = 10.0, every: float = 0.005) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {what}")
            time.sleep(every)

    return wait


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Passed, failed and not run in one line, and why the last: a skipped test is never counted as passed."""
    stats = terminalreporter.stats
    skipped = stats.get("skipped", [])
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    deselected = len(stats.get("deselected", []))
    terminalreporter.section("summary")
    counts = f"passed {len(stats.get('passed', []))}, failed {failed}, not run {len(skipped)}"
    terminalreporter.line(counts + (f", left for another command (-m, -k) {deselected}" if deselected else ""))
    if sum_of := os.environ.get("XENPV_TEST_COUNTS"):
        with open(sum_of, "a") as file:  # ./dev test adds up those of its two processes
            file.write(counts + "\n")
    reasons = Counter(str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
                      for report in skipped)
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"  not run ({count}): {reason.removeprefix('Skipped: ')}")
