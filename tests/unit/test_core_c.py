"""The core's own tests in C (tests/c), without a sanitizer: those builds are for ./dev check."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / "c" / "run.sh"


def test_core_in_c() -> None:
    """Every test of tests/c passes, and there are some."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "cc", "clang")), None)
    if compiler is None:
        pytest.skip("no C compiler (gcc, cc or clang)")
    done = subprocess.run(
        [str(RUN), "none"], env={**os.environ, "CC": compiler}, capture_output=True, text=True, timeout=300
    )
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode == 77:
        pytest.skip(last)
    assert done.returncode == 0, done.stdout + done.stderr
    assert last.endswith(" passed, 0 failed") and not last.startswith("0 ")
