"""Which word of a target opens what: ours, and those of installed distributions (entry points).

RULES
- A plug-in's own exception is a StorageError for whoever opens the disk, in one line that names the plug-in.
- What a plug-in says of its disk is checked once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from xenpv.errors import StorageError, XenpvError

from .base import SECTOR, Storage, StorageFacts, foreign_error
from .layers import AsyncStorage, asynchronous, held_to_the_rules
from .target import Parameters, parse_target

STORAGE_GROUP: Final = "xenpv.storage"
FILTER_GROUP: Final = "xenpv.storage.filter"

_SECTORS_MAX: Final = 1 << 54
_SECTOR_SIZES: Final = (512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a storage is opened with."""

    word: str
    """The word before the colon, by which it was found."""
    target: str
    """What stands behind that colon."""
    readonly: bool
    cache: str
    """One of cache.CACHES: the backend's option. What has no page cache need not look."""
    parameters: Parameters


Opens = Callable[[Opening], Storage]


@dataclass(frozen=True, slots=True)
class Filter:
    """How a filter is put on a storage. `make` is given that, whether the disk is read-only, and the parameters."""

    make: Callable[[AsyncStorage, bool, Parameters], Storage]
    readonly_below: bool = False
    """What is under it is opened read-only, whatever the disk is."""
    keeps_descriptor: bool = False
    """The storage may go on by its descriptor, in the core: `make` is not called then."""


FORMATS: Final[dict[str, Opens]] = {}
FILTERS: Final[dict[str, Filter]] = {}


def is_filter(word: str) -> bool:
    """Whether `word` is a filter, ours or a plug-in's. Nothing is imported for that."""
    return word in FILTERS or (word not in FORMATS and bool(entry_points(group=FILTER_GROUP, name=word)))


def known_formats() -> list[str]:
    """Every word that opens a storage."""
    return sorted({*FORMATS, *entry_points(group=STORAGE_GROUP).names})


def plug_ins() -> list[str]:
    """The words of installed distributions."""
    return sorted({*entry_points(group=STORAGE_GROUP).names, *entry_points(group=FILTER_GROUP).names} - {*FORMATS, *FILTERS})


def known_filters() -> list[str]:
    return sorted({*FILTERS, *entry_points(group=FILTER_GROUP).names})


def open_target(text: str, readonly: bool, cache: str) -> Storage:
    """The storage that `text` names, with its filters, locked. Raises StorageBusyError, StorageError."""
    target = parse_target(text, is_filter)
    steps: list[tuple[Filter, bool, Parameters]] = []
    for word, values in target.filters:
        found = _filter(word)
        steps.append((found, readonly, Parameters(word, values)))
        readonly = readonly or found.readonly_below
    storage = _open(target.word, target.rest, readonly, cache, target.parameters)
    try:
        for found, above, parameters in reversed(steps):
            storage = _wrap(storage, found, above, parameters)
    except BaseException:
        storage.close()
        raise
    return storage


def _open(word: str, rest: str, readonly: bool, cache: str, values: Mapping[str, str]) -> Storage:
    opens: Opens = FORMATS.get(word) or _plug_in(STORAGE_GROUP, word, f"format {word} is not served (only "
                                                 f"{', '.join(known_formats())}; filters: {', '.join(known_filters())}): "
                                                 "convert the image, `qemu-img convert -O raw`, or serve it by qemu-nbd "
                                                 "and name it nbd://")
    parameters = Parameters(word, values)
    opening = Opening(word, rest, readonly, cache, parameters)
    storage: Storage = _guarded(word, lambda: opens(opening))
    try:
        parameters.done()
        if word not in FORMATS:
            check_facts(word, storage.facts, readonly)
            return storage if storage.fileno() >= 0 else held_to_the_rules(storage)
        return storage if storage.fileno() >= 0 else asynchronous(storage)
    except BaseException:
        storage.close()
        raise


def _wrap(storage: Storage, found: Filter, readonly: bool, parameters: Parameters) -> Storage:
    if found.keeps_descriptor:
        parameters.done()
        return storage
    made = _guarded(parameters.word, lambda: found.make(asynchronous(storage), readonly, parameters))
    try:
        parameters.done()
        if parameters.word not in FILTERS:
            check_facts(parameters.word, made.facts, readonly)
            return held_to_the_rules(made)
    except BaseException:
        made.close()
        raise
    return asynchronous(made)


def _filter(word: str) -> Filter:
    found = FILTERS.get(word)
    if found is None:
        loaded = _plug_in(FILTER_GROUP, word, f"there is no filter {word}: only {', '.join(known_filters())}")
        found = loaded if isinstance(loaded, Filter) else Filter(loaded)
    return found


def _plug_in(group: str, word: str, unknown: str) -> Any:
    entries = list(entry_points(group=group, name=word))
    if not entries:
        raise StorageError(unknown)
    if len({entry.value for entry in entries}) > 1:
        raise StorageError(f"{word} is claimed by several plug-ins ({', '.join(entry.value for entry in entries)}): "
                           "uninstall all but one")
    return _guarded(word, entries[0].load)


def _guarded(word: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except XenpvError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in's, whatever it is: the disk is refused, the backend goes on
        raise foreign_error(word, error) from error


def check_facts(word: str, facts: StorageFacts, readonly: bool) -> None:
    """That a disk may be so. Raises StorageError."""
    wrong = None
    if not 0 < facts.sectors < _SECTORS_MAX:
        wrong = f"a size of {facts.sectors} sectors"
    elif facts.sector_size not in _SECTOR_SIZES:
        wrong = f"a sector size of {facts.sector_size}"
    elif facts.size % facts.sector_size:
        wrong = f"{facts.size} bytes, no whole sectors of {facts.sector_size}"
    elif facts.physical_sector_size < SECTOR or facts.physical_sector_size % facts.sector_size:
        wrong = f"a physical sector size of {facts.physical_sector_size}"
    elif facts.discard and facts.discard_granularity <= 0:
        wrong = "discard without a granularity"
    elif readonly and not facts.readonly:
        wrong = "to be writable, when it was to be read-only"
    if wrong:
        raise StorageError(f"{word}: the plug-in claims {wrong}: that is its fault")
