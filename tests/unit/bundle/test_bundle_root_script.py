"""xenpv-root, the script for a guest's ramdisk: its parts, in shells. Mounting is tests/xenhost/bundle_boot.sh's to try."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from xenpv.wire.bundle import partition_id
from xenpv_tools import cli
from xenpv_tools.bundle.actions import shell_script
from xenpv_tools.bundle.reader import open_bundle

FUNCTIONS = shell_script("root").partition("# ---- the root ----")[0]
SHELLS = [pytest.param(words, marks=pytest.mark.skipif(not shutil.which(words[0]), reason=f"no {words[0]}"))
          for words in (["dash"], ["bash", "--posix"], ["busybox", "sh"])]


def run(script: str, *words: str, status: int = 0, shell: list[str] | None = None, ramdisk: str = "/nowhere",
        stdin: str = "") -> str:
    done = subprocess.run([*(shell or ["sh"]), "-c", f"{FUNCTIONS}\n{script}", "sh", *words], input=stdin,
                          capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "XENPV_ROOT_RAMDISK": ramdisk})
    assert done.returncode == status, done.stderr
    return (done.stdout if status == 0 else done.stderr).rstrip("\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_partition_s_id_is_the_one_in_the_table(shell: list[str]) -> None:
    numbers = random.Random(5)
    script = 'for n in "$@"; do partition_id "${n%/*}" "${n#*/}"; done'
    pairs = [(UUID(int=numbers.getrandbits(128)), f"image{n}") for n in range(24)]
    found = run(script, *(f"{bundle}/{name}" for bundle, name in pairs), shell=shell).split("\n")
    assert found == [str(partition_id(bundle, name)) for bundle, name in pairs]


@pytest.mark.parametrize(("wanted", "chosen"), [
    ("", "first 9 1048576 aa"), (str(partition_id(UUID(int=7), "other")), "other 8 2097152 bb"), (str(UUID(int=8)), "")])
def test_root_is_the_partition_that_is_asked_for_or_the_first_of_its_kind(wanted: str, chosen: str) -> None:
    lines = "kernel kernel 5 0 00\nfirst root 9 1048576 aa\nother root 8 2097152 bb\n"
    assert run('wanted=$1; choose "$2"', wanted, str(UUID(int=7)), stdin=lines) == chosen


@pytest.fixture
def ramdisk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A guest's /xenpv, and beside it the bundle."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image").write_bytes(b"root" * 3000)
    assert cli.main(["bundle", "create", "b.xpb", "root=image", "--cmdline", "quiet"]) == 0
    (tmp_path / "xenpv").mkdir()
    shutil.copy("image", "xenpv/root")
    with open_bundle("b.xpb") as bundle:
        (tmp_path / "xenpv/.index").write_bytes(bundle.text)
        (tmp_path / "id").write_text(str(bundle.id))
    return tmp_path / "xenpv"


FROM_RAMDISK = "wanted= bundle=$1; from_ramdisk && echo $from$source"


@pytest.mark.parametrize("shell", SHELLS)
def test_image_that_came_with_the_ramdisk(ramdisk: Path, shell: list[str]) -> None:
    for wanted in ("", (ramdisk.parent / "id").read_text()):
        assert run(FROM_RAMDISK, wanted, ramdisk=str(ramdisk), shell=shell) == f"loop,{ramdisk}/root"


def test_damaged_image_is_not_used(ramdisk: Path) -> None:
    (ramdisk / "root").write_bytes(b"rOot" * 3000)
    assert "its SHA-256 is not" in run(FROM_RAMDISK, "", ramdisk=str(ramdisk), status=1)


def test_damaged_index_is_not_used(ramdisk: Path) -> None:
    text = (ramdisk / ".index").read_bytes()
    (ramdisk / ".index").write_bytes(text.replace(b"quiet", b"debug"))
    assert "is damaged" in run(FROM_RAMDISK, "", ramdisk=str(ramdisk), status=1)


def test_another_bundle_is_not_used(ramdisk: Path) -> None:
    assert "the command line says other" in run(FROM_RAMDISK, "other", ramdisk=str(ramdisk), status=1)


def test_without_a_directory_one_line_says_how_it_is_used() -> None:
    done = subprocess.run(["sh", "-c", shell_script("root")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "usage: xenpv-root DIR\n"
