"""`xenpv bench --guest`: the line between dom0 and guest on an emulated Xen's store, the disks that are found, the table."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from xenpv_tools.bench import report
from xenpv_tools.bench.cases import GUEST_CASES
from xenpv_tools.bench.fio import FioError, FioResult
from xenpv_tools.bench.fio import run as run_fio
from xenpv_tools.bench.guest_agent import check_free, guest_job, serve
from xenpv_tools.bench.guest_compare import EXPLANATIONS, GuestPlan, best_ratio, compare_in_guest, per_1000
from xenpv_tools.bench.guest_disks import find_disks
from xenpv_tools.bench.guest_line import NODE, NOT_INSTALLED, Ask, GuestLine, Machine, decode_result, encode_answer

from tests.support.fake_store import FakeStore
from xenpv.domain import Store
from xenpv.errors import DeviceError, HypervisorError, RemoteProtocolError, StorageError, UsageError, XenpvError
from xenpv.hypervisors import open_domain
from xenpv.hypervisors.emulated import host

CASE = GUEST_CASES["randread-4k-qd32"]
RESULT = FioResult(1000, 500.0, 2048000.0, 60.0, 90.0, 1.5, 1.25)


@pytest.mark.parametrize("case", GUEST_CASES.values(), ids=lambda case: str(case.name))
def test_a_question_arrives_as_it_was_asked(case: Any) -> None:
    ask = Ask(7, case, "xvdb", 1.5)
    assert Ask.decode(ask.encode().encode()) == ask


@pytest.mark.parametrize("change", [
    {"rw": "trim"}, {"rw": 1}, {"block": 1000}, {"block": -4096}, {"depth": "32"}, {"depth": 1e9}, {"vdev": "../etc/passwd"},
    {"vdev": "vda"}, {"vdev": None}, {"seconds": float("nan")}, {"seconds": 1e9}, {"number": True}])
def test_a_question_that_cannot_be_meant_is_refused(change: dict[str, Any]) -> None:
    asked = {**json.loads(Ask(7, CASE, "xvdb", 1.0).encode()), **change}
    with pytest.raises(XenpvError):
        Ask.decode(json.dumps(asked).encode())


@pytest.mark.parametrize("change", [
    {"iops": "many"}, {"iops": -1}, {"iops": float("inf")}, {"iops": 0}, {"ios": 0}, {"ios": None}, {"p99_us": [1]},
    {"p50_us": 1e300}, {"bytes_per_second": True}, {"iops": 10**400}, {"ios": 10**400}])
def test_an_answer_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_result({**json.loads(encode_answer(1, RESULT)), **change})


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 2000, b'{"cpus": 1' + b"0" * 400 + b"}",
                                 b'{"cpus": 1}', b'{"cpus": "1", "kernel": "6.1", "fio": "3"}'])
def test_what_a_guest_is_must_be_said_as_agreed(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Machine.decode(raw)


def test_what_a_guest_says_cannot_move_the_cursor() -> None:
    found = Machine.decode(json.dumps({"cpus": 1, "kernel": "6.1\x1b[2J", "fio": "3.33"}).encode())
    assert found.kernel.isprintable()


@pytest.fixture
def dom0(uri: str) -> Iterator[Store]:
    with open_domain(uri) as domain:
        yield domain.store


@pytest.fixture
def domid(uri: str) -> int:
    return int(host.request(uri.removeprefix("emulated:"), "create", name="guest")["domid"])


class Guest:
    """An agent in a thread; `asked` is what it was asked, `finds` what it answers for a disk. xvdc fails."""

    def __init__(self, uri: str, domid: int) -> None:
        self.asked: list[Ask] = []
        self.finds: dict[str, FioResult | BaseException] = {"xvdc": FioError("no room\nfor fio")}
        self.up = threading.Event()
        self.complaints: list[str] = []
        self._uri, self._domid = uri, domid
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(SystemExit), open_domain(f"{self._uri}#{self._domid}") as domain:
            serve(domain.store, self._say, self._run, Machine(1, "6.1", "3.33"))

    def _say(self, text: str) -> None:
        self.complaints.append(text)
        self.up.set()

    def _run(self, ask: Ask) -> FioResult:
        self.asked.append(ask)
        found = self.finds.get(ask.vdev, RESULT)
        if isinstance(found, BaseException):
            raise found
        return found

    def join(self) -> None:
        self._thread.join()


@pytest.fixture
def guest(uri: str, domid: int, dom0: Store) -> Iterator[Guest]:
    agent = Guest(uri, domid)
    assert agent.up.wait(10)
    yield agent
    if dom0.exists(f"/local/domain/{domid}/{NODE}"):
        dom0.remove(f"/local/domain/{domid}/{NODE}/ask")
    agent.join()


def test_a_run_is_asked_for_and_answered(guest: Guest, dom0: Store, domid: int) -> None:
    line = GuestLine(dom0, domid, patience=10)
    assert [line.run(CASE, vdev, 0.5) for vdev in ("xvda", "xvdb")] == [RESULT, RESULT]
    assert [(ask.case, ask.vdev, ask.seconds) for ask in guest.asked] == [(CASE, "xvda", 0.5), (CASE, "xvdb", 0.5)]


def test_the_next_bench_finds_the_same_agent(guest: Guest, dom0: Store, domid: int) -> None:
    for _ in range(2):
        line = GuestLine(dom0, domid, patience=10)
        assert line.run(CASE, "xvda", 0.5) == RESULT and line.machine.cpus >= 1


def test_a_failure_in_the_guest_is_one_line_here(guest: Guest, dom0: Store, domid: int) -> None:
    with pytest.raises(HypervisorError, match="xvdc in the guest: no room") as raised:
        GuestLine(dom0, domid, patience=10).run(CASE, "xvdc", 0.5)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("text", ["\x00" * 900, "\U0001f4be" * 900, "\udcff" * 900, "\\" * 900])
def test_a_failure_fits_into_a_node(text: str) -> None:
    assert len(encode_answer(2**33, text)) <= 2000


def test_a_question_that_makes_no_sense_leaves_the_agent_alive(guest: Guest, dom0: Store, domid: int) -> None:
    dom0.write(f"/local/domain/{domid}/{NODE}/ask", '{"number": 5, "rw": "format"}')
    assert GuestLine(dom0, domid, patience=10).run(CASE, "xvda", 0.5) == RESULT


def test_without_an_agent_the_mend_is_named(dom0: Store, domid: int) -> None:
    with pytest.raises(HypervisorError, match="xenpv bench --agent"):
        GuestLine(dom0, domid)


def test_an_agent_that_has_ended_is_not_taken_for_one(guest: Guest, dom0: Store, domid: int) -> None:
    dom0.remove(f"/local/domain/{domid}/{NODE}/ask")
    guest.join()
    assert not dom0.exists(f"/local/domain/{domid}/{NODE}")
    with pytest.raises(HypervisorError, match="xenpv bench --agent"):
        GuestLine(dom0, domid)


def test_a_guest_without_fio_is_told_so_at_once(dom0: Store, domid: int) -> None:
    dom0.write(f"/local/domain/{domid}/{NODE}/about", Machine(1, "6.1", NOT_INSTALLED).encode())
    with pytest.raises(HypervisorError, match="apt-get install fio"):
        GuestLine(dom0, domid)


def test_a_program_that_cannot_be_started_leaves_the_agent_alive(guest: Guest, dom0: Store, domid: int) -> None:
    guest.finds = {"xvdb": FileNotFoundError(2, "No such file or directory", "fio")}
    line = GuestLine(dom0, domid, patience=10)
    with pytest.raises(HypervisorError, match="xvdb in the guest: .*No such file"):
        line.run(CASE, "xvdb", 0.5)
    assert line.run(CASE, "xvda", 0.5) == RESULT


def test_without_fio_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FioError, match="apt-get install fio"):
        run_fio({}, tmp_path)


def test_an_answer_to_another_question_is_not_taken(dom0: Store, domid: int) -> None:
    dom0.write(f"/local/domain/{domid}/{NODE}/about", Machine(1, "6.1", "3.33").encode())
    dom0.write(f"/local/domain/{domid}/{NODE}/answer", encode_answer(1, RESULT))
    with pytest.raises(HypervisorError, match="did not answer"):
        GuestLine(dom0, domid, patience=0.05).run(CASE, "xvda", 0.01)


def test_the_job_is_of_that_disk_without_the_page_cache() -> None:
    job = guest_job(CASE, "xvdb")
    assert (job["filename"], job["direct"], job["rw"], job["iodepth"]) == ("/dev/xvdb", 1, "randread", 32)


def test_no_file_is_measured_on(tmp_path: Path) -> None:
    (tmp_path / "xvda").touch()
    with pytest.raises(StorageError, match="no block device"):
        check_free(tmp_path / "xvda")


def vbd(kind: str, number: int, more: dict[str, str] = {}, domid: int = 3) -> dict[str, bytes | str]:
    front, back = f"/local/domain/{domid}/device/vbd/{number}", f"/local/domain/0/backend/{kind}/{domid}/{number}"
    return {f"/libxl/{domid}/device/vbd/{number}/backend": back,
            f"{front}/state": "4", f"{back}/state": "4", f"{back}/mode": "w",
            f"{back}/params": "/dev/ram0", f"{back}/sectors": "2048", f"{back}/sector-size": "512",
            **{f"{back}/{name}": value for name, value in more.items()}}


OURS = {"xenpv-handover": "1"}
XVDA, XVDB, XVDC = 51712, 51728, 51744


def test_each_disk_is_named_by_who_serves_it() -> None:
    store = FakeStore({**vbd("vbd", XVDA), **vbd("qdisk", XVDB), **vbd("vbd", XVDC, OURS)})
    found = find_disks(store, 3, ["xvdc", "xvda", "xvdb"], {}, True)  # type: ignore[arg-type]
    assert [(disk.name, disk.vdev, disk.size) for disk in found] == [
        ("xenpv", "xvdc", 1 << 20), ("blkback", "xvda", 1 << 20), ("qdisk", "xvdb", 1 << 20)]


def test_two_of_one_backend_have_their_names_too() -> None:
    store = FakeStore({**vbd("vbd", XVDA, OURS), **vbd("vbd", XVDB, OURS)})
    found = find_disks(store, 3, ["xvda", "xvdb"], {}, True)  # type: ignore[arg-type]
    assert [disk.name for disk in found] == ["xenpv xvda", "xenpv xvdb"]


def test_the_setup_of_our_own_says_how_long_the_backend_spins() -> None:
    served = {"engine": "io_uring", "storage": {"cache": "none"}, "spin_us": 70}
    found, = find_disks(FakeStore(vbd("vbd", XVDA, OURS)), 3, ["xvda"], {(3, XVDA): served}, True)  # type: ignore[arg-type]
    assert found.setup == "/dev/ram0, io_uring, none, spin 70 us, 1 x 32 entries"


@pytest.mark.parametrize(("names", "more", "error"), [
    ([], {}, UsageError), (["xvda", "xvda"], {}, UsageError), (["xvdb"], {}, DeviceError),
    (["xvda"], {"state": "2"}, DeviceError), (["xvda"], {"mode": "r"}, DeviceError)])
def test_disks_that_cannot_be_measured_are_refused(names: list[str], more: dict[str, str], error: type[XenpvError]) -> None:
    with pytest.raises(error):
        find_disks(FakeStore(vbd("vbd", XVDA, more)), 3, names, {}, True)  # type: ignore[arg-type]


@pytest.fixture
def plan(dom0: Store, domid: int, tmp_path: Path) -> GuestPlan:
    """Two cases on three disks of the guest: xvdc is ours, xvda blkback's, xvdb QEMU's. No backend runs."""
    dom0.write_all({**vbd("vbd", XVDA, domid=domid), **vbd("qdisk", XVDB, domid=domid), **vbd("vbd", XVDC, OURS, domid)})
    return GuestPlan(domid, ["xvdc", "xvda", "xvdb"], [CASE, GUEST_CASES["randread-4k-qd1"]], 0.01, 2, tmp_path)


def ran(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["case"], row["system"]) for row in found["results"]]


@pytest.mark.parametrize("finds", [FioError("no room"), FioResult(1000, float("nan"), 2048000.0, 60.0, 90.0, 1.5, 1.25)],
                         ids=["it says why", "it says what cannot be"])
def test_a_disk_that_fails_costs_nobody_elses_figures(guest: Guest, plan: GuestPlan, dom0: Store,
                                                      finds: FioResult | BaseException) -> None:
    guest.finds = {"xvdb": finds}
    found = compare_in_guest(plan, dom0, {}, print)
    assert ran(found) == [(case.name, system) for case in plan.cases for system in ("xenpv", "blkback")]
    assert [(row["case"], row["system"]) for row in found["not_run"]] == [(case.name, "qdisk") for case in plan.cases]


def test_the_cpu_time_of_both_sides_is_in_a_row(guest: Guest, plan: GuestPlan, dom0: Store) -> None:
    row, = compare_in_guest(replace(plan, disks=["xvda"], cases=[CASE]), dom0, {}, print)["results"]
    assert row["guest_cpu_us_per_io"] == RESULT.run_cpu_seconds * 1e6 / RESULT.ios and row["cpu_us_per_io"] >= 0


def test_who_does_not_answer_is_not_waited_for_again(plan: GuestPlan, dom0: Store, domid: int) -> None:
    dom0.write(f"/local/domain/{domid}/{NODE}/about", Machine(1, "6.1", "3.33").encode())
    dom0.write(f"/local/domain/{domid}/{NODE}/answer", "")
    found = compare_in_guest(replace(plan, patience=0.05), dom0, {}, print)
    asked = Ask.decode(dom0.read(f"/local/domain/{domid}/{NODE}/ask"))
    assert (asked.case, asked.vdev) == (CASE, "xvdc"), "the first question is the last"
    assert found["results"] == [] and {entry["reason"] for entry in found["not_run"]} == {
        "the guest did not answer within 0.06 s: does `xenpv bench --agent` still run there?"}
    assert len(found["not_run"]) == 6


def test_an_agent_that_ends_in_the_middle_leaves_what_was_measured(guest: Guest, plan: GuestPlan, dom0: Store) -> None:
    guest.finds = {"xvdb": SystemExit()}
    first, = plan.cases[:1]
    found = compare_in_guest(replace(plan, disks=["xvda", "xvdc", "xvdb"], runs=1), dom0, {}, print)
    assert ran(found) == [(first.name, "blkback"), (first.name, "xenpv")]
    assert {entry["reason"] for entry in found["not_run"]} == {
        "the guest did not answer: `xenpv bench --agent` has ended there"}


def row(backend: str, iops: float, system: str = "") -> dict[str, Any]:
    return {"case": CASE.name, "system": system or backend, "storage": "guest", "iops": iops, "bytes_per_second": iops * 4096,
            "p50_us": 12.3, "p99_us": 45.6, "cpu_us_per_io": 7.8, "guest_cpu_us_per_io": 9.1, "iops_of_runs": [iops],
            "options": {"setup": f"setup of {backend}", "backend": backend, "vdev": "xvda", "fio_job": "[bench]\nrw=read\n"}}


def test_the_ratio_is_to_the_better_peer() -> None:
    assert best_ratio([row("xenpv", 300), row("blkback", 200), row("qdisk", 100)], CASE.name) == 1.5


@pytest.mark.parametrize("rows", [[row("xenpv", 3)], [row("blkback", 3)], [row("xenpv", 3), row("qdisk", 0)]])
def test_without_both_there_is_no_ratio(rows: list[dict[str, Any]]) -> None:
    assert best_ratio(rows, CASE.name) is None


def test_counters_are_for_1000_requests() -> None:
    before = {"notifications": 10, "events": 0, "sleeps": 5, "batches": 0, "requests": 100}
    after = {"notifications": 30, "events": 10, "sleeps": 5, "batches": 100, "requests": 2100}
    assert per_1000(before, after) == {"notifications": 10.0, "events": 5.0, "sleeps": 0.0, "batches": 50.0}


def test_what_people_see() -> None:
    text = report.guest({
        "results": [row("xenpv", 300), row("blkback", 200)],
        "not_run": [{"case": "all", "system": "qdisk", "storage": "guest", "reason": "no QEMU"}],
        "guest": {"cpus": 1, "kernel": "6.1", "fio": "3.33"}, "versions": {"xenpv": "0.1.0", "Xen": "4.17"},
        "processors": {"count": 2, "model": "a processor"}, "load_average": {"before": [0.1], "after": [0.2]},
        "options": {"seconds": 1.0, "runs": 3, "size": 1 << 26, "pinning": "none"}, "how": EXPLANATIONS})
    own = next(line for line in text.splitlines() if "setup of xenpv" in line)
    assert {"300", "1.50", "7.8", "9.1"} < set(own.split()) and "guest, all, qdisk: not run: no QEMU" in text
