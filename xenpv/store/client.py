"""The verbs: `XenStore` and what is given to a transaction's function."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Self, TypeVar

from ..errors import ClosedError, ConflictError, NoEntryError, QuotaError, StoreConnectionError, StoreError
from .connection import DIRECTORY_PART, RESET_WATCHES, Op
from .router import Router
from .rules import (check_path, check_permissions, check_watch_path, nonsense, parse_ok, parse_string, parse_strings,
                    parse_transaction, short)
from .watch import StoreWatch
from .xenbus import open_connection
from xenpv.closing import Closing

T = TypeVar("T")
Names = list[str]
Node = tuple[str, bytes, Names]
Todo = list[tuple[str, Node | None]]

DIRECTORY_MAX = 1 << 24
"""Bytes of names that list() takes from one directory."""

DIRECTORY_ATTEMPTS = 16
"""Times that list() starts again because the directory changed under it."""

LONGEST_PAUSE = 0.05
"""Seconds between two attempts at a transaction, at most: so that those who meet do not meet again."""


class Verbs:
    """A `Transaction` of xenpv.domain: every request carries `tx_id`, which is 0 for the store itself."""

    def __init__(self, router: Router, tx_id: int = 0, generation: int | None = None) -> None:
        self._router = router
        self._tx_id = tx_id
        self._generation = generation

    def _call(self, op: int, subject: str, payload: bytes) -> bytes:
        if len(payload) > self._router.connection.payload_max:
            raise QuotaError(f"xenstore {subject}: path and value are {len(payload)} bytes, more than the "
                             f"{self._router.connection.payload_max} of one message", "E2BIG")
        return self._router.call(op, payload, subject, tx_id=self._tx_id, generation=self._generation)

    def read(self, path: str) -> bytes:
        """The value, every byte of it. Raises NoEntryError, StoreError."""
        return self._call(Op.READ, f"read {short(path)}", check_path("read", path))

    def write(self, path: str, value: bytes | str) -> None:
        """Set the value, of any bytes or none (str: as UTF-8). Nodes that are missing on the way are made."""
        data = value.encode() if isinstance(value, str) else memoryview(value).tobytes()  # bytes(5) would be five NULs
        subject = f"write {short(path)}"
        parse_ok(subject, self._call(Op.WRITE, subject, check_path("write", path) + data))

    def mkdir(self, path: str) -> None:
        """Make the node, empty, unless it is there."""
        self._acknowledged(Op.MKDIR, "mkdir", path)

    def remove(self, path: str) -> None:
        """Remove the node and all below it. Nothing happens without it; NoEntryError without its parent."""
        self._acknowledged(Op.RM, "remove", path)

    def list(self, path: str) -> Names:
        """The names of the node's children, however many. Raises NoEntryError, StoreError."""
        subject = f"list {short(path)}"
        name = check_path("list", path)
        try:
            return parse_strings(subject, self._call(Op.DIRECTORY, subject, name))
        except QuotaError as error:
            if error.code != "E2BIG":
                raise
            return self._list_in_parts(subject, name, error)

    def exists(self, path: str) -> bool:
        """Whether the node is there. Raises AccessDeniedError where that may not be known."""
        try:
            self._call(Op.READ, f"look for {short(path)}", check_path("look for", path))
        except NoEntryError:
            return False
        return True

    def get_permissions(self, path: str) -> Names:
        """The permissions as xenstored says them, such as ``["n0", "r5"]``."""
        subject = f"get permissions {short(path)}"
        return parse_strings(subject, self._call(Op.GET_PERMS, subject, check_path("get permissions", path)))

    def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        """Set them. The first names the owner and what all others may."""
        subject = f"set permissions {short(path)}"
        payload = check_path("set permissions", path) + check_permissions(path, permissions)
        parse_ok(subject, self._call(Op.SET_PERMS, subject, payload))

    def _acknowledged(self, op: int, verb: str, path: str) -> None:
        subject = f"{verb} {short(path)}"
        parse_ok(subject, self._call(op, subject, check_path(verb, path)))

    def _list_in_parts(self, subject: str, name: bytes, too_big: QuotaError) -> Names:
        """DIRECTORY_PART from offset to offset, from the start again when the directory's generation changed.

        Each answer: the generation, NUL, and whole names with their NULs; one NUL more ends the last one (libxenstore,
        xs_directory_part).
        """
        for _ in range(DIRECTORY_ATTEMPTS):
            generation, names = b"", b""
            while len(names) <= DIRECTORY_MAX:
                try:
                    answer = self._call(DIRECTORY_PART, subject, name + b"%d\0" % len(names))
                except StoreError as error:
                    raise too_big if error.code == "ENOSYS" else error
                found, nul, part = answer.partition(b"\0")
                if not nul or not part:
                    raise nonsense(subject, "a part of a directory that is empty")
                if names and found != generation:
                    break
                generation = found
                names += part
                if names == b"\0" or names.endswith(b"\0\0"):
                    return parse_strings(subject, names[:-1])
            else:
                raise nonsense(subject, f"a directory of more than {DIRECTORY_MAX} bytes")
        raise ConflictError(f"xenstore {subject}: the directory changed {DIRECTORY_ATTEMPTS} times while it was read",
                            "EAGAIN")


class StoreTransaction(Verbs):
    """The store inside one transaction. Good until the function that was given it returns."""

    _ended = False

    def _call(self, op: int, subject: str, payload: bytes) -> bytes:
        if self._ended:
            raise ClosedError(f"xenstore {subject}: the transaction has ended")
        return super()._call(op, subject, payload)

    @classmethod
    def start(cls, router: Router) -> Self:
        """Begin one."""
        generation = router.connected("start transaction")
        answer = router.call(Op.TRANSACTION_START, b"\0", "start transaction", generation=generation,
                             on_late=lambda late: _end_late(router, late))
        return cls(router, parse_transaction("start transaction", answer), generation)

    def end(self, commit: bool) -> None:
        """Commit or abort. Raises ConflictError when xenstored wants it done again."""
        subject = "commit transaction" if commit else "abort transaction"
        try:
            parse_ok(subject, self._call(Op.TRANSACTION_END, subject, b"T\0" if commit else b"F\0"))
        finally:
            self._ended = True

    def abandon(self, cause: BaseException) -> None:
        """Abort because of `cause`, which is what the caller hears of."""
        try:
            self.end(False)
        except StoreConnectionError:
            pass  # xenstored aborts the transactions of a connection that ends
        except (StoreError, ClosedError) as error:
            cause.add_note(f"and the transaction could not be aborted: {error}")


class XenStore(Verbs, Closing):
    """A `Store` of xenpv.domain, safe for any number of threads.

    `path`: xenstored's Unix socket, or /dev/xen/xenbus; None: the first of the two that is there. `domid`: the domain
    that it belongs to, for messages alone. `timeout`: seconds that any request may take. `reconnect`: seconds that a lost
    connection is tried again (0: never, None: for ever); meanwhile requests wait, each at most its timeout. Raises
    StoreConnectionError when there is nobody to connect to.

    A request that was under way when the connection broke fails with StoreConnectionError and is not repeated. After a
    reconnect every watch fires once more.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, domid: int | None = None, timeout: float = 5.0,
                 reconnect: float | None = 10.0) -> None:
        super().__init__(Router(open_connection(path, timeout), timeout=timeout, reconnect=reconnect))
        self.domid = domid
        self._tokens = iter(range(1, 1 << 62))
        self._router.start()

    def __repr__(self) -> str:
        whose = "" if self.domid is None else f" of domain {self.domid}"
        return f"<xenstore{whose} at {self._router.connection.path}>"

    def close(self) -> None:
        """Close connection, thread and watches. Requests and waits in other threads end with ClosedError."""
        self._router.terminate()

    def transact(self, function: Callable[[StoreTransaction], T], *, attempts: int = 16) -> T:
        """Run `function` in a transaction, again from the start while it meets others, at most `attempts` times.

        An exception of `function` aborts the transaction, and is raised. Raises ConflictError after the last attempt;
        StoreConnectionError when the connection broke within it: if that was at the commit, it may have been made.
        """
        if attempts < 1:
            raise ValueError(f"a transaction needs at least one attempt, not {attempts}")
        for attempt in range(attempts):
            if attempt:
                time.sleep(min(0.001 * 2**attempt, LONGEST_PAUSE) * random.random())
            transaction = StoreTransaction.start(self._router)
            try:
                result = function(transaction)
            except ConflictError as conflict:
                transaction.abandon(conflict)
                continue
            except BaseException as error:
                transaction.abandon(error)
                raise
            try:
                transaction.end(True)
            except ConflictError:
                continue
            return result
        raise ConflictError(f"xenstore transaction: it met another one {attempts} times; who else writes these nodes?",
                            "EAGAIN")

    def write_all(self, values: Mapping[str, bytes | str]) -> None:
        """Write every path of `values` in one transaction, in order."""
        def write(transaction: StoreTransaction) -> None:
            for path, value in values.items():
                transaction.write(path, value)
        self.transact(write)

    def watch(self, path: str, *, depth: int | None = None, limit: int = 1024) -> StoreWatch:
        """Watch `path`, or ``@introduceDomain`` or ``@releaseDomain``. The first event comes at once.

        `depth`: levels below `path` that matter (None: all, 0: itself alone). At most `limit` distinct paths are kept
        pending; more become one event of `path` itself.
        """
        check_watch_path(path)
        if limit < 1 or (depth is not None and depth < 0):
            raise ValueError(f"a watch keeps at least one path and looks no less than 0 deep, not {limit} and {depth}")
        watch = StoreWatch(path, f"xenpv-{next(self._tokens)}", depth, limit, self._router.unsubscribe)
        try:
            self._router.subscribe(watch)
        except BaseException:
            watch.shut()
            raise
        return watch

    def reset_watches(self) -> None:
        """Have xenstored drop every watch of this domain's connection, and register ours again: each fires once more.

        For a domain whose kernel was replaced without its xenstore connection being so. Raises StoreError (ENOSYS)
        where xenstored cannot, and (EOPNOTSUPP) on /dev/xen/xenbus, where they are the kernel's too.
        """
        parse_ok("reset watches", self._call(RESET_WATCHES, "reset watches", b"\0"))
        self._router.resubscribe()

    def walk(self, top: str, topdown: bool = True) -> Iterator[Node]:
        """(path, value, names of children) of `top` and every node below, each before its children, or after them.

        A node that vanishes meanwhile is left out; the value of one that may not be read is empty.
        """
        todo: Todo = [(top, None)]
        while todo:
            path, node = todo.pop()
            if node is None:
                try:
                    children = self.list(path)
                    node = path, self._readable(path), children
                except NoEntryError:
                    if path == top:
                        raise
                    continue
                below: Todo = [(f"{path.rstrip('/')}/{name}", None) for name in reversed(children)]
                if not topdown:
                    todo.append((path, node))
                    todo += below
                    continue
                todo += below
            yield node

    def _readable(self, path: str) -> bytes:
        try:
            return self.read(path)
        except StoreError as error:
            if error.code not in ("EACCES", "EPERM"):
                raise
            return b""

    # What only dom0 may ask for: xenstored decides about that, not this process's idea of where it runs.

    def domain_path(self, domid: int) -> str:
        """``/local/domain/<domid>``, whether the domain is there or not."""
        subject = f"get domain path {domid}"
        return parse_string(subject, self._call(Op.GET_DOMAIN_PATH, subject, b"%d\0" % domid))

    get_domain_path = domain_path

    def is_domain_introduced(self, domid: int) -> bool:
        """Whether xenstored is connected to the domain."""
        subject = f"ask for domain {domid}"
        answer = parse_string(subject, self._call(Op.IS_DOMAIN_INTRODUCED, subject, b"%d\0" % domid))
        if answer not in ("T", "F"):
            raise nonsense(subject, "neither T nor F")
        return answer == "T"

    def introduce_domain(self, domid: int, mfn: int, port: int) -> None:
        """Connect xenstored to the domain by its ring page `mfn` and its unbound event channel `port`."""
        self._control(Op.INTRODUCE, "introduce domain", domid, mfn, port)

    def release_domain(self, domid: int) -> None:
        """Disconnect xenstored from the domain."""
        self._control(Op.RELEASE, "release domain", domid)

    def resume_domain(self, domid: int) -> None:
        """Clear xenstored's mark that the domain has shut down, so that its next shutdown fires @releaseDomain."""
        self._control(Op.RESUME, "resume domain", domid)

    def set_target(self, domid: int, target: int) -> None:
        """Give the domain all the rights of `target`."""
        self._control(Op.SET_TARGET, "set target of domain", domid, target)

    def _control(self, op: int, verb: str, domid: int, *numbers: int) -> None:
        subject = f"{verb} {domid}"
        parse_ok(subject, self._call(op, subject, b"".join(b"%d\0" % number for number in (domid, *numbers))))


def _end_late(router: Router, answer: bytes) -> None:
    """A transaction came when nobody waited for it any more: end it, or it counts against the quota."""
    number = answer.removesuffix(b"\0")
    if number.isdigit() and 0 < int(number) <= 0xffffffff:
        router.post(Op.TRANSACTION_END, b"F\0", tx_id=int(number))
