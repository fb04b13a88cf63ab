"""How a domain asks for its time page, and finds it: keys of the store.

    /local/domain/N/data/xenpv-time/NAME            "1": written by a reader in domain N, gone when it has ended
    /local/domain/0/xenpv/time/N/ref                written by the publisher, readable by domain N: the grant reference
    /local/domain/0/xenpv/time/N/generation         the page's
    /local/domain/0/xenpv/time/generation           the last one given; the next publisher goes on from here

A reader that was killed leaves its key. NAME says which process it was, and the next reader of that domain removes it.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from xenpv.domain import Domain, Store
from xenpv.errors import AccessDeniedError, NoEntryError, StoreError, TimeAbsentError, TimeMalformedError

from .page import PageView, map_page
from .reader import Reader

__all__ = ["TOP", "find_page", "open_reader", "place_of", "subscribe", "subscribers", "wishes_of"]

TOP = "/local/domain/0/xenpv/time"
_NAMES = itertools.count(1)
_NAME = re.compile(r"([0-9]+)-([0-9]+)-([0-9]+)-[0-9]+", re.ASCII)


def place_of(domid: int) -> str:
    """Where the publisher tells domain `domid` its page."""
    return f"{TOP}/{domid}"


def wishes_of(domid: int) -> str:
    """Where the readers in domain `domid` say that they are there."""
    return f"/local/domain/{domid}/data/xenpv-time"


def subscribers(store: Store, domid: int) -> list[str]:
    """The names of the readers in domain `domid`."""
    try:
        return store.list(wishes_of(domid))
    except NoEntryError:
        return []


def _started(pid: int | str) -> str | None:
    """When the process started, in ticks since this kernel did (proc(5), stat, field 22); None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _own_name() -> str:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{os.getpid()}-{_started('self')}-{namespace}-{next(_NAMES)}"


def _is_left_over(name: str) -> bool:
    """Whether the reader of this name was a process of ours to see, and is none any more."""
    found = _NAME.fullmatch(name)
    return bool(found and int(found[3]) == os.stat("/proc/self/ns/pid").st_ino and _started(found[1]) != found[2])


def find_page(domain: Domain) -> PageView:
    """Map the page that the store tells of now. Raises TimeAbsentError, TimeMalformedError, StoreError, HypervisorError."""
    try:
        value = domain.store.read(f"{place_of(domain.domid)}/ref")
    except (NoEntryError, AccessDeniedError) as error:  # what is not there is not ours to read either
        raise TimeAbsentError(f"dom0 publishes no time page for domain {domain.domid}: run `xenpv time publish` there"
                              ) from error
    if not value.isdigit() or int(value) > 0xFFFFFFFF:
        raise TimeMalformedError(f"{place_of(domain.domid)}/ref is {value[:20]!r}, which is no grant reference")
    return map_page(domain, int(value))


def subscribe(domain: Domain) -> Callable[[], None]:
    """Say that somebody in `domain` wants ticks. Returns what takes it back. Raises StoreError."""
    store, top = domain.store, wishes_of(domain.domid)
    for name in filter(_is_left_over, subscribers(store, domain.domid)):
        store.remove(f"{top}/{name}")
    wish = f"{top}/{_own_name()}"

    def unsubscribe() -> None:
        try:
            store.remove(wish)
        except StoreError:
            pass  # the store is gone and the domain with it, or somebody removed the key already

    store.write(wish, "1")
    return unsubscribe


def open_reader(domain: Domain, *, timeout: float = 5.0, clock: Callable[[], int] = time.monotonic_ns) -> Reader:
    """Subscribe `domain`, and wait up to `timeout` seconds for a page that ticks. 0: return at once.

    Raises TimePageError: TimeAbsentError when nobody publishes; StoreError; HypervisorError.
    """
    reader = Reader(lambda: find_page(domain), clock=clock, on_close=subscribe(domain))
    try:
        if timeout > 0:
            reader.wait(timeout)
    except BaseException:
        reader.close()
        raise
    return reader
