"""A domain in another machine, as a Domain here: every call goes to an agent in the guest, through the store.

The guest's side is `serve`, ours is `RemoteDomain`. A call is one JSON object in a node, its answer another; an object
that the guest made is a number. What the calls themselves use of the store, the contract checks of the store have
proved.

Run as a program in the guest: it serves until it is told to stop.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import lzma
import os
import select
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from tests.support import guest_disk
from xenpv import errors
from xenpv.domain import Domain, Store
from xenpv.hypervisors import open_domain
from xenpv.store import XenStore
from xenpv.testing import store as store_checks

NODE = "data/xenpv-agent"
PATIENCE = 60.0
SOON = 3.0
"""Seconds within which an event that was sent has reached the guest."""
LONGEST = 1900
"""Bytes of a call: a guest's node has 2048 at the most. So bytes are compressed; what the checks write is simple."""


# ---- the guest's side ----

class Agent:
    """Answers calls with a fresh Domain a check."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._objects: dict[int, Any] = {}
        self._numbers = itertools.count(1)

    def serve(self) -> None:
        self._store.write(f"{NODE}/request", "")
        with self._store.watch(f"{NODE}/request") as watch:
            self._store.write(f"{NODE}/reply", json.dumps({"seq": 0}))
            seen = 0
            while watch.wait():
                call = json.loads(self._store.read(f"{NODE}/request") or b'{"seq": 0}')
                if call["seq"] <= seen:
                    continue
                seen = call["seq"]
                answer = {"seq": seen, **self._answer(call)}
                self._store.write(f"{NODE}/reply", json.dumps(answer))
                if call["verb"] == "stop":
                    return

    def _answer(self, call: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"value": self._do(call["verb"], call.get("id", 0), decode(call.get("args", [])))}
        except Exception as error:  # whatever it is, it is the caller's: the next call is answered too
            return {"error": type(error).__name__, "text": str(error), "status": getattr(error, "status", None)}

    def _do(self, verb: str, number: int, args: list[Any]) -> Any:
        if verb == "open":
            for old in self._objects.values():
                old.close()
            self._objects = {0: open_domain("xen:")}
            return self._objects[0].domid
        if verb == "check_store":
            return getattr(store_checks, args[0])(XenStore, "data/xenpv-check")
        if verb == "stop":
            return None
        target: Any = self._objects.get(number)
        match verb:
            case "open_disk":
                value = guest_disk.GuestDisk(*args)
            case "peek":
                return encode(bytes(target.memory[args[0]:args[0] + args[1]]))
            case "readable":
                return bool(select.select([target], [], [], args[0])[0])
            case "poke":
                target.memory[args[0]:args[0] + len(args[1])] = args[1]
                return None
            case "share" | "map":
                value = getattr(target.grants, verb)(*args[:2], writable=args[2])
            case "bind_unbound" | "bind_interdomain":
                value = getattr(target.events, verb)(*args)
            case "on_unmap":
                return target.on_unmap(clear=args[0])
            case _:
                value = getattr(target, verb)
                value = value(*args) if callable(value) else value
        if hasattr(value, "close"):
            self._objects[next(self._numbers)] = value
            return max(self._objects)
        return encode(value)


def encode(value: Any) -> Any:
    """`value` as JSON has it: bytes as {"b": base64 of LZMA}, numbers in a row as {"first": , "count": }."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b": base64.b64encode(lzma.compress(value, lzma.FORMAT_ALONE)).decode()}
    if isinstance(value, list | tuple):
        if len(value) > 8 and value == type(value)(range(value[0], value[0] + len(value))):
            return {"first": value[0], "count": len(value)}
        return [encode(each) for each in value]
    return value


def decode(value: Any) -> Any:
    if isinstance(value, list):
        return [decode(each) for each in value]
    if isinstance(value, dict):
        if "b" in value:
            return lzma.decompress(base64.b64decode(value["b"]))
        return list(range(value["first"], value["first"] + value["count"]))
    return value


# ---- our side ----

class Line:
    """Calls to the agent of domain `domid`."""

    def __init__(self, store: Store, domid: int) -> None:
        self.store = store
        self.node = f"/local/domain/{domid}/{NODE}"
        self.seq = 0
        self.dead = False
        self.watch = store.watch(f"{self.node}/reply")
        self.seq = self._await(0)["seq"]

    def _await(self, seq: int) -> dict[str, Any]:
        while True:
            assert not self.dead, "the agent did not answer an earlier call"
            self.dead = self.watch.wait(PATIENCE) is None
            assert not self.dead, f"the agent does not answer call {seq}"
            try:
                answer: dict[str, Any] = json.loads(self.store.read(f"{self.node}/reply"))
            except errors.NoEntryError:
                continue  # it is not up yet
            if answer["seq"] == seq or seq == 0:
                return answer

    def call(self, verb: str, *args: Any, id: int = 0) -> Any:
        self.seq += 1
        request = json.dumps({"seq": self.seq, "verb": verb, "id": id, "args": encode(list(args))})
        assert len(request) <= LONGEST, f"{verb}: {len(request)} bytes do not fit a node"
        self.store.write(f"{self.node}/request", request)
        answer = self._await(self.seq)
        name = answer.get("error")
        if name is None:
            return decode(answer["value"])
        if name == "GrantError":
            raise errors.GrantError(answer["text"], answer["status"])
        known: dict[str, type[Exception]] = {"ValueError": ValueError, "AssertionError": AssertionError}
        raise known.get(name, getattr(errors, name, RuntimeError))(answer["text"])


class RemoteObject:
    """What an object in the guest has, as far as the contract checks use it."""

    def __init__(self, line: Line, id: int) -> None:
        self._line = line
        self._id = id

    def _call(self, verb: str, *args: Any) -> Any:
        return self._line.call(verb, *args, id=self._id)

    def close(self) -> None:
        self._call("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


class RemoteMemory:
    """A memoryview's part that the checks use."""

    def __init__(self, call: Callable[..., Any], size: int) -> None:
        self._call = call
        self.nbytes = size

    def __bytes__(self) -> bytes:
        return self[:]

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self.nbytes)
        return bytes(self._call("peek", start, stop - start))

    def __setitem__(self, place: slice | int, data: bytes | int) -> None:
        if isinstance(place, int):
            place, data = slice(place, place + 1), bytes([data])  # type: ignore[list-item]
        start, _, _ = place.indices(self.nbytes)
        assert isinstance(data, bytes)
        self._call("poke", start, data)


class RemoteShared(RemoteObject):
    @cached_property
    def refs(self) -> Sequence[int]:
        return tuple(self._call("refs"))

    @property
    def memory(self) -> RemoteMemory:
        self._call("peek", 0, 1)
        return RemoteMemory(self._call, len(self.refs) * 4096)

    def on_unmap(self, *, clear: int) -> None:
        self._call("on_unmap", clear)


class RemoteMapped(RemoteObject):
    @property
    def writable(self) -> bool:
        return bool(self._call("writable"))

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._call("read", offset, length))

    def write(self, offset: int, data: bytes) -> None:
        self._call("write", offset, data)


class RemoteChannel(RemoteObject):
    def __init__(self, line: Line, id: int) -> None:
        super().__init__(line, id)
        self._mirror = -1

    @property
    def port(self) -> int:
        return int(self._call("port"))

    def fileno(self) -> int:
        """A descriptor here, which is readable now if the guest's is within SOON."""
        readable = bool(self._call("readable", SOON))
        if self._mirror < 0:
            self._mirror = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._mirror)
        os.eventfd_write(self._mirror, readable)
        return self._mirror

    def close(self) -> None:
        super().close()
        if self._mirror >= 0:
            os.close(self._mirror)
            self._mirror = -1

    def wait_fileno(self) -> int:
        return int(self._call("wait_fileno"))

    def notify_fileno(self) -> int:
        return int(self._call("notify_fileno"))

    def notify(self) -> None:
        self._call("notify")

    def wait(self, timeout: float | None = None) -> bool:
        return bool(self._call("wait", timeout))

    def unmask(self) -> None:
        self._call("unmask")


class RemoteCore(RemoteObject):
    def detach(self) -> int:
        return int(self._call("detach"))


class RemoteDisk(RemoteObject):
    """A disk that is open in the guest (guest_disk.GuestDisk)."""

    def __init__(self, line: Line, vdev: str, *, flag: bool, spin: bool, stamp: str | None = None) -> None:
        super().__init__(line, line.call("open_disk", vdev, flag, spin, stamp))

    def flag(self) -> bool:
        return bool(self._call("flag"))

    def digest(self) -> str:
        return str(self._call("digest"))

    def write(self, seed: int) -> None:
        self._call("write", seed)

    def read_alone(self, count: int) -> None:
        self._call("read_alone", count)

    def read_together(self, count: int) -> None:
        self._call("read_together", count)

    def counters(self) -> dict[str, int]:
        return dict(json.loads(self._call("counters")))

    def stages(self) -> dict[str, int]:
        return dict(json.loads(self._call("stages")))


class RemoteDomain(RemoteObject):
    """Its own grants and events: `domain.grants.share(...)` is a call like any other."""

    def __init__(self, line: Line) -> None:
        super().__init__(line, 0)
        self.domid = int(line.call("open"))
        self.grants = self.events = self

    def share(self, domid: int, count: int = 1, *, writable: bool = True) -> RemoteShared:
        return RemoteShared(self._line, self._call("share", domid, count, writable))

    def map(self, domid: int, refs: Sequence[int], *, writable: bool = True) -> RemoteMapped:
        return RemoteMapped(self._line, self._call("map", domid, list(refs), writable))

    def bind_unbound(self, domid: int) -> RemoteChannel:
        return RemoteChannel(self._line, self._call("bind_unbound", domid))

    def bind_interdomain(self, domid: int, port: int) -> RemoteChannel:
        return RemoteChannel(self._line, self._call("bind_interdomain", domid, port))

    def open_core(self) -> RemoteCore:
        return RemoteCore(self._line, self._call("open_core"))


def as_domain(remote: RemoteDomain) -> Domain:
    """For the checks' types: it has what they use."""
    return remote  # type: ignore[return-value]


if __name__ == "__main__":
    guest_disk.leave_disks_alone()
    print("agent: serving", flush=True)
    with XenStore("/dev/xen/xenbus") as store:
        Agent(store).serve()
    sys.exit(0)
