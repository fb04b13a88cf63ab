"""The peers' setups, what is missing, and the file that all share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from xenpv_tools.bench import compare, files, fio, systems
from xenpv_tools.bench.cases import CASES, Case
from xenpv_tools.bench.cpu import process_cpu_ns
from xenpv_tools.bench.measurement import Measurement

from xenpv.errors import StorageError, UsageError, XenpvError

TMPFS = files.Target(Path("/dev/shm/x"), files.MIB, "tmpfs")
DISK = files.Target(Path("/x"), files.MIB, "disk")


@pytest.mark.parametrize("target", [TMPFS, DISK])
def test_raw_at_depth_1_is_pread(target: files.Target) -> None:
    assert [setup.name for setup in systems.raw_setups(CASES["randread-4k-qd1"], target)] == ["psync"]


def test_raw_on_tmpfs_tries_pread_too() -> None:
    assert [setup.job["ioengine"] for setup in systems.raw_setups(CASES["randread-4k-qd32"], TMPFS)] == [
        "psync", "io_uring", "io_uring", "libaio"]


def test_raw_on_a_disk_is_direct_and_asynchronous() -> None:
    setups = systems.raw_setups(CASES["randread-4k-qd32"], DISK)
    assert {setup.job["direct"] for setup in setups} == {1} and "psync" not in {setup.name for setup in setups}


def test_nbdkit_on_a_disk_keeps_no_pages() -> None:
    assert all("cache=none" in setup.server for setup in systems.nbdkit_setups(CASES["randread-4k-qd1"], DISK))


@pytest.mark.parametrize(("target", "read", "write", "fair"), [
    (DISK, 100_000, False, False), (DISK, 1_000_000, False, True), (DISK, None, False, True), (DISK, 0, True, True),
    (TMPFS, 0, False, True),
])
def test_a_disk_that_is_not_read_does_not_count(target: files.Target, read: int | None, write: bool, fair: bool,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "storage_bytes_read", lambda pid: read)
    peer = systems.Nbdkit(target, Path())
    peer._server = systems.nbd_server.Server(1, Path())
    case = Case("case", 1000, 8, write=write)
    peer._ran(case, fio.FioResult(1000, 0, 0, 0, 0, 0, 0))
    if fair:
        assert peer._check_fair() is None
    else:
        with pytest.raises(systems.nbd_server.NbdServerError, match="90% of what was read came from memory"):
            peer._check_fair()


@pytest.mark.parametrize(("target", "direct", "kinds"), [
    (TMPFS, False, ["io_uring", "threads"]), (DISK, True, ["native", "io_uring", "threads"])])
def test_qemu_has_its_best_for_each_storage(target: files.Target, direct: bool, kinds: list[str]) -> None:
    nodes = [json.loads(systems.qemu.command(setup.server, target, systems.nbd_server.Place(Path("/f")))[2])
             for setup in systems.qemu_setups(CASES["randread-4k-qd32"], target)]
    assert [(node["aio"], node["cache"], node["filename"]) for node in nodes] == [
        (kind, {"direct": direct}, str(target.path)) for kind in kinds]


def test_of_a_mix_only_the_reads_come_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "storage_bytes_read", lambda pid: 700_000)
    peer = systems.Nbdkit(DISK, Path())
    peer._server = systems.nbd_server.Server(1, Path())
    peer._ran(Case("case", 1000, 8, reads=70), fio.FioResult(1000, 0, 0, 0, 0, 0, 0))
    assert peer._from_disk == pytest.approx(1.0)


def test_setups_have_names_of_their_own() -> None:
    for case in CASES.values():
        for target in (TMPFS, DISK):
            for setups in (systems.raw_setups(case, target), systems.nbdkit_setups(case, target),
                           systems.qemu_setups(case, target)):
                assert len({setup.name for setup in setups}) == len(setups)


class Tried(systems.Raw):
    """Does not run fio."""

    def __init__(self, found: dict[str, float | Exception]) -> None:
        super().__init__(TMPFS, Path())
        self.found = found

    def run(self, case: object, seconds: float) -> Measurement:
        assert self._setup is not None
        iops = self.found[self._setup.name]
        if isinstance(iops, Exception):
            raise iops
        return Measurement(iops, 0, 0, 0, 0)

    def _start_and_end(self, case: object, setup: systems.Setup) -> float:
        return 0.0


def test_the_fastest_setup_runs_and_what_others_did_is_said() -> None:
    peer = Tried({"psync": 5, "io_uring": 9, "io_uring, fixed buffers and file": fio.FioError("no"), "libaio": 2})
    options = peer.prepare(CASES["randread-4k-qd32"], 0.1)
    assert options["setup"] == "io_uring"
    assert options["tried_iops"] == {"psync": 5, "io_uring": 9, "io_uring, fixed buffers and file": "no", "libaio": 2}


def test_what_ran_is_what_fio_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[str] = []

    def run(options: fio.Options, folder: Path, seconds: float = 0.0) -> fio.FioResult:
        given.append(fio.job_text(options))
        return fio.FioResult(10, 10, 10, 1, 1, 1, 1)

    monkeypatch.setattr(fio, "run", run)
    peer = systems.Raw(TMPFS, tmp_path)
    peer.prepare(CASES["randread-4k-qd1"], 0.1)
    peer.run(CASES["randread-4k-qd1"], 1.5)
    assert peer.ran_as() == {"fio_job": given[-1], "server": None}
    assert {"rw=randread", "runtime=1500ms", "time_based", "ioengine=psync"} < set(given[-1].splitlines())


def test_when_no_setup_works_the_reasons_are_told() -> None:
    with pytest.raises(systems.NotRun, match="psync: no"):
        Tried({"psync": fio.FioError("no")}).prepare(CASES["randread-4k-qd1"], 0.1)


@pytest.mark.parametrize(("program", "peer"), [
    ("fio", systems.Nbdkit), ("nbdkit", systems.Nbdkit), ("qemu-storage-daemon", systems.QemuStorageDaemon)])
def test_a_missing_program_is_said(program: str, peer: type[systems.NbdPeer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else f"/{name}")
    with pytest.raises(systems.NotRun, match=f"{program} is not installed"):
        peer(TMPFS, Path()).__enter__()


def test_what_is_missing_is_in_the_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(files, "TMPFS", tmp_path)
    plan = compare.Plan(list(CASES.values()), ["raw", "nbdkit"], ["tmpfs"], 0.1, 1, files.MIB)
    answer = compare.compare(plan, lambda line: None)
    assert answer["results"] == []
    assert [(entry["system"], entry["storage"]) for entry in answer["not_run"]] == [
        ("raw", "tmpfs"), ("nbdkit", "tmpfs")]
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_filled_and_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "TMPFS", tmp_path)
    with pytest.raises(KeyboardInterrupt), files.target("tmpfs", 2 * files.MIB) as made:
        assert made.path.stat().st_blocks * 512 >= made.size == made.path.stat().st_size
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, -1, files.MIB + 512])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(UsageError, match="MiB"), files.target("tmpfs", size):
        pass


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="has room for"), files.target("disk", 1 << 60, tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_had_is_not_run_and_says_so(tmp_path: Path) -> None:
    plan = compare.Plan(list(CASES.values()), ["xenpv", "raw"], ["disk"], 0.1, 1, 1 << 60, directory=tmp_path)
    answer = compare.compare(plan, lambda line: None)
    assert [(entry["system"], "has room for" in entry["reason"]) for entry in answer["not_run"]] == [
        ("xenpv", True), ("raw", True)]


def test_memory_is_no_disk() -> None:
    if files.filesystem(Path("/dev/shm")) != "tmpfs":
        pytest.skip("/dev/shm is no tmpfs here")
    with pytest.raises(StorageError, match="in memory"), files.target("disk", files.MIB, Path("/dev/shm")):
        pass


def test_cpu_time_of_a_process_that_ended_is_an_error() -> None:
    with pytest.raises(XenpvError, match="has ended"):
        process_cpu_ns(2 ** 22 + 1)
