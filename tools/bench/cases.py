"""What is measured: the cases of `xenpv bench`, and the loads that count notifications."""

from __future__ import annotations

from dataclasses import dataclass

from xenpv.errors import UsageError


@dataclass(frozen=True)
class Case:
    """One closed loop: `depth` I/Os of `block` bytes in flight, each replaced when it is done."""

    name: str
    block: int
    """Bytes of an I/O."""
    depth: int
    write: bool = False
    sequential: bool = False
    burst: bool = False
    """Replace them only when all are done, instead of as soon as one is."""

    @property
    def fio_rw(self) -> str:
        """fio's word for it (fio's HOWTO, `readwrite`)."""
        return ("" if self.sequential else "rand") + ("write" if self.write else "read")


CASES = {case.name: case for case in (
    Case("randread-4k-qd32", 4096, 32),
    Case("randwrite-4k-qd32", 4096, 32, write=True),
    Case("randread-4k-qd1", 4096, 1),
    Case("read-256k-qd8", 262144, 8, sequential=True),
)}
"""The cases of a comparison."""

LOADS = {case.name: case for case in (
    Case("steady-qd32", 4096, 32),
    Case("bursts-of-32", 4096, 32, burst=True),
    Case("qd1", 4096, 1),
)}
"""The loads under which notifications are counted."""


def find_case(name: str) -> Case:
    """The case or load of that name. Raises UsageError."""
    case = CASES.get(name) or LOADS.get(name)
    if case is None:
        raise UsageError(f"no case {name!r}: one of {', '.join([*CASES, *LOADS])}")
    return case
