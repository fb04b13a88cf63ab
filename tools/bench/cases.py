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
    reads: int | None = None
    """Of a hundred, the others are writes; None: all are one or the other, as `write` says."""

    @property
    def writes(self) -> bool:
        """Whether any I/O is a write."""
        return self.write or self.reads is not None

    @property
    def fio_rw(self) -> str:
        """fio's word for it (fio's HOWTO, `readwrite`)."""
        kind = "rw" if self.reads is not None else "write" if self.write else "read"
        return ("" if self.sequential else "rand") + kind


KINDS = ("randread", "randwrite", "randrw", "read", "write", "rw")
"""fio's words for what a case may be."""
MIXED_READS = 70
"""Of a hundred, where nobody says otherwise."""


def make_case(kind: str, block: int, depth: int, reads: int = MIXED_READS) -> Case:
    """A case of one's own, `kind` one of KINDS. Raises UsageError for a block that no I/O can have."""
    if block % 4096 or not 4096 <= block <= 1 << 20:
        raise UsageError(f"a block of {block} bytes: give 4k to 1M, in steps of 4k")
    mixed = kind in ("randrw", "rw")
    name = f"{kind}{reads if mixed else ''}-{block >> 10}k-qd{depth}"
    return Case(name, block, depth, write=kind.endswith("write"), sequential=not kind.startswith("rand"),
                reads=reads if mixed else None)


CASES = {case.name: case for case in (
    Case("randread-4k-qd32", 4096, 32),
    Case("randwrite-4k-qd32", 4096, 32, write=True),
    Case("randread-4k-qd1", 4096, 1),
    Case("read-256k-qd8", 262144, 8, sequential=True),
    Case("randrw-4k-qd32", 4096, 32, reads=MIXED_READS),
)}
"""The cases of a comparison."""

GUEST_CASES = {case.name: case for case in (
    make_case("randread", 4096, 32),
    make_case("randwrite", 4096, 32),
    make_case("read", 65536, 8),
    make_case("write", 65536, 8),
    make_case("randread", 4096, 1),
    make_case("randwrite", 4096, 1),
)}
"""The cases of a comparison of backends, from inside a guest."""

LOADS = {case.name: case for case in (
    Case("steady-qd32", 4096, 32),
    Case("bursts-of-32", 4096, 32, burst=True),
    Case("qd1", 4096, 1),
)}
"""The loads under which notifications are counted."""


def find_case(name: str) -> Case:
    """The case or load of that name. Raises UsageError."""
    known = {**LOADS, **GUEST_CASES, **CASES}
    case = known.get(name)
    if case is None:
        raise UsageError(f"no case {name!r}: one of {', '.join(known)}")
    return case
