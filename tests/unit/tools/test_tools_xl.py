"""What xl prints, read; its failures as one line. xl itself is a shell script here."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenpv.errors import HypervisorError
from xenpv_tools.domains import open_domains
from xenpv_tools.xl import XlDomains, run_xl

LIST = """Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0  2048     2     r-----      54.1
a name with  spaces                          7   128     1     --p---       0.0
crashed                                     12   128     1     ---sc-       3.5
"""
UPTIME = """Name                                ID Uptime
Domain-0                             0  0:00:31
a name with  spaces                  7 2 days,  1:02:03
"""


@pytest.fixture
def xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An xl that answers with the file of its verb's name, and notes what it was asked."""
    program = tmp_path / "xl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\ncat {tmp_path}/answer-$1 2>/dev/null\n'
                       f'[ ! -e {tmp_path}/error-$1 ] || {{ cat {tmp_path}/error-$1 >&2; exit 1; }}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "answer-list").write_text(LIST)
    (tmp_path / "answer-uptime").write_text(UPTIME)
    return tmp_path


def test_domains_are_those_of_xl_list(xl: Path) -> None:
    found = [(each.domid, each.name, each.state, each.uptime) for each in XlDomains().all()]
    assert found == [(0, "Domain-0", "running", 31.0), (7, "a name with  spaces", "paused", 2 * 86400 + 3723.0),
                     (12, "crashed", "crashed", 0.0)]


def test_a_domain_is_made_paused_and_without_its_disks(xl: Path) -> None:
    (xl / "answer-domid").write_text("9\n")
    assert XlDomains().create_paused("guest", "guest.cfg", ("memory=64",)) == 9
    assert (xl / "asked").read_text() == "create -p guest.cfg memory=64 disk=[]\ndomid guest\n"


def test_the_first_error_of_xl_is_the_reason(xl: Path) -> None:
    (xl / "error-destroy").write_text("libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain 1:Non-existant domain\n"
                                      "libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 1:Unable\n")
    with pytest.raises(HypervisorError, match=r"^xl destroy: Domain 1:Non-existant domain$"):
        XlDomains().destroy(1)


def test_without_xl_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HypervisorError, match="apt install xen-utils"):
        run_xl("list")


def test_the_domains_of_xen_are_xls() -> None:
    assert open_domains("xen:").xen
