"""A Ceph cluster of one node in memory: a monitor and an OSD as processes of a test, without authentication, on 127.0.0.1."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from tests.support.stopped import stopped

CONF = """
[global]
fsid = {fsid}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
mon_host = v2:127.0.0.1:{port}
mon_initial_members = a
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
run_dir = {folder}
admin_socket = {folder}/$name.asok
log_file = {folder}/$name.log
pid_file =
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_autoscale_mode = off
mon_data_avail_crit = 0
[mon.a]
mon_data = {folder}/mon
[osd.0]
osd_data = {folder}/osd
osd_objectstore = memstore
memstore_device_bytes = 1073741824
"""


class Ceph:
    """A cluster with the pool ``rbd``. `conf` is its ceph.conf."""

    def __init__(self, folder: Path, requires: Callable[[str], str], until: Callable[..., None]) -> None:
        self.folder = folder
        self.conf = folder / "ceph.conf"
        self._requires = requires
        self._processes: list[subprocess.Popen[bytes]] = []
        fsid, osd, port = str(uuid4()), str(uuid4()), _free_port()
        self.conf.write_text(CONF.format(fsid=fsid, port=port, folder=folder))
        (folder / "osd").mkdir()
        try:
            map_ = str(folder / "map")
            self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{port}]", map_)
            self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", map_)
            self._start("ceph-mon", "-f", "-i", "a")
            self._run("ceph", "osd", "new", osd)
            self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
            self._start("ceph-osd", "-f", "-i", "0")
            until(lambda: b"1 up" in self._run("ceph", "osd", "stat"), "the OSD is up", seconds=60)
            self._run("ceph", "osd", "pool", "create", "rbd", "8")
            self._run("rbd", "pool", "init", "rbd")
        except BaseException:
            self.end()
            raise

    def _run(self, program: str, *words: str) -> bytes:
        found = subprocess.run([self._requires(program), *words], env={**os.environ, "CEPH_CONF": str(self.conf)},
                               capture_output=True, timeout=60, check=False)
        assert found.returncode == 0, (words, found.stderr)
        return found.stdout

    def _start(self, program: str, *words: str) -> None:
        self._processes.append(subprocess.Popen(
            [self._requires(program), *words, "-c", str(self.conf)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL))

    def rbd(self, *words: str) -> None:
        """Run rbd(8)."""
        self._run("rbd", *words)

    def osd_stopped(self) -> AbstractContextManager[None]:
        """Nothing is read or written until the end of the block."""
        return stopped(self._processes[-1])

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.end()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
