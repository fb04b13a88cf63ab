"""What a guest of the demo runs: ``python -m xenpv_tools.demo.guest``, with its domain's directory and nothing else.

It reads all of xvda, writes it to xvdb, reads that back, and tells domain 0 through its own part of the store,
``data/demo/``:

    done     bytes moved so far
    result   JSON: what was moved, and its SHA-256
    error    one line, when it went wrong
    go       domain 0's word: "load" asks for a measured load on xvda -> result again; "end" ends the guest
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from time import monotonic
from typing import Any

from xenpv.domain import Store
from xenpv.errors import NoEntryError, XenpvError
from xenpv.hypervisors import open_domain
from xenpv_frontend.disk import Disk

from ..bench.cases import CASES
from ..bench.load import run_load

_CHUNK = 1 << 20
_POOL = 8 * _CHUNK
"""Bytes of granted pages of a disk: what streaming and a load may have in flight."""
_TELL_EVERY = 16 << 20
_LOAD_SECONDS = 1.0
_HERE = "data/demo"


class _Told:
    """Domain 0 is told how far we are, every few MiB."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._done = self._told = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._done - self._told >= _TELL_EVERY:
            self._told = self._done
            self._store.write(f"{_HERE}/done", str(self._done))


def _digest(disk: Disk, told: _Told) -> str:
    found = hashlib.sha256()
    for chunk in disk.chunks(_CHUNK):
        found.update(chunk)
        told.add(len(chunk))
    return found.hexdigest()


def copy_and_check(source: Disk, scratch: Disk, told: _Told) -> dict[str, Any]:
    """xvda read whole, written to xvdb, xvdb read back: bytes, digests and seconds."""
    began = monotonic()
    read = _digest(source, told)
    have_read = monotonic()
    with source.open_raw() as reader:
        scratch.write_from(reader, size=_CHUNK)
    scratch.flush()
    told.add(source.size)
    written = monotonic()
    return {"bytes": source.size, "sha256": read, "read_seconds": have_read - began,
            "written_bytes": source.size, "written_sha256": _digest(scratch, told),
            "write_seconds": written - have_read,
            "rescues": source.stats().rescues + scratch.stats().rescues}


def serve(store: Store) -> None:
    """Do the work, tell, and do what domain 0 says until it says "end"."""
    with store.watch(f"{_HERE}/go") as go, open_domain() as domain, \
            Disk.open(domain, "xvda", pool_bytes=_POOL) as source, \
            Disk.open(domain, "xvdb", pool_bytes=_POOL) as scratch:
        store.write(f"{_HERE}/result", json.dumps(copy_and_check(source, scratch, _Told(store))))
        while True:
            go.wait()
            try:
                word = store.read(f"{_HERE}/go")
            except NoEntryError:
                continue
            if word == b"end":
                return
            if word == b"load":
                store.remove(f"{_HERE}/go")
                result = run_load(source, CASES["randread-4k-qd32"], _LOAD_SECONDS, seed=1)
                store.write(f"{_HERE}/result", json.dumps(asdict(result)))


def main() -> int:
    """The guest's exit status."""
    try:
        with open_domain() as domain:
            try:
                serve(domain.store)
            except XenpvError as error:
                domain.store.write(f"{_HERE}/error", str(error)[:1024])
                raise
    except XenpvError as error:
        print(f"demo guest: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
