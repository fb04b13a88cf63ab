"""A client that breaks the rules, or dies, ends its own connection and nothing else."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.emulated import ask, close_all, counts, domains, raw_socket
from xenpv.errors import GrantError, HypervisorError
from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.calls import PAGE_SIZE, WRITABLE, Call, Op
from xenpv.hypervisors.emulated.client import EmulatedDomain

Until = Callable[..., None]
Domains = list[EmulatedDomain]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "r"


@pytest.fixture
def two(run: Path) -> Iterator[Domains]:
    with domains(run) as made:
        yield made


def hello(sock: socket.socket) -> socket.socket:
    assert ask(sock, Call(Op.HELLO, number=1)).status == 0
    return sock


@pytest.mark.parametrize("message", [b"x", bytes(15), bytes(17), bytes(4096)])
def test_a_message_of_another_size_ends_the_connection(two: Domains, message: bytes) -> None:
    with hello(raw_socket(two[0].directory)) as sock:
        sock.send(message)
        assert sock.recv(64) == b""
    two[0].grants.share(2).close()


def test_calls_before_hello_are_refused(two: Domains) -> None:
    with raw_socket(two[0].directory) as sock:
        assert ask(sock, Call(Op.EVENT_UNBOUND, 0)).status == -errno.EPROTO


def test_descriptors_of_a_guest_are_dropped(run: Path, two: Domains, until: Until) -> None:
    reader, writer = os.pipe()
    with hello(raw_socket(two[0].directory)) as sock:
        socket.send_fds(sock, [Call(Op.EVENT_STATUS).pack()], [writer] * 5)
        os.close(writer)
        sock.recv(64)
        assert os.read(reader, 1) == b"", "nobody else holds the pipe's other end"
    os.close(reader)


def test_who_calls_and_never_reads_loses_the_connection(two: Domains) -> None:
    with hello(raw_socket(two[0].directory)) as sock:
        with pytest.raises(OSError):
            for _ in range(100_000):
                sock.send(Call(Op.EVENT_STATUS).pack())
    two[0].grants.share(2).close()


def test_a_client_that_breaks_off_leaves_nothing(run: Path, two: Domains, until: Until) -> None:
    before = counts(run, 1)
    with hello(raw_socket(two[0].directory)) as sock:
        close_all(ask(sock, Call(Op.SEGMENT_NEW, 2, flags=WRITABLE)))
        close_all(ask(sock, Call(Op.EVENT_UNBOUND, 2)))
        assert counts(run, 1) != before
    until(lambda: counts(run, 1) == before, "the host noticed")


def test_a_dead_clients_mappings_are_taken_back(run: Path, two: Domains, until: Until) -> None:
    granter, foreign = two
    shared = granter.grants.share(foreign.domid)
    refs = shared.refs
    with hello(raw_socket(foreign.directory)) as sock:
        opened = ask(sock, Call(Op.SEGMENT_OPEN, granter.domid, refs[0] // 256))
        map_by_hand(opened.fds[0], opened.fds[2], refs[0] % 256)
        close_all(opened)
        shared.close()
        with granter.grants.share(foreign.domid) as other:
            assert other.refs != refs, "it is mapped"
    until(lambda: counts(run, foreign.domid)["openings"] == 0, "the host noticed")
    with granter.grants.share(foreign.domid) as other:
        assert other.refs == refs


def map_by_hand(table: int, track: int, page: int) -> None:
    """One read-only mapping, as the core counts it."""
    flags, domid, frame = struct.unpack("<HHI", os.pread(table, 8, page * 8))
    os.pwrite(table, struct.pack("<HHI", flags | 8, domid, frame + (1 << 8)), page * 8)
    os.pwrite(track, struct.pack("<I", 1), page * 4)


@pytest.mark.parametrize("filler", [b"\xff", b"\x00", b"\x55"])
def test_a_table_of_nonsense_harms_its_pair_alone(run: Path, two: Domains, filler: bytes) -> None:
    granter, foreign = two
    with granter.grants.share(foreign.domid) as shared, granter.grants.share(0) as elsewhere:
        with hello(raw_socket(foreign.directory)) as sock:
            opened = ask(sock, Call(Op.SEGMENT_OPEN, granter.domid, shared.refs[0] // 256))
            os.pwrite(opened.fds[0], filler * PAGE_SIZE, 0)
            close_all(opened)
        try:
            foreign.grants.map(granter.domid, shared.refs).close()
        except GrantError as error:
            assert error.status < 0
        elsewhere.memory[0] = 1
    granter.grants.share(0).close()
    assert host.status(run)["domains"]


def test_garbage_on_the_store_ends_that_connection(run: Path, two: Domains) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(two[0].directory / "xenstored"))
        sock.sendall(b"\xff" * 64)
        assert sock.recv(64) == b""
    assert two[1].store.read(f"/local/domain/{two[1].domid}/name") == b"guest2"


def control(run: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(run / "control"))
    return sock


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"1", b'{"verb": 1}', b'{"verb": []}', b"\xff", b"[" * 100_000,
                                  b'{"verb": "create"}', b'{"verb": "create", "name": "7"}',
                                  b'{"verb": "create", "name": "a/b"}', b'{"verb": "create", "name": "Domain-0"}',
                                  b'{"verb": "create", "name": "a", "exec": "sh"}',
                                  b'{"verb": "create", "name": "a", "exec": ["/nowhere"]}',
                                  b'{"verb": "create", "name": "a", "exec": [1]}',
                                  b'{"verb": "create", "name": "a", "environment": {"a": 1}}',
                                  b'{"verb": "create", "name": "a", "cwd": 1}',
                                  b'{"verb": "destroy", "domid": 0}', b'{"verb": "destroy", "domid": 77}',
                                  b'{"verb": "destroy", "domid": "1"}', b'{"verb": "unpause", "domid": 1}',
                                  b'{"verb": "wait", "domid": 99}', b'{"verb": "faults"}'])
def test_a_bad_request_gets_one_line(run: Path, two: Domains, line: bytes) -> None:
    with control(run) as sock:
        sock.sendall(line + b"\n" + b'{"verb": "list"}\n')
        with sock.makefile() as answers:
            bad, good = json.loads(answers.readline()), json.loads(answers.readline())
    assert bad["ok"] is False and bad["error"] and "\n" not in bad["error"]
    assert [domain["domid"] for domain in good["domains"]] == [0, 1, 2]


def test_an_endless_line_ends_the_connection(run: Path, two: Domains) -> None:
    with control(run) as sock, pytest.raises(ConnectionError):
        for _ in range(1000):
            sock.sendall(b"x" * 65536)
    assert host.status(run)["domains"]


def test_too_many_connections_are_turned_away(run: Path, two: Domains) -> None:
    socks = [raw_socket(two[0].directory) for _ in range(260)]
    with pytest.raises((OSError, ValueError)):
        hello(socks[-1])
    two[1].grants.share(0).close()
    for sock in socks:
        sock.close()


def test_a_link_whose_host_answers_nonsense_is_gone(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / "xen"))
        listener.listen()
        listener.settimeout(10)
        thread = threading.Thread(target=lambda: listener.accept()[0].send(b"nonsense"))
        thread.start()
        with pytest.raises(HypervisorError) as caught:
            EmulatedDomain(f"emulated:{directory}")
        thread.join()
    assert "\n" not in str(caught.value)
