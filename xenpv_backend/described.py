"""A vbd's storage and connection, in words and for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .storage import Storage
from .storage.base import Describes, foreign_error


def describe_storage(storage: Storage) -> dict[str, Any]:
    """What it is, and what it says of itself."""
    facts = storage.facts
    about = {"name": storage.name, "cache": storage.cache, "readonly": facts.readonly, "size": facts.size,
             "sector_size": facts.sector_size, "discard": facts.discard}
    return about | {"layers": dict(layers_of(storage))} if isinstance(storage, Describes) else about


def layers_of(storage: Storage | None) -> Mapping[str, Any]:
    """See Describes.describe; empty for a storage that has nothing to say."""
    if not isinstance(storage, Describes):
        return {}
    try:
        return storage.describe()
    except Exception as error:  # a plug-in's, whatever it is: the other disks are shown
        return {"degraded": str(foreign_error(storage.name, error))}


def summary(storage: Storage, about: Mapping[str, Any]) -> str:
    """The log's words for a connection, of which `about` is what Attached.describe() says."""
    words = [f"{storage.name} ({'read-only, ' if storage.facts.readonly else ''}{storage.cache})",
             f"{about['queues']} x {about['ring_entries']} entries", str(about["protocol"]), str(about["engine"])]
    words += [name for name, there in (("notify-flag", about["notify_flag"]), ("persistent", about["persistent"]),
                                       (f"stamps in {about['stamp']}", about["stamp"])) if there]
    return ", ".join(words)
