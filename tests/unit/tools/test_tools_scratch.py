"""Scratch directories go with all that is in them, also when the signal comes while they go."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from xenpv_tools.scratch import scratch_directory, swept

from tests.support.emulated import alive
from xenpv.hypervisors.emulated import host


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes just when a directory is being removed."""
    def rmtree(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "_rmtree", rmtree)


def test_a_directory_is_removed(tmp_path: Path) -> None:
    with scratch_directory("demo", tmp_path) as folder:
        (folder / "file").write_text("")
        assert str(os.getpid()) in folder.name
    assert not list(tmp_path.iterdir())


def test_a_removal_that_is_interrupted_is_done_all_the_same(tmp_path: Path, interrupted: None) -> None:
    with pytest.raises(KeyboardInterrupt), swept(), scratch_directory("demo", tmp_path) as folder:
        (folder / "file").write_text("")
    assert not list(tmp_path.iterdir())


def test_its_xen_ends(tmp_path: Path, interrupted: None, until: Callable[..., None]) -> None:
    with pytest.raises(KeyboardInterrupt), swept(), scratch_directory("demo", tmp_path) as folder:
        pid = host.start(folder / "run")["pid"]
    assert not list(tmp_path.iterdir())
    until(lambda: not alive(pid), "the end of the host process")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_second_signal_does_not_keep_from_cleaning_up(number: signal.Signals, error: type[BaseException]) -> None:
    before, done = signal.getsignal(number), []
    with pytest.raises(error), swept():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(True)
    assert done == [True]
    assert signal.getsignal(number) == before
