"""xenpv store: xenstore, as the stock xenstore-* clients have it.

Values are any bytes and others' words: they are shown on one line, with whatever a terminal would act on escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from xenpv.domain import Store
from xenpv.errors import AccessDeniedError, NoEntryError, UsageError

from ..output import printable, text_or_hex
from ..session import Session, verb

DEEPEST = 256
"""Levels that `ls` goes down: a path of xenstore has at most 3072 bytes."""


@click.group("store")
def command() -> None:
    """xenstore, as this domain sees it: PATH is absolute, or relative to the domain's own directory."""


def _nodes(store: Store, path: str, level: int, permissions: bool) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(level, path, node) of everything below `path`, in order. What vanishes meanwhile is left out."""
    for name in sorted(store.list(path)):
        below = f"{path.rstrip('/')}/{name}"
        try:
            node: dict[str, Any] = {"name": name, "raw": _readable(store, below)}
            if permissions:
                node["permissions"] = list(store.get_permissions(below))
            yield level, below, node
            if level < DEEPEST:
                yield from _nodes(store, below, level + 1, permissions)
        except (NoEntryError, AccessDeniedError):
            continue


def _readable(store: Store, path: str) -> bytes:
    try:
        return store.read(path)
    except AccessDeniedError:
        return b""


@command.command()
@click.argument("path", required=False)
@click.option("-f", "full", is_flag=True, help="Whole paths, one a line, instead of a tree.")
@click.option("-p", "permissions", is_flag=True, help="Show the permissions too.")
@verb(json=True, changes=False)
def ls(session: Session, path: str | None, full: bool, permissions: bool) -> None:
    """Everything below PATH, as a tree. Default: / in domain 0, the domain's own directory in another."""
    found: list[dict[str, Any]] = []
    with session.open_domain() as domain:
        if path is None:
            path = domain.store.domain_path(domain.domid) if domain.domid else "/"
        for level, below, node in _nodes(domain.store, path, 0, permissions):
            if session.json:
                rights = {"permissions": node["permissions"]} if permissions else {}
                found.append({"path": below, **text_or_hex(node["raw"]), **rights})
                continue
            name = below if full else " " * level + str(node["name"])
            line = f'{printable(name.encode())} = "{printable(node["raw"])}"'
            click.echo(f"{line:<59} ({','.join(node['permissions'])})" if permissions else line)
    if session.json:
        session.show(found, "")


@command.command()
@click.argument("path", nargs=-1, required=True)
@click.option("-p", "prefix", is_flag=True, help="Each value with its path.")
@click.option("-R", "raw", is_flag=True, help="The bytes as they are, and nothing else.")
@verb(json=True, changes=False)
def read(session: Session, path: tuple[str, ...], prefix: bool, raw: bool) -> None:
    """The values of nodes, one a line."""
    with session.open_domain() as domain:
        values = [(each, domain.store.read(each)) for each in path]
    if session.json:
        session.show([{"path": each, **text_or_hex(value)} for each, value in values], "")
    elif raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(value for _, value in values))
    else:
        for each, value in values:
            click.echo((f"{each}: " if prefix else "") + printable(value))


@command.command()
@click.argument("words", nargs=-1, required=True, metavar="PATH VALUE [PATH VALUE]...")
@verb(dry_run=True)
def write(session: Session, words: tuple[str, ...]) -> None:
    """Set values, all in one transaction. Nodes that are missing on the way are made."""
    if len(words) % 2:
        raise UsageError(f"{words[-1]!r} has no value: give PATH VALUE, for each one")
    values = dict(zip(words[::2], words[1::2], strict=True))
    if session.dry_run:
        session.show(None, "\n".join(f'would write {path} = "{printable(value.encode())}"'
                                     for path, value in values.items()))
        return
    with session.open_domain() as domain:
        domain.store.write_all({path: value.encode("utf-8", "surrogateescape") for path, value in values.items()})


@command.command()
@click.argument("path", nargs=-1, required=True)
@click.option("-t", "tidy", is_flag=True, help="Also the nodes above that are empty then.")
@verb(dry_run=True, force="No error when a node is missing.")
def rm(session: Session, path: tuple[str, ...], tidy: bool) -> None:
    """Remove nodes with all below them, all in one transaction."""
    with session.open_domain() as domain:
        if session.dry_run:
            for each in path:
                domain.store.read(each)
                session.show(None, f"would remove {each}")
            return

        def remove(transaction: Any) -> None:
            for each in path:
                if not transaction.exists(each):
                    if session.force:
                        continue
                    raise NoEntryError(f"xenstore remove {each}: there is no such node", "ENOENT")
                transaction.remove(each)
                above = each.rpartition("/")[0]
                while tidy and above and not transaction.list(above) and not transaction.read(above):
                    transaction.remove(above)
                    above = above.rpartition("/")[0]

        domain.store.transact(remove)


@command.command()
@click.argument("path", nargs=-1, required=True)
@click.option("-n", "count", type=click.IntRange(1), help="End after so many events.")
@click.option("-d", "depth", type=click.IntRange(0), help="Levels below PATH that matter.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="End after so long.")
@verb(json=True, changes=False)
def watch(session: Session, path: tuple[str, ...], count: int | None, depth: int | None, timeout: float | None) -> None:
    """The paths of events, as they come. The first of each PATH comes at once."""
    import contextlib
    import json
    import selectors
    import time

    deadline = None if timeout is None else time.monotonic() + timeout
    with session.open_domain() as domain, contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for each in path:
            watched = stack.enter_context(domain.store.watch(each, depth=depth))
            selector.register(watched.fileno(), selectors.EVENT_READ, watched)
        seen = 0
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return
            for key, _ in selector.select(left):
                event = key.data.wait(0)
                if event is None:
                    continue
                click.echo(json.dumps({"path": event}) if session.json else printable(event.encode()))
                seen += 1
                if seen == count:
                    return


@command.command()
@click.argument("path")
@click.argument("permission", nargs=-1, required=True)
@click.option("-r", "recursive", is_flag=True, help="Everything below as well.")
@verb(dry_run=True)
def chmod(session: Session, path: str, permission: tuple[str, ...], recursive: bool) -> None:
    """Set who may do what. A permission is n, r, w or b (none, read, write, both) and a domain's number.

    The first names the owner, and what all others may.
    """
    with session.open_domain() as domain:
        store = domain.store
        paths = [path] + ([below for _, below, _ in _nodes(store, path, 0, False)] if recursive else [])
        for each in paths:
            if session.dry_run:
                old = " ".join(store.get_permissions(each))
                session.show(None, f"would set {each}: {old} -> {' '.join(permission)}")
            else:
                store.set_permissions(each, permission)
