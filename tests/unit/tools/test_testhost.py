"""xenpv testhost: the recipe, the job's disk, ramdisks and QEMU's command line; nothing is booted."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from xenpv.errors import HypervisorError, UsageError
from xenpv_tools.testhost import build, recipe
from xenpv_tools.testhost.job import Job, check_libc, make_disk
from xenpv_tools.testhost.machine import Machine, last_words
from xenpv_tools.testhost.ramdisk import Cpio, unpacked_kernel
from xenpv_tools.testhost.recipe import Host


def test_host_is_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Host.at("bookworm").directory.parent == tmp_path / "xenpv/testhost/bookworm"


def test_each_recipe_has_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = Host.at("bookworm", tmp_path)
    assert Host.at("bookworm", tmp_path) == one
    monkeypatch.setattr(recipe, "PACKAGES", [*recipe.PACKAGES, "another"])
    assert Host.at("bookworm", tmp_path).directory != one.directory


def test_unknown_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bookworm or trixie"):
        Host.at("sid", tmp_path)


def test_project_s_requirements_are_installed_in_dom0() -> None:
    needed = recipe.requirements(recipe.project_root() / "setup.cfg")
    assert {"pytest", "hypothesis"} < set(needed)
    assert any(name.startswith("pyxs") for name in needed)


def test_build_without_root_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="only root"):
        build.build(Host.at("bookworm", tmp_path), print)
    assert not list(tmp_path.iterdir())


def test_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="apt-get install .* a-package"):
        build.need_programs({"no-such-program": "a-package", "sh": "dash"}, print)


def test_failed_step_says_its_last_line_and_keeps_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rootfs.sh").write_text("echo step one\necho the reason >&2\nexit 3\n")
    monkeypatch.setattr(build, "INSIDE", tmp_path)
    monkeypatch.setattr(build, "need_programs", lambda wanted, say: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(build, "unshared", lambda script: ["sh", str(script)])
    host = Host.at("bookworm", tmp_path / "cache")
    said: list[str] = []
    with pytest.raises(HypervisorError, match="the reason"):
        build.build(host, said.append)
    assert "one" in said and not host.directory.exists()
    assert "the reason" in (host.directory.parent / "build.log").read_text()


def test_only_variables_for_the_network_are_passed_on() -> None:
    kept = build.network_environment({"https_proxy": "p", "PIP_INDEX_URL": "i", "SECRET": "s", "HOME": "/h", "PATH": "/b"})
    assert kept.keys() == {"https_proxy", "PIP_INDEX_URL", "HOME", "PATH"}


@pytest.mark.parametrize("limit", [0, -1.0])
def test_time_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(UsageError, match="more than 0"):
        Job(limit=limit)


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.sh").touch()
    with pytest.raises(UsageError, match="/job/run.sh"):
        Job(tmp_path / "a/run.sh", [tmp_path / "b/run.sh"])


def test_settings_survive_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "it's a $(script).sh"
    script.touch()
    (tmp_path / "job").write_text(Job(script, limit=2.5).settings("trixie"))
    shell = '. "$1" && printf "%s|%s|%s" "$script" "$limit" "$release"'
    done = subprocess.run(["sh", "-c", shell, "sh", str(tmp_path / "job")], capture_output=True, text=True, check=True)
    assert done.stdout == f"{script.name}|2.5|trixie"


@pytest.mark.parametrize(("systemd", "said"), [(False, "no"), (True, "yes")])
def test_settings_say_whether_systemd_runs_dom0(systemd: bool, said: str) -> None:
    assert f"systemd={said}\n" in Job(systemd=systemd).settings("bookworm")


def wheel(folder: Path, core: bytes) -> Path:
    with zipfile.ZipFile(folder / "a.whl", "w") as archive:
        archive.writestr("xenpv/core/_core.abi3.so", core)
    return folder / "a.whl"


def test_core_for_a_newer_c_library_is_refused(tmp_path: Path) -> None:
    built = wheel(tmp_path, b"\0GLIBC_2.4\0GLIBC_2.38\0GLIBC_2.17\0")
    check_libc(built, "trixie")
    with pytest.raises(UsageError, match=r"needs glibc 2\.38, and bookworm has 2\.36"):
        check_libc(built, "bookworm")


def test_core_for_an_older_c_library_is_taken(tmp_path: Path) -> None:
    check_libc(wheel(tmp_path, b"\0GLIBC_2.4\0GLIBC_2.34\0"), "bookworm")


def test_cpio_begins_with_folders_and_ends_with_the_trailer() -> None:
    cpio = Cpio()
    cpio.file("a/b/file", b"12345", executable=True)
    data, names = cpio.content(), []
    offset = 0
    while offset < len(data):
        fields = [int(data[offset + 6 + 8 * index:offset + 14 + 8 * index], 16) for index in range(13)]
        assert data[offset:offset + 6] == b"070701"
        names.append(data[offset + 110:offset + 110 + fields[11] - 1].decode())
        offset += (110 + fields[11] + 3 & ~3) + (fields[6] + 3 & ~3)
    assert names == ["a", "a/b", "a/b/file", "TRAILER!!!"]


def kernel(payload: bytes) -> bytes:
    image = bytearray(1024)
    image[0x1f1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload


def test_kernel_is_unpacked() -> None:
    elf = b"\x7fELF and so on"
    assert unpacked_kernel(kernel(lzma.compress(elf) + struct.pack("<I", len(elf)))) == elf


@pytest.mark.parametrize("image", [b"\x7fELF" + bytes(1024), kernel(b"\x28\xb5\x2f\xfd otherwise compressed")])
def test_kernel_that_is_not_known_stays(image: bytes) -> None:
    assert unpacked_kernel(image) == image


def test_only_the_results_are_written_to(tmp_path: Path) -> None:
    machine = Machine(Host.at("bookworm", tmp_path), tmp_path)
    drives = [word for word in machine.command([]) if word.startswith("file=")]
    assert [drive.split(",")[0].rpartition("/")[2] for drive in drives] == [
        "dom0.img", "job.img", "results.img", "dom0.img", "job.img"]
    assert [drive for drive in drives if "snapshot=off" in drive] == [drives[2]]


def test_no_xsave_under_tcg(tmp_path: Path) -> None:
    command = Machine(Host.at("bookworm", tmp_path), tmp_path).command([])
    assert "-xsave" in command[command.index("-cpu") + 1]


def test_comma_in_a_path_is_doubled(tmp_path: Path) -> None:
    machine = Machine(Host.at("bookworm", tmp_path / "a,b"), tmp_path)
    assert any("/a,,b/" in word for word in machine.command([]))


def test_results_come_back(tmp_path: Path) -> None:
    if not shutil.which("debugfs", path="/usr/sbin:/sbin"):
        pytest.skip("debugfs is not installed (apt-get install e2fsprogs)")
    tree = tmp_path / "tree"
    (tree / "out/folder").mkdir(parents=True)
    (tree / "out/folder/result").write_text("right")
    (tree / "exit-status").write_text("7\n")
    machine = Machine(Host.at("bookworm", tmp_path), tmp_path)
    make_disk(machine.results_disk, 16, tree)
    machine.fetch(tmp_path / "fetched")
    assert machine.exit_status() == 7
    assert (tmp_path / "fetched/folder/result").read_text() == "right"


def test_job_that_did_not_end_has_no_status(tmp_path: Path) -> None:
    if not shutil.which("debugfs", path="/usr/sbin:/sbin"):
        pytest.skip("debugfs is not installed (apt-get install e2fsprogs)")
    machine = Machine(Host.at("bookworm", tmp_path), tmp_path)
    make_disk(machine.results_disk, 16)
    assert machine.exit_status() is None


def test_host_that_does_not_boot_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(Host.at("bookworm", tmp_path), tmp_path)
    monkeypatch.setattr(Machine, "command", lambda self, port: ["sh", "-c", "echo no such host >&2; exit 1"])
    monkeypatch.setattr(Machine, "exit_status", lambda self: None)
    with pytest.raises(HypervisorError, match="did not come up.*no such host"):
        machine.run(1, print)


def test_output_is_what_follows_the_first_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(Host.at("bookworm", tmp_path), tmp_path)
    monkeypatch.setattr(Machine, "command", lambda self, port: ["sh", "-c", "echo testhost: up; echo one; echo two"])
    monkeypatch.setattr(Machine, "exit_status", lambda self: 3)
    said: list[bytes] = []
    assert machine.run(10, said.append) == 3
    assert b"".join(said) == b"one\ntwo\n"


def test_last_words_are_one_line_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "console").write_bytes(b"old\n\x1b[0mone\x07\r\n\ntwo\nthree\n")
    assert last_words(tmp_path / "console") == "one | two | three"
