"""Requests on what a connection has: WATCH, UNWATCH, RESET_WATCHES, TRANSACTION_START, TRANSACTION_END.

Source: docs/misc/xenstore.txt of Xen, "Watches" and "Transactions".
"""

from __future__ import annotations

from functools import partial

from xenpv.errors import StoreError
from xenpv.wire.xs import Feature

from .request import OK, Request, number
from .watches import Watch


def watch(request: Request) -> bytes:
    """WATCH path token [depth]: add a watch. It fires once, behind the answer."""
    raw, token, *depth = request.strings(2, 3 if request.domain.features & Feature.WATCH_DEPTH else 2)
    path = request.path(raw, special=True)
    prefix = len(request.domain.base) + 1 if raw[:1] not in (b"/", b"@") else 0
    added = Watch(request.connection, path, token, prefix, number(depth[0]) if depth else None)
    request.store.watches.add(added)
    request.afterwards.append(partial(added.fire, path))
    return OK


def unwatch(request: Request) -> bytes:
    """UNWATCH path token: remove a watch."""
    raw, token = request.strings(2, 2)
    request.store.watches.remove(request.connection, request.path(raw, special=True), token)
    return OK


def reset_watches(request: Request) -> bytes:
    """RESET_WATCHES: remove the connection's watches and drop its transactions, also the one it was sent in."""
    request.connection.reset()
    return OK


def transaction_start(request: Request) -> bytes:
    """TRANSACTION_START: begin, and give the id."""
    if request.packet.tx_id:
        raise StoreError("a transaction within a transaction", "EBUSY")
    return b"%d\0" % request.connection.start_transaction()


def transaction_end(request: Request) -> bytes:
    """TRANSACTION_END T or F: commit or drop the transaction; its id is no longer good either way."""
    verdict = request.string()
    if verdict not in (b"T", b"F"):
        raise StoreError("a transaction ends with T or F", "EINVAL")
    view = request.connection.end_transaction(request.packet.tx_id)
    if verdict == b"T":
        request.store.commit(view, request.domain)
    return OK
