"""What tests of the tools stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xenpv.hypervisors.emulated import host


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    with host.running(tmp_path / "run"):
        yield f"emulated:{tmp_path / 'run'}"
