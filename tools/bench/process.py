"""What /proc says of a process (proc(5)): its memory, and how often its threads were woken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xenpv.errors import XenpvError

_KIB = 1024
_MEMORY = {"Rss": "rss", "Pss": "pss", "Anonymous": "anonymous"}


@dataclass(frozen=True)
class Memory:
    """Bytes of a process's memory that are resident."""

    rss: int
    pss: int
    """The same, where what several processes map is shared out among them."""
    anonymous: int
    """Its own alone: no file's, and nobody else's."""


@dataclass(frozen=True)
class Switches:
    """Context switches of all threads of a process so far."""

    voluntary: int
    """A thread went to sleep: as often as it was woken."""
    involuntary: int


def _lines(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except OSError as error:
        raise XenpvError(f"{path}: {error.strerror}: the process has ended") from error
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in text.splitlines())}


def memory(pid: int) -> Memory:
    """Of process `pid` now, from smaps_rollup. Raises XenpvError when there is no such process."""
    found = _lines(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(**{field: int(found[name].split()[0]) * _KIB for name, field in _MEMORY.items()})


def switches(pid: int) -> Switches:
    """Of process `pid` so far, threads that have ended left out. Raises XenpvError when there is no such process."""
    voluntary = involuntary = 0
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():
        raise XenpvError(f"process {pid} has ended: its threads cannot be counted")
    for task in tasks.iterdir():
        found = _lines(task / "status")
        voluntary += int(found["voluntary_ctxt_switches"])
        involuntary += int(found["nonvoluntary_ctxt_switches"])
    return Switches(voluntary, involuntary)
