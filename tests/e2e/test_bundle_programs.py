"""A bundle as other people's programs see it, judged by what they print: sfdisk and sgdisk exit with 0 whatever they find."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.corpus.bundle import make
from tests.support.bundles import opened
from xenpv.errors import BundleError
from xenpv.wire.bundle import partition_id
from xenpv_tools import cli
from xenpv_tools.bundle.actions import shell_script
from xenpv_tools.bundle.reader import open_bundle

Requires = Callable[[str], str]
IMAGES = {"kernel": random.Random(1).randbytes(3_000_001), "root": random.Random(2).randbytes(5 << 20), "empty": b"",
          "a-name-of-36-characters-is-the-most_": b"short"}


def xenpv(*words: str | Path) -> None:
    assert cli.main(["bundle", *map(str, words)]) == 0


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for name, data in IMAGES.items():
        (tmp_path / name).write_bytes(data)
    xenpv("create", tmp_path / "guest.xpb", *(tmp_path / name for name in IMAGES), "--cmdline", "console=hvc0 ro")
    return tmp_path / "guest.xpb"


def changed(bundle: Path) -> Path:
    """The same after a few changes: images out of order, gaps, one more partition."""
    more = bundle.parent / "more"
    more.write_bytes(random.Random(3).randbytes(700_000))
    xenpv("add", bundle, more)
    xenpv("replace", bundle, f"kernel={more}")
    xenpv("rm", bundle, "root")
    return bundle


def said(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "LC_ALL": "C"})
    return done.stdout + done.stderr


@pytest.mark.parametrize("change", [lambda bundle: bundle, changed], ids=["new", "changed"])
class TestTables:
    @pytest.mark.peer
    def test_sfdisk(self, requires: Requires, bundle: Path, change: Callable[[Path], Path]) -> None:
        text = said(requires("sfdisk"), "--verify", change(bundle))
        assert "No errors detected." in text and "Using 3 out of 128 partitions." in text

    @pytest.mark.peer
    def test_sgdisk(self, requires: Requires, bundle: Path, change: Callable[[Path], Path]) -> None:
        text = said(requires("sgdisk"), "-v", change(bundle))
        assert "No problems found." in text and "Identified" not in text and "invalid" not in text.lower()

    @pytest.mark.peer
    def test_blkid(self, requires: Requires, bundle: Path, change: Callable[[Path], Path]) -> None:
        with open_bundle(str(change(bundle))) as found:
            wanted = f'PTUUID="{found.id}" PTTYPE="gpt"'
        assert wanted in said(requires("blkid"), "-p", bundle)


@pytest.mark.peer
def test_sgdisk_sees_the_names_and_the_attributes(requires: Requires, bundle: Path) -> None:
    text = said(requires("sgdisk"), "-i", "1", bundle)
    with open_bundle(str(bundle)) as found:
        assert f"unique GUID: {partition_id(found.id, 'kernel')}".upper() in text.upper()
    assert "Partition name: 'kernel'" in text and "Attribute flags: 9000000000000000" in text


@contextmanager
def loop(losetup: str, path: Path, *options: str) -> Iterator[Path]:
    """A loop device, or a skip."""
    if os.geteuid():
        pytest.skip("needs root for a loop device")
    done = subprocess.run([losetup, "--find", "--show", *options, str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run([losetup, "--detach", device], check=True)


@pytest.mark.peer
def test_the_kernels_partition_scan(requires: Requires, bundle: Path, until: Callable[..., None]) -> None:
    with loop(requires("losetup"), bundle, "--partscan", "--read-only") as device:
        folder = Path("/sys/block") / device.name
        if not Path(f"{device}p1").exists() and not (folder / f"{device.name}p1").exists():
            pytest.skip("this kernel does not scan the partitions of loop devices")
        until(lambda: Path(f"{device}p3").exists(), "the partitions' device nodes")
        for number, data in enumerate((data for data in IMAGES.values() if data), 1):
            node = folder / f"{device.name}p{number}"
            content = Path(f"{device}p{number}").read_bytes()
            assert content == data + bytes(-len(data) % 4096) and len(content) == int((node / "size").read_text()) * 512
        lines = [line for number in (1, 2, 3) for line in (folder / f"{device.name}p{number}/uevent").read_text().splitlines()]
        names = [line.removeprefix("PARTNAME=") for line in lines if line.startswith("PARTNAME=")]
        assert names == [name for name, data in IMAGES.items() if data]


@pytest.mark.peer
def test_on_a_block_device(requires: Requires, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(random.Random(4).randbytes(16 << 20))
    with loop(requires("losetup"), disk) as device:
        xenpv("create", "-f", device, *(tmp_path / name for name in IMAGES))
        xenpv("replace", device, f"kernel={tmp_path / 'root'}")
        xenpv("verify", device)
        assert cli.main(["bundle", "add", str(device), f"more={bundle}"]) == 1
        assert "there is no gap for" in capfd.readouterr().err
        xenpv("extract", device, "kernel", "-d", tmp_path / "out")
        assert (tmp_path / "out/kernel").read_bytes() == IMAGES["root"]
    assert "No problems found." in said(requires("sgdisk"), "-v", disk)


@pytest.mark.peer
def test_extract_to_a_block_device(requires: Requires, bundle: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xff" * (6 << 20))
    with loop(requires("losetup"), disk) as device:
        xenpv("extract", bundle, "root", "-o", device)
    assert disk.read_bytes() == IMAGES["root"] + b"\xff" * (1 << 20)


# ---- the extractor for guests --------------------------------------------------------------------------------------

@pytest.fixture(params=["busybox", pytest.param("dash", marks=pytest.mark.stress)])
def extractor(request: pytest.FixtureRequest, requires: Requires, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """`extractor("list", path)`: exit status, stdout, stderr. With busybox, none but its own programs are there."""
    program = requires(request.param)
    script = tmp_path / "xenpv-extract"
    script.write_text(shell_script("extract"))
    environment = {**os.environ}
    argv = [program, str(script)]
    if request.param == "busybox":
        place = tmp_path / "bin"
        place.mkdir()
        for name in ("cat", "dd", "head", "tail", "sha256sum", "mkdir", "mv", "rm", "od"):
            (place / name).symlink_to(program)
        environment["PATH"] = str(place)
        argv = [program, "sh", str(script)]

    def run(*words: str | Path) -> tuple[int, str, str]:
        done = subprocess.run([*argv, *map(str, words)], capture_output=True, text=True, env=environment, cwd=tmp_path,
                              timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


Run = Callable[..., tuple[int, str, str]]


def test_extractor_lists(extractor: Run, bundle: Path) -> None:
    status, out, err = extractor("list", bundle)
    with open_bundle(str(bundle)) as found:
        wanted = [f"{each.name} {each.kind} {each.size} {each.offset} {each.sha256.hex()}" for each in found.images]
    assert (status, out.splitlines(), err) == (0, wanted, "")


def test_extractor_extracts(extractor: Run, bundle: Path, tmp_path: Path) -> None:
    status, out, err = extractor("extract", "-d", "out", bundle)
    assert (status, err) == (0, "")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == IMAGES


def test_extractor_takes_names(extractor: Run, bundle: Path, tmp_path: Path) -> None:
    assert extractor("extract", "-d", "out", bundle, "root")[0] == 0
    assert os.listdir(tmp_path / "out") == ["root"]
    assert extractor("check", bundle, "nothing")[0] == 1


def test_extractor_does_not_write_over_files(extractor: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/root").symlink_to(tmp_path / "elsewhere")
    assert extractor("extract", "-d", "out", bundle, "root")[0] == 1
    assert not (tmp_path / "elsewhere").exists()
    assert extractor("extract", "-f", "-d", "out", bundle, "root")[0] == 0
    assert not (tmp_path / "elsewhere").exists() and (tmp_path / "out/root").read_bytes() == IMAGES["root"]


def test_extractor_finds_damage(extractor: Run, bundle: Path, tmp_path: Path) -> None:
    with open_bundle(str(bundle)) as found, open(bundle, "r+b") as file:
        file.seek(found.image("root").offset + 4_000_000)
        file.write(b"damage")
    status, out, _ = extractor("check", bundle)
    assert status == 1 and "root: NOT ok" in out and "kernel: ok" in out
    assert extractor("extract", "-d", "out", bundle, "root")[0] == 1 and os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("damaged", [(0,), (1,), (0, 1)])
def test_extractor_with_a_damaged_slot(extractor: Run, bundle: Path, damaged: tuple[int, ...]) -> None:
    with open(bundle, "r+b") as file:
        for slot in damaged:
            file.seek(32768 + slot * ((1 << 20) - 32768) // 2 // 4096 * 4096 + 200)
            file.write(b"damage")
    status, out, err = extractor("check", bundle)
    if len(damaged) == 1:
        assert status == 0 and out.count("ok") == 4
    else:
        assert status == 1 and "no slot holds a whole index" in err


def test_extractor_takes_the_higher_generation(extractor: Run, bundle: Path, tmp_path: Path) -> None:
    first = bundle.read_bytes()[:32768 + 65536]
    xenpv("replace", bundle, "--cmdline", "quiet")
    with open(bundle, "r+b") as file:
        file.write(first)
    assert extractor("cmdline", bundle)[:2] == (0, "quiet\n")


def test_extractor_to_standard_output(extractor: Run, bundle: Path, tmp_path: Path) -> None:
    assert extractor("cat", bundle, "a-name-of-36-characters-is-the-most_")[:2] == (0, "short")
    with open_bundle(str(bundle)) as found:
        assert extractor("id", bundle)[1] == f"{found.id}\n"


def opens(data: bytes | bytearray) -> bool:
    try:
        opened(data)
    except BundleError:
        return False
    return True


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.stress)], ids=["one-a-reason", "every"])
def test_extractor_refuses_what_the_reader_refuses(extractor: Run, tmp_path: Path, every: bool) -> None:
    """The malformed texts of the corpus; what only the tables and the images show is not its business."""
    (tmp_path / "in").mkdir()
    tried = set()
    wrong, beyond = [], {"id", "cmdline", "kind", "duplicate", "overlap", "empty", "io", "size", "signature", "sha256"}
    for name, data, reason, _ in make.cases():
        if reason in tried and not every:
            continue
        tried.add(reason)
        path = tmp_path / "in" / name
        path.write_bytes(data)
        before = hashlib.sha256(data).digest()
        status, _, err = extractor("extract", "-f", "-d", "out", path)
        single = not opens(data)
        if single and reason not in beyond and status != 1 or not single and reason not in ("digest", "cut", "io") and status:
            wrong.append((name, reason, status, err))
        assert before == hashlib.sha256(path.read_bytes()).digest()
        there = set(os.listdir(tmp_path / "out")) if (tmp_path / "out").exists() else set()
        assert all(name.isalnum() for name in there), (name, there)
    assert wrong == []
    assert sorted(os.listdir(tmp_path)) == sorted({"in", "out", "xenpv-extract"} | ({"bin"} & set(os.listdir(tmp_path))))
