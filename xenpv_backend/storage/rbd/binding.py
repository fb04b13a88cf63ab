"""Ceph's own Python modules, rados and rbd, where they can be had.

Debian installs them for the system's Python (python3-rbd). One of the same version in a virtual environment can load them too.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from importlib import import_module
from importlib.machinery import PathFinder
from typing import Any, Final

from xenpv.errors import StorageError

DISTRIBUTION: Final = "/usr/lib/python3/dist-packages"

_LOADING: Final = threading.Lock()
"""Two disks may be opened at once, and a module that is half loaded stands in sys.modules already."""


def load() -> tuple[Any, Any]:
    """The modules rados and rbd. Raises StorageError when they are not installed for this Python."""
    with _LOADING:
        return _load("rados"), _load("rbd")


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        spec = PathFinder.find_spec(name, [DISTRIBUTION])
        if spec is None or spec.loader is None:
            raise StorageError(f"RBD needs Ceph's Python modules for Python {sys.version_info[0]}.{sys.version_info[1]}, "
                               "which are not here: `apt-get install python3-rbd`, or serve the image by qemu-nbd and "
                               "name it nbd://") from error
        try:
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        except ImportError as problem:
            sys.modules.pop(name, None)
            raise StorageError(f"RBD: {DISTRIBUTION}/{name} cannot be loaded: {problem}") from problem
        return module
