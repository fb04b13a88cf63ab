"""What real Xen has beyond the contract: unmap notify, limits, restricted descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xenpv.errors import EventChannelError, GrantError
from xenpv.hypervisors.xen.client import XenDomain, XenMappedPages

Until = Callable[..., None]

SHARE = """
import signal
from xenpv.hypervisors.xen.client import XenDomain
with XenDomain() as domain, domain.grants.share(domain.domid) as shared:
    shared.memory[100] = 1
    shared.on_unmap(clear=100)
    print(shared.refs[0], flush=True)
    signal.pause()
"""


def test_the_kernel_clears_a_byte_when_the_granter_dies(until: Until) -> None:
    with XenDomain() as domain, subprocess.Popen([sys.executable, "-c", SHARE], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        ref = int(child.stdout.readline())
        with domain.grants.map(domain.domid, [ref]) as mapped:
            assert mapped.read(100, 1) == b"\1"
            child.send_signal(signal.SIGKILL)
            child.wait()
            until(lambda: mapped.read(100, 1) == b"\0", "the kernel clears the byte")


def test_an_event_says_that_pages_were_unmapped() -> None:
    with XenDomain() as domain, domain.events.bind_unbound(domain.domid) as ours:
        with domain.events.bind_interdomain(domain.domid, ours.port) as theirs:
            assert theirs.wait(5)
            theirs.unmask()
            with domain.grants.share(domain.domid) as shared:
                mapped = domain.grants.map(domain.domid, shared.refs)
                assert isinstance(mapped, XenMappedPages)
                mapped.on_unmap(clear=7, notify=ours)
                mapped.write(7, b"\1")
                mapped.close()
                assert theirs.wait(5)
                assert shared.memory[7] == 0


def test_a_byte_outside_is_refused() -> None:
    with XenDomain() as domain, domain.grants.share(domain.domid) as shared:
        with pytest.raises(ValueError, match="4096"):
            shared.on_unmap(clear=4096)


def test_the_limit_of_shared_pages_is_named() -> None:
    with XenDomain() as domain:
        with pytest.raises(GrantError, match="xen_gntalloc/parameters/limit") as refused:
            domain.grants.share(domain.domid, 65536)
        assert refused.value.status == -13
        domain.grants.share(domain.domid, 4).close()


def test_a_restricted_descriptor() -> None:
    with XenDomain() as domain, domain.events.bind_unbound(domain.domid) as channel:
        with pytest.raises(EventChannelError):
            channel.restrict(0)
        channel.restrict(1)
        with pytest.raises(EventChannelError):
            channel.restrict(1)


def test_a_forked_child_has_none_of_the_pages() -> None:
    with XenDomain() as domain, domain.grants.share(domain.domid) as shared:
        with domain.grants.map(domain.domid, shared.refs):
            assert "/dev/xen/" in Path("/proc/self/maps").read_text()
            child = os.fork()
            if not child:
                os._exit("/dev/xen/" in Path("/proc/self/maps").read_text())
            assert os.waitpid(child, 0)[1] == 0
