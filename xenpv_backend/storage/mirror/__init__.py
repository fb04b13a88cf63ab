"""mirror: a disk on several storages at once."""

from .metadata import ACTIVE, STALE, LockedFile, Metadata
from .mirror import Mirror
from .opening import create_mirror, open_mirror, show_mirror

__all__ = ["ACTIVE", "STALE", "LockedFile", "Metadata", "Mirror", "create_mirror", "open_mirror", "show_mirror"]
