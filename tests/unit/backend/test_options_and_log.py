"""Options out of files, and the lines of the log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from xenpv.errors import UsageError
from xenpv.xenbus import VbdPlace
from xenpv_backend.log import GUEST_BURST, GUEST_PAUSE, VbdLog, one_line
from xenpv_backend.options import BackendOptions, load_options


def test_later_files_count(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text('cache = "direct"\nspin_us = 5\n')
    second.write_text("spin_us = 6\n")
    assert load_options([first, tmp_path / "none", second]) == BackendOptions(cache="direct", spin_us=6)


@pytest.mark.parametrize("text", ["spin_us = -1", "spin_us = true",
                                  'spin_us = "long"', 'engine = "aio"', "spin = 1", "notify_flag = 1",
                                  "max_queues = 0", "spin_us", 'log_level = "loud"', "max_ring_page_order = 5",
                                  "persistent = 1", 'persistent = "yes"'])
def test_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "backend.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_options([file])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("options", "xen", "offered"), [
    ({}, False, True), ({}, True, False), ({"data": "map"}, True, True), ({"data": "copy"}, True, False),
    ({"data": "copy"}, False, True), ({"persistent": True}, True, True), ({"persistent": False}, False, False)])
def test_persistent_grants_are_offered_unless_a_grant_copy_moves_the_data(options: dict[str, Any], xen: bool,
                                                                          offered: bool) -> None:
    assert BackendOptions(**options).settled(xen).persistent is offered


def test_the_spin_is_longer_on_the_emulated_xen_unless_it_is_said() -> None:
    assert [BackendOptions().settled(xen).spin_us for xen in (True, False)] == [50, 150]
    assert [BackendOptions(spin_us=0).settled(xen).spin_us for xen in (True, False)] == [0, 0]


def test_control_characters_are_shown() -> None:
    assert one_line("a\nb\x1b[31mc\u2028") == r"a\nb\x1b[31mc\u2028"


def test_budget_of_a_guest(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = VbdLog(VbdPlace(0, 1, 51712), clock=lambda: now)
    with caplog.at_level(logging.INFO, logger="xenpv.backend"):
        for _ in range(GUEST_BURST + 7):
            log.guest("again")
        assert len(caplog.records) == GUEST_BURST
        now += GUEST_PAUSE
        log.guest("again")
    assert caplog.records[-1].getMessage() == (
        "domid 1 devid 51712: again (7 lines before this one were left out)")
