"""Where a new bundle goes: a file that is there when it is whole, or a block device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xenpv.errors import StorageError, UsageError

from ..disk_io import new_image
from .extract import is_block_device
from .medium import FileMedium

__all__ = ["new_target"]


@contextmanager
def new_target(name: str, *, overwrite: bool) -> Iterator[FileMedium]:
    """What is written to. A file takes the place of `name`, durably, when all went well.

    Raises UsageError when something is there, StorageError.
    """
    path = Path(name)
    if not overwrite and os.path.lexists(name):
        raise UsageError(f"{name} is there already: -f writes over it")
    if is_block_device(name):
        with FileMedium(name) as medium:
            yield medium
        return
    if path.exists() and not path.is_file():
        raise StorageError(f"{name} is neither a file nor a block device")
    with new_image(name) as file:
        with FileMedium(name, file.fileno()) as medium:
            yield medium
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)  # the name is as durable as the bytes
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(f"cannot write {name}: {error.strerror}") from error
