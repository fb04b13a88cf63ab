"""`xenpv bundle`, verb by verb, in this process."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import lzma
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenpv_tools import cli
from xenpv_tools.bundle.reader import open_bundle

KERNEL = random.Random(1).randbytes(700_001)
ROOT = random.Random(2).randbytes(2 << 20)


class Xenpv:
    """The command, run in a directory of its own."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capfd = folder, capfd

    def __call__(self, *words: str | Path, status: int = 0) -> str:
        """stdout; with another status than 0 the line on stderr."""
        found = cli.main(["bundle", *map(str, words)])
        out, err = self._capfd.readouterr()
        assert found == status, f"{words}: {found}\n{out}\n{err}"
        self.err = err
        return err.removeprefix("xenpv: ").rstrip("\n") if status and not out else out

    def json(self, *words: str | Path, status: int = 0) -> Any:
        return json.loads(self(*words, "--json", status=status))


@pytest.fixture
def xenpv(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Xenpv:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (tmp_path / "vmlinuz").write_bytes(KERNEL)
    (tmp_path / "root.ext4").write_bytes(ROOT)
    (tmp_path / "nothing").write_bytes(b"")
    return Xenpv(tmp_path, capfd)


@pytest.fixture
def bundle(xenpv: Xenpv) -> str:
    xenpv("create", "b.xpb", "kernel=vmlinuz", "root=root.ext4", "nothing", "--cmdline", "console=hvc0 ro")
    return "b.xpb"


def test_ls(xenpv: Xenpv, bundle: str) -> None:
    found = xenpv.json("ls", bundle)
    assert found["images"] == [
        {"name": "kernel", "kind": "kernel", "size": len(KERNEL), "offset": 1 << 20,
         "sha256": hashlib.sha256(KERNEL).hexdigest()},
        {"name": "root", "kind": "root", "size": len(ROOT), "offset": 2 << 20, "sha256": hashlib.sha256(ROOT).hexdigest()},
        {"name": "nothing", "kind": "data", "size": 0, "offset": 0, "sha256": hashlib.sha256().hexdigest()}]
    assert (found["cmdline"], found["created"]) == ("console=hvc0 ro", 1700000000)
    assert (found["generation"], found["signed"]) == (1, False)
    assert xenpv("ls", bundle).splitlines()[0].split() == ["Name", "Kind", "Size", "Offset", "SHA-256"]
    assert xenpv.err == f"xenpv: read 40960 bytes of {found['size']}\n"


def test_the_same_images_give_the_same_bytes(xenpv: Xenpv, bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Path(bundle).read_bytes()
    xenpv("create", "-f", bundle, "kernel=vmlinuz", "root=root.ext4", "nothing", "--cmdline", "console=hvc0 ro")
    assert Path(bundle).read_bytes() == first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000001")
    xenpv("create", "-f", bundle, "kernel=vmlinuz", "root=root.ext4", "nothing", "--cmdline", "console=hvc0 ro")
    assert Path(bundle).read_bytes() != first


def test_an_epoch_that_is_no_number(xenpv: Xenpv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert "is no number of seconds" in xenpv("create", "b.xpb", "vmlinuz", status=2)
    assert not Path("b.xpb").exists()


def test_extract_all(xenpv: Xenpv, bundle: str) -> None:
    xenpv("extract", bundle, "-d", "out")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == {"kernel": KERNEL, "root": ROOT, "nothing": b""}


def test_extract_reads_the_index_and_the_image(xenpv: Xenpv, bundle: str) -> None:
    found = xenpv.json("extract", bundle, "kernel", "-d", "out")
    assert found["bytes_read"] == 40960 + len(KERNEL)
    assert found["images"] == [{"name": "kernel", "path": "out/kernel", "size": len(KERNEL), "ok": True, "reason": None}]


def test_extract_does_not_write_over_files(xenpv: Xenpv, bundle: str) -> None:
    Path("out").mkdir()
    Path("out/kernel").symlink_to(xenpv.folder / "elsewhere")
    assert xenpv("extract", bundle, "-d", "out", status=2) == "out/kernel is there already: -f writes over it"
    assert os.listdir("out") == ["kernel"]
    xenpv("extract", bundle, "-d", "out", "-f")
    assert not Path("elsewhere").exists() and Path("out/kernel").read_bytes() == KERNEL


def test_extract_to_one_file(xenpv: Xenpv, bundle: str) -> None:
    xenpv("extract", bundle, "kernel", "-o", "k.img")
    assert Path("k.img").read_bytes() == KERNEL
    assert "-o takes one image" in xenpv("extract", bundle, "-o", "k.img", status=2)


def test_extract_to_standard_output(xenpv: Xenpv, bundle: str) -> None:
    done = subprocess.run([sys.executable, "-m", "xenpv_tools", "bundle", "extract", bundle, "kernel", "-o", "-"],
                          capture_output=True)
    assert (done.returncode, done.stdout) == (0, KERNEL)


def test_a_damaged_image_is_not_left_behind_and_the_others_are(xenpv: Xenpv, bundle: str) -> None:
    with open(bundle, "r+b") as file:
        file.seek((1 << 20) + 5)
        file.write(b"damage")
    found = xenpv.json("verify", bundle, status=1)
    assert not found["ok"] and [(row["name"], row["ok"]) for row in found["images"]] == [
        ("kernel", False), ("root", True), ("nothing", True)]
    assert found["images"][0]["reason"].startswith("digest: ")
    xenpv("extract", bundle, "-d", "out", status=1)
    assert sorted(os.listdir("out")) == ["nothing", "root"]


def test_verify_of_what_is_no_bundle(xenpv: Xenpv) -> None:
    found = xenpv.json("verify", "vmlinuz", status=1)
    assert (found["ok"], found["images"]) == (False, []) and found["index"][0]["reason"].startswith("no-index: ")
    assert "no boot bundle" in xenpv("ls", "vmlinuz", status=1)


def test_add_rm_replace(xenpv: Xenpv, bundle: str) -> None:
    Path("more").write_bytes(b"more")
    xenpv("add", bundle, "more", "ramdisk=nothing")
    xenpv("rm", bundle, "root")
    xenpv("replace", bundle, "kernel=root.ext4", "--cmdline", "")
    found = xenpv.json("ls", bundle)
    assert [(row["name"], row["kind"], row["size"]) for row in found["images"]] == [
        ("kernel", "kernel", len(ROOT)), ("nothing", "data", 0), ("more", "data", 4), ("ramdisk", "ramdisk", 0)]
    assert found["cmdline"] is None and found["generation"] == 4
    assert xenpv.json("verify", bundle)["ok"]


@pytest.mark.parametrize(("words", "text"), [
    (["add", "b.xpb", "kernel=root.ext4"], "`xenpv bundle replace` puts another in its place"),
    (["add", "b.xpb", "a=root.ext4", "A=root.ext4"], "two images are called A"),
    (["replace", "b.xpb", "initrd=root.ext4"], "has no image 'initrd'; there are: kernel, root, nothing"),
    (["replace", "b.xpb"], "nothing to replace"),
    (["rm", "b.xpb", "initrd"], "has no image 'initrd'"),
    (["create", "b.xpb", "vmlinuz"], "b.xpb is there already: -f writes over it"),
    (["create", "c.xpb", "vmlinuz", "--align", "5000"], "a power of two"),
    (["create", "c.xpb", "vmlinuz", "--index-size", "1000"], "an index of 1000 bytes cannot be"),
    (["create", "c.xpb", "../x/.hidden"], "cannot be an image's name"),
    (["create", "c.xpb", "vmlinuz", "--cmdline", "caf\u00e9"], "printable ASCII"),
    (["extract", "b.xpb", "initrd"], "has no image 'initrd'"),
])
def test_what_cannot_be_meant(xenpv: Xenpv, bundle: str, words: list[str], text: str) -> None:
    before = Path(bundle).read_bytes()
    assert text in xenpv(*words, status=2)
    assert Path(bundle).read_bytes() == before and not Path("c.xpb").exists()


@pytest.mark.parametrize("words", [["create", "new.xpb", "vmlinuz"], ["add", "b.xpb", "root.ext4"], ["rm", "b.xpb", "root"],
                                   ["replace", "b.xpb", "kernel=root.ext4"]])
def test_dry_changes_nothing(xenpv: Xenpv, bundle: str, words: list[str]) -> None:
    before = Path(bundle).read_bytes()
    assert "would" in xenpv(*words, "-N")
    assert Path(bundle).read_bytes() == before and not Path("new.xpb").exists()


def test_a_missing_image_leaves_no_bundle(xenpv: Xenpv) -> None:
    assert xenpv("create", "b.xpb", "vmlinuz", "gone", status=1) == "cannot open gone: No such file or directory"
    assert sorted(os.listdir()) == ["nothing", "root.ext4", "vmlinuz"]


def test_a_manifest(xenpv: Xenpv) -> None:
    Path("sub").mkdir()
    Path("sub/manifest.toml").write_text('cmdline = "quiet"\n[[image]]\nname = "kernel"\nfile = "../vmlinuz"\n'
                                         '[[image]]\nfile = "../root.ext4"\nkind = "root"\n')
    xenpv("create", "b.xpb", "--manifest", "sub/manifest.toml")
    found = xenpv.json("ls", "b.xpb")
    assert [(row["name"], row["kind"]) for row in found["images"]] == [("kernel", "kernel"), ("root.ext4", "root")]
    assert found["cmdline"] == "quiet"


@pytest.mark.parametrize("text", ["[[image]]\nsize = 5\nfile = 'x'", "image = 5", "colour = 'blue'", "[[image]]\nname = 'x'",
                                  "=", "[[image]]\nfile = 'x'\nkind = 'A B'", "cmdline = 5"])
def test_a_manifest_that_makes_no_sense(xenpv: Xenpv, text: str) -> None:
    Path("m").write_text(text)
    assert xenpv("create", "b.xpb", "--manifest", "m", status=2).startswith("m")


def test_holes_stay_holes(xenpv: Xenpv) -> None:
    with open("sparse", "wb") as file:
        file.truncate(100 << 20)
        file.seek(50 << 20)
        file.write(b"data")
    xenpv("create", "b.xpb", "root=sparse")
    xenpv("extract", "b.xpb", "root", "-d", "out")
    assert Path("b.xpb").stat().st_blocks * 512 < 1 << 20 and Path("out/root").stat().st_blocks * 512 < 1 << 20
    assert Path("out/root").stat().st_size == 100 << 20
    with open("out/root", "rb") as file:
        file.seek(50 << 20)
        assert file.read(8) == b"data\0\0\0\0"


def test_what_a_removed_image_took_is_given_back(xenpv: Xenpv, bundle: str) -> None:
    before = Path(bundle).stat().st_blocks
    xenpv("rm", bundle, "root")
    assert before - Path(bundle).stat().st_blocks >= (len(ROOT) - (64 << 10)) // 512
    assert Path(bundle).stat().st_size < 2 << 20


@pytest.mark.parametrize(("data", "text"), [
    (gzip.compress(b"x"), "gzip"), (lzma.compress(b"x"), "xz"), (b"QFI\xfb\0\0\0\3", "qcow2"),
    (b"\x3a\xff\x26\xed\1\0\0\0", "Android sparse")])
def test_packed_input_is_named(xenpv: Xenpv, data: bytes, text: str) -> None:
    Path("in").write_bytes(data)
    refused = xenpv("create", "b.xpb", "root=in", status=2)
    assert text in refused and "-f packs it as it is" in refused
    xenpv("create", "b.xpb", "root=in", "-f")
    assert text in xenpv.err and xenpv.json("verify", "b.xpb")["ok"]
    assert text in xenpv("ls", "in", status=1)


def test_a_compressed_ramdisk_is_nothing_special(xenpv: Xenpv) -> None:
    Path("initrd").write_bytes(gzip.compress(b"x"))
    xenpv("create", "b.xpb", "ramdisk=initrd")
    assert not xenpv.err


@pytest.mark.parametrize(("lock", "words"), [
    (fcntl.LOCK_SH, ["rm", "b.xpb", "root"]), (fcntl.LOCK_SH, ["repair", "b.xpb"]), (fcntl.LOCK_EX, ["verify", "b.xpb"]),
    (fcntl.LOCK_EX, ["extract", "b.xpb", "-d", "out"])])
def test_a_bundle_in_use(xenpv: Xenpv, bundle: str, lock: int, words: list[str]) -> None:
    with open(bundle, "rb") as file:
        fcntl.flock(file, lock)
        assert "b.xpb is in use" in xenpv(*words, status=1)


def test_readers_share(xenpv: Xenpv, bundle: str) -> None:
    with open_bundle(bundle) as found:
        assert found.cmdline == "console=hvc0 ro" and xenpv.json("verify", bundle)["ok"]


def test_repair_and_diff(xenpv: Xenpv, bundle: str) -> None:
    whole = Path(bundle).read_bytes()
    with open(bundle, "r+b") as file:
        file.seek(33000)
        file.write(b"damage")
        file.seek(600)
        file.write(b"damage")
    assert xenpv.json("repair", bundle)["mended"] == ["slot A", "partition table"]
    assert Path(bundle).read_bytes() == whole and xenpv("repair", bundle) == "nothing to mend\n"
    Path("old.xpb").write_bytes(whole)
    assert xenpv("diff", "old.xpb", bundle) == "" and xenpv.json("diff", "old.xpb", bundle)["same"]
    xenpv("replace", bundle, "kernel=root.ext4", "--cmdline", "quiet")
    xenpv("rm", bundle, "nothing")
    rows = xenpv.json("diff", "old.xpb", bundle, status=1)["differences"]
    assert [(row["name"], row["change"]) for row in rows] == [
        (None, "cmdline"), ("kernel", "size"), ("kernel", "sha256"), ("nothing", "removed")]


def test_a_bundle_that_was_cut_is_not_mended(xenpv: Xenpv, bundle: str) -> None:
    os.truncate(bundle, 3 << 20)
    assert "was cut short: take it from a copy" in xenpv("repair", bundle, status=1)
    assert Path(bundle).stat().st_size == 3 << 20


def test_a_full_index_is_refused_before_anything_is_written(xenpv: Xenpv) -> None:
    wanted = [f"an-image-with-a-long-name-of-36-c{n:03}=nothing" for n in range(128)]
    refused = xenpv("create", "b.xpb", "--index-size", "64k", *wanted, "--cmdline", "x" * 2047, status=2)
    assert "make the bundle with a larger --index-size" in refused and not Path("b.xpb").exists()
    xenpv("create", "b.xpb", *wanted)
    assert len(xenpv.json("ls", "b.xpb")["images"]) == 128
    assert "129 images" in xenpv("create", "c.xpb", *wanted, "nothing", status=2)


@pytest.fixture
def keys(xenpv: Xenpv) -> Callable[[str], str]:
    """`keys("name")` makes name.key and name.pub."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    def make(name: str) -> str:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        Path(f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        Path(f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return name

    return make


def test_signed(xenpv: Xenpv, keys: Callable[[str], str]) -> None:
    keys("own"), keys("other")
    xenpv("create", "b.xpb", "kernel=vmlinuz", "--sign", "own.key")
    assert xenpv.json("verify", "b.xpb", "--key", "own.pub")["signature"] == "good"
    assert xenpv.json("verify", "b.xpb")["signature"] == "not checked"
    found = xenpv.json("verify", "b.xpb", "--key", "other.pub", status=1)
    assert (found["ok"], found["signature"]) == (False, "bad")
    assert "not by this key" in xenpv("extract", "b.xpb", "--key", "other.pub", "-d", "out", status=1)
    assert not Path("out").exists()


def test_unsigned_fails_with_a_key(xenpv: Xenpv, bundle: str, keys: Callable[[str], str]) -> None:
    keys("own")
    found = xenpv.json("verify", bundle, "--key", "own.pub", status=1)
    assert found["index"][-1] == {"name": "signature", "ok": False, "reason": "unsigned: the index is not signed"}


def test_a_signed_bundle_is_changed_with_the_key_alone(xenpv: Xenpv, keys: Callable[[str], str]) -> None:
    keys("own")
    xenpv("create", "b.xpb", "kernel=vmlinuz", "root=root.ext4", "--sign", "own.key")
    assert "is signed: give --sign KEY" in xenpv("rm", "b.xpb", "root", status=2)
    xenpv("rm", "b.xpb", "root", "--sign", "own.key")
    assert xenpv.json("verify", "b.xpb", "--key", "own.pub")["signature"] == "good"
    xenpv("add", "b.xpb", "root.ext4", "-f")
    assert xenpv.json("verify", "b.xpb")["signature"] == "none"


@pytest.mark.parametrize("name", ["vmlinuz", "gone", "own.pub"])
def test_a_key_that_is_none(xenpv: Xenpv, keys: Callable[[str], str], name: str) -> None:
    keys("own")
    assert name in xenpv("create", "b.xpb", "vmlinuz", "--sign", name, status=2)
    assert not Path("b.xpb").exists()


def test_without_cryptography(xenpv: Xenpv, bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    assert "pip install 'xenpv[sign]'" in xenpv("verify", bundle, "--key", "own.pub", status=2)
    assert "pip install 'xenpv[sign]'" in xenpv("replace", bundle, "--sign", "own.key", status=2)


def test_a_script_for_guests(xenpv: Xenpv) -> None:
    assert xenpv("script").startswith("#!/bin/sh\n")
