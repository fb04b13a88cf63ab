"""One publisher of the time page: its lock."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from xenpv_tools.commands.time import only_publisher

from xenpv.errors import UsageError


def test_a_second_publisher_is_refused(tmp_path: Path) -> None:
    with only_publisher(tmp_path), pytest.raises(UsageError, match="published already"), only_publisher(tmp_path):
        pass


def test_the_lock_goes_with_its_publisher(tmp_path: Path) -> None:
    for _ in range(2):
        with only_publisher(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_before_it_was_taken_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last holder ends between our open and our lock."""
    lock = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        (tmp_path / "time.lock").unlink()
        lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with only_publisher(tmp_path), pytest.raises(UsageError, match="published already"), only_publisher(tmp_path):
        pass
