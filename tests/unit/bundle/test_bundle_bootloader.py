"""The boot loader for xl: its options and output as libxl has them, private copies, one line for what is wrong."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path

import pytest

from tests.corpus.bundle import make
from xenpv_tools import cli
from xenpv_tools.bundle import boot
from xenpv_tools.bundle.bootloader import drop_rights
from xenpv_tools.bundle.reader import open_bundle

KERNEL = random.Random(1).randbytes(70_001)
RAMDISK = random.Random(2).randbytes(9_000)
ROWS = {row.split("\t")[0]: row.split("\t")[1:] for row in (make.HERE / "MANIFEST").read_text().splitlines()}


def libxl(data: bytes) -> dict[str, str]:
    """What libxl's parse_bootloader_result() (libxl_bootloader.c) makes of the result."""
    found: dict[str, str] = {}
    for item in data.split(b"\0"):
        assert len(item) < 8192
        for name in (b"kernel", b"ramdisk", b"args"):
            rest = item.removeprefix(name)
            if rest != item and (not rest or rest[:1].isspace()):
                found[name.decode()] = rest.lstrip().decode()
                break
        else:
            assert not item, f"libxl warns of {item!r}"
    return found


class Loader:
    """The boot loader as libxl runs it: the result to a file, the copies to a directory."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capfd = folder, capfd
        self.output, self.directory, self.bundle = folder / "out", folder / "copies", folder / "guest.xpb"
        self.directory.mkdir()

    def run(self, *words: str) -> int:
        return cli.main(["bundle", "bootloader", *words, str(self.bundle)])

    def __call__(self, *words: str) -> dict[str, str]:
        """What libxl reads."""
        status = self.run(*words, f"--output={self.output}", "--output-format=simple0",
                          f"--output-directory={self.directory}")
        out, err = self.capfd.readouterr()
        assert (status, out, err) == (0, "", "")
        return libxl(self.output.read_bytes())

    def fails(self, *words: str, status: int = 1) -> str:
        """The one line; nothing was handed out, and nothing is left."""
        assert self.run(*words, f"--output={self.output}", "--output-format=simple0",
                        f"--output-directory={self.directory}") == status
        out, err = self.capfd.readouterr()
        assert not out and err.startswith("xenpv: ") and err.count("\n") == 1 and err.endswith("\n")
        assert not self.output.exists() or not self.output.read_bytes()
        assert not list(self.directory.iterdir())
        return err

    def make(self, *words: str, cmdline: str | None = "console=hvc0") -> None:
        given = [] if cmdline is None else ["--cmdline", cmdline]
        assert cli.main(["bundle", "create", "-f", str(self.bundle), *words, *given]) == 0
        self.capfd.readouterr()


@pytest.fixture
def loader(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Loader:
    monkeypatch.chdir(tmp_path)
    for name, content in {"vmlinuz": KERNEL, "initrd": RAMDISK, "image": b"root" * 5000, "nothing": b""}.items():
        (tmp_path / name).write_bytes(content)
    loader = Loader(tmp_path, capfd)
    loader.make("kernel=vmlinuz", "ramdisk=initrd", "root=image")
    return loader


def root_of(loader: Loader) -> str:
    with open_bundle(str(loader.bundle)) as bundle:
        return f"root=PARTUUID={bundle.partition_id(bundle.image('root'))}"


def id_of(loader: Loader) -> str:
    with open_bundle(str(loader.bundle)) as bundle:
        return f"xenpv.bundle={bundle.id}"


def test_copies_are_whole_private_and_in_the_directory(loader: Loader) -> None:
    found = loader()
    for name, content in (("kernel", KERNEL), ("ramdisk", RAMDISK)):
        path = Path(found[name])
        assert path.parent == loader.directory and path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(loader.directory.iterdir())) == 2


def test_root_is_named_by_its_partition_and_the_bundle_by_its_id(loader: Loader) -> None:
    assert loader("--args=quiet 3")["args"] == f"{root_of(loader)} console=hvc0 quiet 3 {id_of(loader)}"


def test_root_that_is_given_stays(loader: Loader) -> None:
    assert loader("--args=root=/dev/xvda3")["args"] == f"console=hvc0 root=/dev/xvda3 {id_of(loader)}"


def test_label_of_an_image_becomes_its_partition_s_id(loader: Loader) -> None:
    loader.make("kernel=vmlinuz", "root=image", cmdline="root=PARTLABEL=root ro")
    assert loader()["args"] == f"{root_of(loader)} ro {id_of(loader)}"


def test_label_of_another_disk_stays(loader: Loader) -> None:
    assert "root=PARTLABEL=other " in loader("--args=root=PARTLABEL=other")["args"]


def test_without_a_ramdisk_and_a_command_line(loader: Loader) -> None:
    loader.make("kernel=vmlinuz", cmdline=None)
    found = loader()
    assert found.keys() == {"kernel", "args"} and found["args"] == id_of(loader)
    assert [str(path) for path in loader.directory.iterdir()] == [found["kernel"]]


def test_images_may_be_named(loader: Loader) -> None:
    loader.make("kernel=vmlinuz", "data:other=image", "data:disk=initrd")
    found = loader("--kernel=other", "--ramdisk=disk")
    assert Path(found["kernel"]).read_bytes() == b"root" * 5000
    assert Path(found["ramdisk"]).read_bytes() == RAMDISK


def test_every_option_that_libxl_and_people_give_pygrub(loader: Loader) -> None:
    assert "kernel" in loader("--quiet", "--offset=0", "--entry=1", "-q", "--debug", "-i", "--args", "single")


def test_result_goes_to_a_fifo(loader: Loader) -> None:
    os.mkfifo(loader.output)
    reader = os.open(loader.output, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert loader.run(f"--output={loader.output}", "--output-format=simple0",
                          f"--output-directory={loader.directory}") == 0
        assert libxl(os.read(reader, 65536)).keys() == {"kernel", "ramdisk", "args"}
    finally:
        os.close(reader)


def test_default_form_is_pygrub_s(loader: Loader) -> None:
    assert loader.run(f"--output-directory={loader.directory}") == 0
    kernel, ramdisk = sorted(loader.directory.iterdir())
    out = loader.capfd.readouterr().out
    assert out == f'linux (kernel {kernel})(ramdisk {ramdisk})(args "{root_of(loader)} console=hvc0 {id_of(loader)}")'


def test_text_that_the_form_cannot_hold_is_refused(loader: Loader) -> None:
    assert loader.run("--args=a\"b", f"--output-directory={loader.directory}") == 2
    assert "use simple0" in loader.capfd.readouterr().err
    assert not list(loader.directory.iterdir())


@pytest.mark.parametrize("option", ["-l", "-n"])
def test_looking_copies_nothing_and_names_no_path(loader: Loader, option: str) -> None:
    assert loader.run(option, f"--output-directory={loader.directory}") == 0
    out = loader.capfd.readouterr().out
    assert "kernel" in out and str(loader.folder) not in out.replace(str(loader.bundle), "")
    assert not list(loader.directory.iterdir())


@pytest.mark.parametrize(("words", "said"), [
    (["--kernel=none"], "no image 'none'"), (["--offset=512"], "a bundle begins with the disk"),
    (["--args=a\nb"], "only printable text"), (["--runas=nobody-of-this-name"], "no user"),
    (["--isconfig"], "no configuration"),
])
def test_what_cannot_be_meant_is_one_line(loader: Loader, words: list[str], said: str) -> None:
    assert said in loader.fails(*words, status=2)


def test_damaged_kernel_is_not_handed_out(loader: Loader) -> None:
    with open_bundle(str(loader.bundle)) as bundle:
        offset = bundle.image("kernel").offset
    with loader.bundle.open("r+b") as file:
        file.seek(offset + 70_000)
        file.write(bytes([KERNEL[-1] ^ 1]))
    assert "kernel is damaged" in loader.fails()


def test_damaged_ramdisk_takes_the_kernel_back(loader: Loader) -> None:
    with open_bundle(str(loader.bundle)) as bundle:
        offset = bundle.image("ramdisk").offset
    with loader.bundle.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([RAMDISK[0] ^ 1]))
    assert "ramdisk is damaged" in loader.fails()


def test_bundle_that_was_cut(loader: Loader) -> None:
    os.truncate(loader.bundle, (1 << 20) + 4096)
    assert "cut short" in loader.fails()


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"MZ" + bytes(1 << 20), b"\x1f\x8b" + bytes(70000)])
def test_disk_that_is_no_bundle(loader: Loader, content: bytes) -> None:
    loader.bundle.write_bytes(content)
    loader.fails()


def test_disk_that_is_not_there(loader: Loader) -> None:
    loader.bundle.unlink()
    assert "cannot open" in loader.fails()


def test_device_that_does_not_come_is_waited_for_and_named(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenpv_tools.bundle.bootloader.DEVICE_PATIENCE", 0.1)
    loader.bundle = Path("/dev/xenpv-no-such-device")
    assert "cannot open /dev/xenpv-no-such-device" in loader.fails()


def test_bundle_without_a_kernel(loader: Loader) -> None:
    loader.make("root=image")
    assert "no image of the kind kernel" in loader.fails()


def test_empty_kernel(loader: Loader) -> None:
    loader.make("kernel=nothing")
    assert "has 0 bytes" in loader.fails()


def test_command_line_that_xen_would_cut(loader: Loader) -> None:
    loader.make("kernel=vmlinuz", cmdline="x" * 1000)
    assert "1023 at most" in loader.fails()


def test_kernel_that_xen_would_not_take(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert boot.MAX_IMAGE == 1 << 30
    monkeypatch.setattr(boot, "MAX_IMAGE", 1 << 20)
    with open(loader.folder / "vmlinuz", "wb") as file:
        os.truncate(file.fileno(), (1 << 20) + 1)
    loader.make("kernel=vmlinuz")
    assert "has 1048577 bytes" in loader.fails()


@pytest.mark.parametrize("name", ROWS)
def test_malformed_bundle_is_one_line_or_boots_from_right_bytes(loader: Loader, name: str) -> None:
    loader.bundle.write_bytes(make.load((make.HERE / f"{name}.xxd").read_text(), int(ROWS[name][0])))
    status = loader.run(f"--output={loader.output}", "--output-format=simple0", f"--output-directory={loader.directory}")
    out, err = loader.capfd.readouterr()
    assert not out and "bug in xenpv" not in err
    if status:
        assert status == 1 and err.startswith("xenpv: ") and err.count("\n") == 1
        assert not list(loader.directory.iterdir()) and not loader.output.read_bytes()
        return
    found = libxl(loader.output.read_bytes())
    with open_bundle(str(loader.bundle)) as bundle:
        kernel = bundle.first("kernel")
    assert not err and kernel and hashlib.sha256(Path(found["kernel"]).read_bytes()).digest() == kernel.sha256


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_rights_are_dropped_for_good_before_the_bundle_is_read(loader: Loader) -> None:
    pid = os.fork()
    if pid == 0:
        drop_rights("65534")
        try:
            os.setresuid(0, 0, 0)
        except PermissionError:
            os._exit(0 if os.getresuid() == (65534,) * 3 and os.getgroups() == [] else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
