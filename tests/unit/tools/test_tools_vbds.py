"""Which disks can be served, looked at before anything is changed; and files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenpv.errors import HypervisorError, StorageError, UsageError
from xenpv_tools.disk_io import is_device, new_image, size_of
from xenpv_tools.diskspec import parse_disk
from xenpv_tools.domains import DomainInfo, Domains
from xenpv_tools.vbds import check_target, prepare, whole_target


class OneDomain(Domains):
    """There is domain 3, called storage."""

    def all(self) -> list[DomainInfo]:
        return [DomainInfo(3, "storage", "running", None, 1.0, "/x")]


DOMAINS = OneDomain(Path("/x"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.img"
    path.write_bytes(bytes(1024))
    return path


def test_a_disk_gets_the_whole_path_of_its_image(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image.parent)
    assert [disk.target for disk in prepare([parse_disk("a.img,,xvda")], DOMAINS)] == [str(image)]


def test_another_domains_file_is_not_looked_at() -> None:
    found = prepare([parse_disk("/not/here,,xvda,backend=storage")], DOMAINS)[0]
    assert (found.target, found.backend_domid) == ("/not/here", 3)


def test_a_backend_domain_that_is_not_there() -> None:
    with pytest.raises(HypervisorError, match="there is no domain 'gone'"):
        prepare([parse_disk("/a,,xvda,backend=gone")], DOMAINS)


@pytest.mark.parametrize(("spec", "cause"), [
    ("cdrom,vdev=hdc", "an empty drive"),
    ("/a,qcow2,xvda", "qemu-img convert"),
    ("/a,,xvda,backendtype=qdisk", "backendtype=qdisk"),
    ("/a,,xvda,backendtype=tap", "backendtype=tap"),
    ("/a,,xvda,specification=virtio", "specification=virtio"),
    ("/a,,xvda,script=block-other", "script=block-other"),
    ("nbd://host/x,xvda,w", "vdev=xvda,target=nbd://host/x"),
])
def test_what_this_backend_does_not_serve(spec: str, cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        prepare([parse_disk(spec)], DOMAINS)


def test_two_disks_on_one_device(image: Path) -> None:
    with pytest.raises(UsageError, match="two disks"):
        prepare([parse_disk(f"{image},,xvda"), parse_disk(f"{image},,d0,r")], DOMAINS)


@pytest.mark.parametrize("head", ["readonly:", "log:throttle,iops=5:", "raw:", "overlay:"])
def test_the_path_behind_filters_becomes_whole(image: Path, monkeypatch: pytest.MonkeyPatch, head: str) -> None:
    monkeypatch.chdir(image.parent)
    assert [disk.target for disk in prepare([parse_disk(f"vdev=xvda,target={head}a.img")], DOMAINS)] == [f"{head}{image}"]


def test_a_file_with_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log:x").write_bytes(bytes(512))
    monkeypatch.chdir(tmp_path)
    assert whole_target("log:x", True) == str(tmp_path / "log:x")


@pytest.mark.parametrize("target", ["nbd://host/x", "memory:65536", "throttle,iops=5:nbd+unix:///x?socket=/s"])
def test_what_is_no_image_is_the_backends_to_look_at(target: str) -> None:
    assert whole_target(target, True) == target


@pytest.mark.parametrize(("target", "words"), [
    ("readonly:/nonexistent.img", "No such file"), ("throttle,iops:/a", "no parameter"), ("log:", "names no storage")])
def test_a_target_that_cannot_be(target: str, words: str) -> None:
    with pytest.raises(StorageError, match=words):
        whole_target(target, True)


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        check_target(str(tmp_path / "none"), True)


@pytest.mark.parametrize(("size", "mend"), [(0, "truncate -s 512"), (513, "truncate -s 1024")])
def test_an_image_that_is_no_whole_sectors(tmp_path: Path, size: int, mend: str) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    with pytest.raises(StorageError, match=mend):
        check_target(str(tmp_path / "a"), False)


def test_a_directory_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="neither a file nor a block device"):
        check_target(str(tmp_path), False)


def test_devices_and_files_are_told_apart() -> None:
    assert [is_device(text) for text in ("xvda", "51712", "sda1", "./xvda", "/tmp/xvda", "a.img", "-")] == [
        True, True, True, False, False, False, False]


def test_an_image_that_failed_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"old")
    with pytest.raises(LookupError), new_image(str(path)) as file:
        file.write(b"half")
        raise LookupError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_image_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"old")
    with new_image(str(path)) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_an_image_in_no_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"), new_image(str(tmp_path / "none" / "a.img")):
        pass


def test_a_size_counts_from_where_the_file_stands(image: Path) -> None:
    with open(image, "rb") as file:
        file.seek(24)
        assert (size_of(file), file.tell()) == (1000, 24)


def test_xls_words_for_our_backend_are_taken(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(512))
    found = prepare([parse_disk(f"backendtype=tap,script=block-xenpv,vdev=xvda,target={tmp_path}/a")], DOMAINS)
    assert found[0].target == str(tmp_path / "a")
