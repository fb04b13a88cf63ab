"""Between `xenpv bench --guest` in dom0 and `xenpv bench --agent` in the guest: one question at a time, through the store.

RULES
- The guest makes the nodes, since it may write nowhere else; dom0 writes `ask`, the guest `answer`, and `about` itself. Each
  holds one JSON object, and an answer has the number of its question: one to an earlier question is nobody's answer.
- No byte of an answer is believed before it is checked, here. A guest can spoil its own figures and nothing else.
- The guest makes the job itself, of a case and the name of a disk: dom0 cannot have fio write anywhere else.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any, Self

from xenpv.domain import Store
from xenpv.errors import HypervisorError, NoEntryError, RemoteProtocolError, UsageError
from xenpv.xenbus import vdev_name, vdev_number

from ..output import printable
from .cases import KINDS, Case, make_case
from .fio import FioResult

NODE = "data/xenpv-bench"
"""In the guest's own directory, where the guest may write."""
BYTES_MAX = 2000
"""Of a node: xenstored lets a guest have 2048."""
PATIENCE = 300.0
"""Seconds beyond the run itself until an answer must be there: fio's start and end, on a slow host."""
SECONDS_MAX = 600.0
NOT_INSTALLED = "not installed"
"""What a guest without fio says of its version."""


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw[:BYTES_MAX + 1])
    except (ValueError, RecursionError) as error:  # the latter of brackets without an end
        raise RemoteProtocolError(f"no JSON in {NODE}: {printable(raw[:60])}") from error
    if not isinstance(found, dict):
        raise RemoteProtocolError(f"no JSON object in {NODE}: {printable(raw[:60])}")
    return found


def _number(found: dict[str, Any], name: str, most: float = 1e15) -> float:
    value = found.get(name)
    # Compared and not converted: an int may be longer than any float. Neither NaN nor an infinity passes.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise RemoteProtocolError(f"{name} is no number from 0 to {most:g}: do both sides run the same xenpv?")
    return float(value)


def _word(found: dict[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise RemoteProtocolError(f"{name} is no text: do both sides run the same xenpv?")
    return printable(value.encode(errors="replace"))[:200]


@dataclass(frozen=True)
class Ask:
    """One run that dom0 wants."""

    number: int
    case: Case
    vdev: str
    """The guest's disk, such as ``xvdb``."""
    seconds: float

    def encode(self) -> str:
        reads = {} if self.case.reads is None else {"reads": self.case.reads}
        return json.dumps({"number": self.number, "rw": self.case.fio_rw, "block": self.case.block,
                           "depth": self.case.depth, **reads, "vdev": self.vdev, "seconds": self.seconds})

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Raises RemoteProtocolError, UsageError."""
        found = _object(raw)
        kind = _word(found, "rw")
        if kind not in KINDS:
            raise RemoteProtocolError(f"no fio job is called {kind}")
        reads = int(_number(found, "reads", 99)) if "reads" in found else 50
        case = make_case(kind, int(_number(found, "block")), max(1, int(_number(found, "depth", 1024))), max(1, reads))
        return cls(int(_number(found, "number")), case, vdev_name(vdev_number(_word(found, "vdev"))),
                   _number(found, "seconds", SECONDS_MAX))


@dataclass(frozen=True)
class Machine:
    """What the guest says of itself: for the output alone."""

    cpus: int
    kernel: str
    fio: str

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Raises RemoteProtocolError."""
        found = _object(raw)
        return cls(int(_number(found, "cpus", 4096)), _word(found, "kernel"), _word(found, "fio"))


class NoAnswerError(HypervisorError):
    """Nobody in the guest answers any more."""


def encode_answer(number: int, what: FioResult | str) -> str:
    """The result of question `number`, or one line on why there is none, which fits into a node as it is ASCII."""
    if isinstance(what, str):
        line = printable(what.encode(errors="replace")).encode("ascii", "replace").decode()
        return json.dumps({"number": number, "error": line[:500]})
    return json.dumps({"number": number, **asdict(what)})


def decode_result(found: dict[str, Any]) -> FioResult:
    """Raises RemoteProtocolError."""
    figures = {name: _number(found, name) for name in FioResult.__dataclass_fields__}
    ios = int(figures.pop("ios"))
    if not ios or not figures["iops"]:
        raise RemoteProtocolError("the guest says that fio did no I/O")
    return FioResult(ios, **figures)


class GuestLine:
    """dom0's end."""

    def __init__(self, store: Store, domid: int, patience: float = PATIENCE) -> None:
        """Raises HypervisorError when no agent serves in the guest, or one without fio; RemoteProtocolError."""
        self._store, self._patience = store, patience
        self._gone: str | None = None
        self._node = f"/local/domain/{domid}/{NODE}"
        self._asked = secrets.randbits(32)
        try:
            self.machine = Machine.decode(store.read(f"{self._node}/about"))
        except NoEntryError:
            raise HypervisorError(f"nobody answers in domain {domid}: start `xenpv bench --agent` in the guest") from None
        if self.machine.fio == NOT_INSTALLED:
            raise HypervisorError(f"fio is not installed in domain {domid}: apt-get install fio there")

    def run(self, case: Case, vdev: str, seconds: float) -> FioResult:
        """One run in the guest. Raises HypervisorError with the guest's reason, RemoteProtocolError, UsageError.

        NoAnswerError when nobody answers, and then at once whatever else is asked: who is gone is not waited for again.
        """
        if self._gone is not None:
            raise NoAnswerError(self._gone)
        try:
            return self._run(case, vdev, seconds)
        except NoAnswerError as error:
            self._gone = str(error)
            raise

    def _run(self, case: Case, vdev: str, seconds: float) -> FioResult:
        if seconds > SECONDS_MAX:
            raise UsageError(f"a run of {seconds:g} s: give up to {SECONDS_MAX:g}")
        self._asked += 1
        deadline = time.monotonic() + seconds + self._patience
        with self._store.watch(f"{self._node}/answer") as watch:
            before = self._answer()
            self._store.write(f"{self._node}/ask", Ask(self._asked, case, vdev, seconds).encode())
            while (left := deadline - time.monotonic()) > 0 and watch.wait(left) is not None:
                if (raw := self._answer()) == before:
                    continue
                found = _object(raw) if raw else {}
                if found.get("number") == self._asked:
                    if "error" in found:
                        raise HypervisorError(f"{vdev} in the guest: {_word(found, 'error')}")
                    return decode_result(found)
        raise NoAnswerError(f"the guest did not answer within {seconds + self._patience:g} s: does `xenpv bench --agent` "
                            "still run there?")

    def _answer(self) -> bytes:
        """What stands there, to whatever question. Looked at before one is asked, so that dom0 makes no nodes in a guest that
        is gone."""
        try:
            return self._store.read(f"{self._node}/answer")
        except NoEntryError:
            raise NoAnswerError("the guest did not answer: `xenpv bench --agent` has ended there") from None
