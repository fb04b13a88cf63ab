"""What may be set for a backend, and the files it is set in. Nothing has to be."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from xenpv.errors import UsageError
from xenpv.ring import default_spin_ns
from xenpv.timepage import own_clock_is_cheap

from .queue import DATA, ENGINES, MAX_INDIRECT
from .storage import CACHES

LEVELS = ("debug", "info", "warning", "error")

STAMPS = ("off", "tick", "us")
PROFILES = ("off", "auto", "tick", "us")

SECTOR_SIZES = (512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Every option, by its name in backend.toml. What changes while the backend runs counts for new connections.

    Raises UsageError for a value that cannot be.
    """

    engine: str = "auto"
    """One of queue.ENGINES; read at start alone."""
    cache: str = "auto"
    """One of storage.CACHES (docs/storage.md)."""
    spin_us: int | str = "auto"
    """How long a queue that found nothing looks again before it sleeps, microseconds; auto: 50 on a real Xen, 150
    on the emulated one."""
    max_queues: int = 4
    """Rings of one disk that are offered."""
    max_ring_page_order: int = 4
    """A ring of 2**order pages is offered."""
    notify_flag: bool = True
    """The notify-suppression flag is offered."""
    max_indirect_segments: int = 256
    """Indirect requests of up to so many segments are offered, Linux's own number; 0: none are."""
    persistent: bool | str = "auto"
    """Persistent grants are offered: true, false, or auto, which is true but where a grant copy moves the data (on Xen, see
    `data`): there the frontend's own copy into pages that stay granted costs more than it saves (docs/bench.md)."""
    max_persistent_grants: int = 1056
    """Pages of a ring that stay mapped at the most, Linux's own number; beyond it the least recently used one goes."""
    data: str = "auto"
    """How data moves, one of queue.DATA. With map, and engine = "auto", the engine is threads (see service.c)."""
    flush: bool = True
    """Flushes are offered."""
    barrier: bool = True
    """Write barriers are offered, as old frontends want them."""
    discard: bool = True
    """Discards are offered, where the storage can do them."""
    discard_secure: bool = True
    """And secure ones, which leave no copy of the data."""
    sector_size: int = 512
    """Bytes of a disk's logical sectors, 512, 1024, 2048 or 4096; those of its storage if they are larger."""
    stamp: str = "off"
    """Requests stamped with dom0's time are offered: off, tick (needs `xenpv time publish`), or us and tick."""
    profile: str = "off"
    """How long requests take is counted of every disk, not of those with stamps alone: off, or by which clock: us, tick
    (this kernel's), or auto, which is us where that clock is cheap."""
    log_level: str = "info"

    @property
    def storage_engine(self) -> str:
        """The engine for storage that waits: `engine`, where `data` leaves a choice."""
        return "threads" if self.engine == "auto" and self.data == "map" else self.engine

    @property
    def spin_ns(self) -> int:
        """`spin_us` in nanoseconds; what was not settled is as on a real Xen."""
        return self.spin_us * 1000 if isinstance(self.spin_us, int) else default_spin_ns(True)

    def settled(self, xen: bool) -> BackendOptions:
        """The same with `persistent` and `spin_us` decided, for a real Xen or the emulated one."""
        persistent = self.persistent if isinstance(self.persistent, bool) else not xen or self.data == "map"
        spin_us = self.spin_us if isinstance(self.spin_us, int) else default_spin_ns(xen) // 1000
        return replace(self, persistent=persistent, spin_us=spin_us)

    def __post_init__(self) -> None:
        for name, known in (("engine", tuple(ENGINES)), ("cache", CACHES), ("data", tuple(DATA)), ("log_level", LEVELS),
                            ("stamp", STAMPS), ("profile", PROFILES)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"{name} = {value!r}: want one of {', '.join(known)}")
        for name, low, high in (("max_queues", 1, 16), ("max_ring_page_order", 0, 4),
                                ("max_indirect_segments", 0, MAX_INDIRECT), ("max_persistent_grants", 1, 65536)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"{name} = {value!r}: want a number from {low} to {high}")
        if self.sector_size not in SECTOR_SIZES or type(self.sector_size) is not int:
            raise UsageError(f"sector_size = {self.sector_size!r}: want one of {', '.join(map(str, SECTOR_SIZES))}")
        if self.spin_us != "auto" and (type(self.spin_us) is not int or not 0 <= self.spin_us <= 1000):
            raise UsageError(f"spin_us = {self.spin_us!r}: want a number from 0 to 1000, or \"auto\"")
        if type(self.persistent) is not bool and self.persistent != "auto":
            raise UsageError(f"persistent = {self.persistent!r}: want true, false or \"auto\"")
        for name in ("notify_flag", "flush", "barrier", "discard", "discard_secure"):
            if type(getattr(self, name)) is not bool:
                raise UsageError(f"{name} = {getattr(self, name)!r}: want true or false")

    def profile_clock(self) -> str | None:
        """The clock for requests without stamps, ``tick`` or ``us``; None: they are not measured."""
        if self.profile == "auto":
            return "us" if own_clock_is_cheap() else "tick"
        return None if self.profile == "off" else self.profile


def config_files() -> list[Path]:
    """/etc/xenpv/backend.toml, then the user's own; what a later one says counts."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return [Path("/etc/xenpv/backend.toml"), Path(home) / "xenpv" / "backend.toml"]


def load_options(files: Sequence[Path] | None = None, **given: Any) -> BackendOptions:
    """The options of `files` (None: config_files()) that are there, under those `given`. Raises UsageError."""
    values: dict[str, Any] = {}
    for path in config_files() if files is None else files:
        try:
            with open(path, "rb") as file:
                values |= _checked(path, tomllib.load(file))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:  # also TOMLDecodeError and bytes that are no UTF-8
            raise UsageError(f"{path}: {error}") from error
    return BackendOptions(**(values | given))


def _checked(path: Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    known = [field.name for field in fields(BackendOptions)]
    for name in values:
        if name not in known:
            raise UsageError(f"{path}: there is no option {name!r}, only {', '.join(known)}")
    return values
