"""Our frontend in a guest, on disks of stock backends that its own kernel has."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xenhost.conftest import PYTHON, Guest, Kind
from tests.xenhost.shell import run
from tests.xenhost.stock import KINDS, QEMU, channels, detach, grants_mapped, kernel_disk, place_of

SIZE = 8 << 20
PATTERN = random.Random(7).randbytes(SIZE)
TEXT = "".join(f"{number}\n" for number in range(1, 20000)).encode()[:65536]

# xl runs no script for these, and so none at once with another, which may take a slow host longer than their 10 s. QEMU 7.2
# refuses a read-only one ("Block node is read-only"); the guest only reads.
QEMU_ROOT = Kind(512, tuple(f"format=raw,vdev={vdev},access=w,backendtype=qdisk,target=/dev/{disk}"
                            for vdev, disk in (("xvdy", "vdd"), ("xvdz", "vde"))), PYTHON.options)
VDEV = {"blkback": "xvdb", "qdisk": "xvdc"}

SCRIPT = r"""
sum() { sha256sum | cut -c1-64; }
seq 19999 | head -c 65536 >/tmp/text
cat >/tmp/reader.py <<'END'
import sys
from xenpv.hypervisors import open_domain
from xenpv_frontend.disk import Disk
with open_domain("xen:") as domain, Disk.open(domain, sys.argv[1], timeout=60) as disk:
    disk.read(0, 4096)
    open("/tmp/reading", "w").close()
    while True:
        for chunk in disk.chunks():
            pass
END
xenpv disk info --take xvdy 2>/tmp/error
echo "guest: root $? $(cat /tmp/error)"
for disk in DISKS; do
    until [ -b /dev/$disk ]; do sleep 0.1; done
    echo "guest: $disk kernel $(sum </dev/$disk)"
    xenpv disk info $disk 2>/tmp/error
    echo "guest: $disk refused $? $(cat /tmp/error)"
    echo "guest: $disk ours $(xenpv disk read --take $disk 2>/tmp/error | sum)"
    echo "guest: $disk left $(cat /tmp/error)"
    xenpv disk write $disk /tmp/text --offset 4096 2>/dev/null
    echo "guest: $disk written $?"
    for round in 1 2; do
        rm -f /tmp/reading
        python /tmp/reader.py $disk &
        until [ -e /tmp/reading ] || ! kill -0 $!; do sleep 0.1; done
        kill -9 $!
        wait $!
    done
    echo "guest: $disk after kill $(xenpv disk read $disk 2>/dev/null | sum)"
    case $disk in xvdb) devid=51728 ;; *) devid=51744 ;; esac
    echo "guest: $disk state $(xenstore-read device/vbd/$devid/state)"
    echo "guest: $disk waits"
    until [ -b /dev/$disk ]; do sleep 0.1; done
    echo "guest: $disk again $(sum </dev/$disk)"
    echo "guest: $disk done"
done
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def images(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """One for each kind; that of blkback is a loop device."""
    if not QEMU.exists():
        pytest.skip(f"needs {QEMU}: apt-get install qemu-system-xen")
    for kind in KINDS:
        (tmp_path / kind).write_bytes(PATTERN)
    loop = run("losetup", "--show", "-f", str(tmp_path / "blkback")).strip()
    try:
        yield {"blkback": Path(loop), "qdisk": tmp_path / "qdisk"}
    finally:
        run("losetup", "-d", loop)


def test_a_guest_takes_its_disks(images: dict[str, Path], guest: Callable[..., Guest],
                                 until: Callable[..., None]) -> None:
    before = grants_mapped(), channels()
    specs = {"blkback": kernel_disk(images["blkback"], "xvdb", "w"),
             "qdisk": f"format=raw,vdev=xvdc,access=w,backendtype=qdisk,target={images['qdisk']}"}
    script = SCRIPT.replace("DISKS", "xvdb xvdc")
    made = guest("frontend", script, [specs["qdisk"]], QEMU_ROOT)  # a guest's QEMU is started with the guest alone
    run("xl", "block-attach", "frontend", specs["blkback"])
    # A line is there as a whole when the next one has begun.
    assert "root 1 xenpv: /dev/xvdy is in use" in made.wait("guest: xvdb kernel")
    written = PATTERN[:4096] + TEXT + PATTERN[4096 + len(TEXT):]
    for kind in KINDS:
        vdev = VDEV[kind]
        said = made.wait(f"guest: {vdev} waits", 600)
        assert f"guest: {vdev} kernel {sha(PATTERN)}" in said
        assert f"guest: {vdev} refused 1 xenpv: {vdev}: the kernel of this domain has it as /dev/{vdev}" in said
        assert f"guest: {vdev} ours {sha(PATTERN)}" in said
        assert f"guest: {vdev} left xenpv: {vdev} is closed, and a guest's kernel does not take it back" in said
        assert f"guest: {vdev} written 0" in said
        assert f"guest: {vdev} after kill {sha(written)}" in said
        assert f"guest: {vdev} state 6" in said
        # As it was told.
        detach(place_of(kind, vdev, made.domid), vdev)
        run("xl", "block-attach", "frontend", specs[kind])
        assert f"guest: {vdev} again {sha(written)}" in made.wait(f"guest: {vdev} done", 300)
    assert "guest: exit 0" in made.wait("guest: exit")
    assert "BUG:" not in made.said()
    until(lambda: subprocess.run(["xl", "domid", "frontend"], capture_output=True).returncode != 0, "the guest's end", 60)
    until(lambda: (grants_mapped(), channels()) == before, "everything of the guest's to be gone", 20)
