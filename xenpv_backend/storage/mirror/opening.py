"""Making a mirror, and opening one by its target."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from xenpv.closing import Closing
from xenpv.errors import StorageError

from ..base import SECTOR, Done, Storage, StorageBusyError, StorageRequest
from ..layers import AsyncStorage, Layer, asynchronous
from ..registry import Opening, open_target
from .metadata import ACTIVE, LockedFile, Metadata
from .mirror import Mirror

RATE = 50 << 20
"""Bytes a second that are copied to a leg, by default."""


class _OneLeg(Layer):
    """A leg that has everything, only read; the mirror's file stays locked."""

    def __init__(self, below: AsyncStorage, name: str, metadata: Closing) -> None:
        super().__init__(below)
        self.below: AsyncStorage = below
        self._name = name
        self._metadata = metadata

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._name

    def submit(self, requests: Sequence[StorageRequest], done: Done) -> None:
        self.below.submit(requests, done)

    def close(self) -> None:
        super().close()
        self._metadata.close()


def _load(path: str, readonly: bool) -> Metadata:
    blocks = LockedFile(path, readonly=readonly)
    try:
        return Metadata(blocks, path)
    except OSError as error:
        blocks.close()
        raise StorageError(f"mirror: cannot read {path}: {error.strerror}") from error
    except BaseException:
        blocks.close()
        raise


def open_mirror(opening: Opening) -> Storage:
    """``mirror:FILE``, with ``rate=SIZE``. Raises StorageBusyError, StorageError."""
    path, name = opening.target, f"mirror:{opening.target}"
    rate = opening.parameters.size("rate", RATE) or RATE
    opening.parameters.done()
    if not path.startswith("/"):
        raise StorageError(f"{name} is no absolute path: name the file that `xenpv mirror create` made")
    metadata = _load(path, opening.readonly)
    if opening.readonly:
        return _open_one(name, metadata, opening.cache)
    return Mirror(name, metadata, lambda target: asynchronous(open_target(target, False, opening.cache)), rate=rate)


def _open_one(name: str, metadata: Metadata, cache: str) -> Storage:
    causes = []
    for leg in metadata.header.legs:
        if leg.state != ACTIVE:
            causes.append(f"{leg.target} is stale")
            continue
        try:
            return _OneLeg(asynchronous(open_target(leg.target, True, cache)), name, metadata)
        except StorageBusyError:
            metadata.close()
            raise
        except StorageError as error:
            causes.append(str(error))
    metadata.close()
    raise StorageError(f"{name}: no leg that has everything can be opened: {'; '.join(causes)}")


def create_mirror(path: str, targets: Sequence[str], *, copies: int = 1, same: bool = False,
                  opens: Callable[[str], Storage] | None = None) -> int:
    """Write the file of a new mirror of these legs, and return its size in bytes.

    The first leg is what the others become; `same`: they are equal already, and nothing is copied. The size is the
    smallest leg's, of which the first must have no more. Raises StorageError; then no file is left.
    """
    if len(targets) < 2 or len(targets) > 8 or len(set(targets)) < len(targets):
        raise StorageError("mirror: want two to eight legs, each another one")
    if not 1 <= copies <= len(targets):
        raise StorageError(f"mirror: {copies} copies of a write on {len(targets)} legs: want 1 to {len(targets)}")
    sizes = []
    for target in targets:
        with (opens or (lambda target: open_target(target, False, "auto")))(target) as storage:
            sizes.append(storage.facts.size)
    if min(sizes) < sizes[0]:
        raise StorageError(f"mirror: {targets[0]} has {sizes[0]} bytes and another leg only {min(sizes)}: put the smallest "
                           "first, or make the others as large")
    with LockedFile(path, readonly=False, create=True) as blocks:
        try:
            Metadata.create(blocks, targets, sizes[0] // SECTOR * SECTOR, copies=copies, same=same)
        except OSError as error:
            os.unlink(path)
            raise StorageError(f"mirror: cannot write {path}: {error.strerror}") from error
    return sizes[0]


def show_mirror(path: str) -> Metadata:
    """What stands in the file of a mirror that no disk uses; close() it. Raises StorageBusyError, StorageError."""
    return _load(path, True)
