"""An emulated Xen in a thread, with guests, and what it has open."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xenpv.hypervisors.emulated import host
from xenpv.hypervisors.emulated.calls import VERSION, Call, Op, Reply, unpack_reply
from xenpv.hypervisors.emulated.client import EmulatedDomain
from xenpv.hypervisors.emulated.faults import Faults
from xenpv.hypervisors.emulated.hypervisor import Client, Hypervisor


@contextmanager
def domains(run: Path, count: int = 2, *, faults: Faults | None = None) -> Iterator[list[EmulatedDomain]]:
    """`count` guests, open, of a host in this process."""
    with host.running(run, faults=faults), ExitStack() as stack:
        made = [host.request(run, "create", name=f"guest{number}") for number in range(1, count + 1)]
        yield [stack.enter_context(EmulatedDomain(f"emulated:{guest['directory']}")) for guest in made]


def counts(run: Path, domid: int) -> dict[str, int]:
    """Connections, segments, openings and ports of a domain, as the host counts them."""
    found = next(domain for domain in host.status(run)["domains"] if domain["domid"] == domid)
    return {key: found[key] for key in ("connections", "segments", "openings", "ports")}


def greeted(hypervisor: Hypervisor, domid: int) -> Client:
    """A connection of a domain that has said hello."""
    client = hypervisor.connect(domid)
    hypervisor.call(client, Call(Op.HELLO, number=VERSION))
    return client


def raw_socket(directory: Path) -> socket.socket:
    """A socket to a domain's calls, with a time limit."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(directory / "xen"))
    sock.settimeout(10)
    return sock


def ask(sock: socket.socket, call: Call) -> Reply:
    """One call; the reply's descriptors are the caller's."""
    sock.send(call.pack())
    data, fds, _, _ = socket.recv_fds(sock, 64, 8)
    return unpack_reply(data, tuple(fds))


def close_all(reply: Reply) -> None:
    """Let go of a reply's descriptors."""
    for fd in reply.fds:
        os.close(fd)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def opened(pid: int | str = "self") -> list[str]:
    """What a process has open or mapped; nothing when it is gone."""
    found: list[str] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        with open(f"/proc/{pid}/maps") as maps:
            found += [line.split(maxsplit=5)[-1] for line in maps]
    return found


def memfds() -> list[str]:
    """The memory of segments that this process has open or mapped."""
    return [name for name in opened() if "memfd:xenpv" in name]
