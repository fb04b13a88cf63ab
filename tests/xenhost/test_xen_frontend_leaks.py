"""What our frontend leaves behind with stock backends, counted from outside: nothing; also when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xenhost.stock import PATTERN, Stock, attached, channels, grants_mapped, nodes, open_disk, sha, sha_of
from xenpv.domain import Domain
from xenpv.errors import DeviceError
from xenpv.hypervisors import open_domain

Until = Callable[..., None]

READ_FOR_EVER = """
import sys
from xenpv.hypervisors import open_domain
from xenpv_frontend.disk import Disk
with open_domain("xen:") as domain, Disk.open(domain, sys.argv[1], timeout=60, queues=2) as disk:
    disk.read(0, 4096)
    print("reading", flush=True)
    while True:
        for chunk in disk.chunks():
            pass
"""


def in_use() -> tuple[int, int, int]:
    """Grants that are mapped, ports, descriptors of this process."""
    return grants_mapped(), channels(), len(os.listdir("/proc/self/fd"))


@pytest.fixture
def freed(kind: str, image: Path, until: Until) -> Iterator[Stock]:
    """Attached, and nobody's: the kernel keeps grants mapped for a while, so its own would not count alike twice."""
    with attached(kind, image, until) as stock:
        stock.unbind()
        until(lambda: stock.states() == "6 6", "the backend to close", 20)
        yield stock


def test_opened_again_and_again(freed: Stock, domain: Domain, until: Until) -> None:
    """Of gntalloc's 1,024 pages each takes 256: a fifth one fails if the others' stay."""
    before = in_use()
    for round in range(5):
        with open_disk(domain, freed.vdev, queues=1 + round % 3) as disk:
            assert disk.read(round << 20, 1 << 20) == PATTERN[round << 20:(round + 1) << 20]
            assert grants_mapped() > before[0]
    assert freed.states() == "6 6"
    domain.close()
    until(lambda: in_use() == before, f"what was in use before: {before}", 20)


def test_a_killed_frontend_s_disk_is_opened_again(freed: Stock, domain: Domain, until: Until) -> None:
    before = in_use()
    for _ in range(5):  # gntalloc's pages again
        with subprocess.Popen([sys.executable, "-c", READ_FOR_EVER, freed.vdev], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"reading\n"
            child.kill()
        assert freed.states() == "4 4"  # as it was left
    with open_disk(domain, freed.vdev) as disk:
        assert sha_of(disk) == sha(PATTERN)
    assert freed.states() == "6 6"
    domain.close()
    until(lambda: in_use() == before, f"what was in use before: {before}", 20)


def test_nothing_is_left_when_it_is_detached(kind: str, image: Path, until: Until) -> None:
    before = in_use(), nodes()
    with attached(kind, image, until) as stock, open_domain("xen:") as domain:
        with open_disk(domain, stock.vdev, take=True) as disk:
            assert disk.read(0, 4096) == PATTERN[:4096]
    until(lambda: (in_use(), nodes()) == before, f"what was in use before: {before}", 20)


def test_the_toolstack_takes_a_disk_that_we_have(kind: str, image: Path, until: Until, domain: Domain) -> None:
    with attached(kind, image, until) as stock:
        stock.unbind()
        disk = open_disk(domain, stock.vdev)
        assert disk.read(0, 512) == PATTERN[:512]
    with pytest.raises(DeviceError, match="disconnected"):
        disk.read(0, 512)
    disk.close()
