"""The files for stock xl: put there whole, removed again, and nobody else's touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xenpv.errors import HypervisorError
from xenpv_tools.host.files import HostFile, host_files, install, uninstall


@pytest.fixture
def files(tmp_path: Path) -> list[HostFile]:
    return host_files(tmp_path, ["/usr/bin/a program", "-m", "xenpv_tools"])


def test_install_writes_each_file_once(files: list[HostFile]) -> None:
    assert install(files) == [file.path for file in files]
    assert install(files) == []
    assert all(file.present for file in files)


def test_xls_script_may_be_run_and_the_service_names_the_program(files: list[HostFile]) -> None:
    install(files)
    script, bootloader, service = (file.path for file in files)
    for program in (script, bootloader):
        assert program.stat().st_mode & 0o777 == 0o755
    assert "\nexec '/usr/bin/a program' -m xenpv_tools bundle bootloader \"$@\"\n" in bootloader.read_text()
    assert "\nExecStart='/usr/bin/a program' -m xenpv_tools --hypervisor xen: backend run\n" in service.read_text()


def test_uninstall_leaves_nothing_of_ours(files: list[HostFile], tmp_path: Path) -> None:
    install(files)
    assert uninstall(files) == [file.path for file in files]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert uninstall(files) == []


def test_another_ones_file_is_left_alone(files: list[HostFile]) -> None:
    path = files[0].path
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\nsomebody else's\n")
    for change in (install, uninstall):
        with pytest.raises(HypervisorError, match="move it away first"):
            change(files)
    assert "somebody else" in path.read_text()
    assert not files[1].path.exists()


def test_the_script_is_sound_shell_and_refuses_other_verbs(files: list[HostFile]) -> None:
    install(files)
    subprocess.run(["sh", "-n", str(files[0].path)], check=True)
    done = subprocess.run(["sh", str(files[0].path), "dance"], capture_output=True, text=True, env={"XENBUS_PATH": "/x"})
    assert done.returncode == 2
    assert done.stderr.startswith("usage: block-xenpv add|remove")
