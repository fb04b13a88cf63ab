"""xenpv selftest: the contract checks of xenpv.testing, on this hypervisor."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import click

from xenpv.domain import Domain, Store

from ..session import Session, verb


@click.command("selftest")
@click.argument("subject", nargs=-1)
@verb(json=True)
def command(session: Session, subject: tuple[str, ...]) -> None:
    """Try what this hypervisor promises: one line a claim. All SUBJECTs: grants, events, ring, store.

    It makes domains of its own and ends them. On a real Xen it makes none: both ends are in this domain there, and
    claims about a third are left out. Exit status 1 when a claim does not hold.
    """
    session.open_domain().close()
    checks = list(_checks(session))
    known = sorted({name for name, _, _ in checks})
    for wanted in subject:
        if wanted not in known:
            raise click.UsageError(f"{wanted!r} is no subject: {', '.join(known)}")
    results = []
    for name, claim, run in checks:
        if subject and name not in subject:
            continue
        reason = run()
        results.append({"subject": name, "claim": claim, "result": "fail" if reason else "pass", "reason": reason})
        if not session.json:
            click.echo(f"{'FAIL' if reason else 'pass'}  {name:<7} {claim}{': ' + reason if reason else ''}")
    failed = sum(result["result"] == "fail" for result in results)
    session.show(results, f"{len(results)} claims, {failed} failed")
    if failed:
        click.get_current_context().exit(1)


def _reason(check: Callable[..., None], *subject: Any) -> str | None:
    """Why the claim does not hold, or None."""
    try:
        check(*subject)
    except AssertionError as error:
        return str(error) or "it does not hold"
    except Exception as error:  # whatever a check meets is its result; the others go on
        return f"{type(error).__name__}: {error}"
    return None


_PLACE = "data/xenpv-check"
"""Where the store is tried: below the domain's own directory, where also a guest may write."""

Claim = tuple[str, str, Callable[[], str | None]]


def _checks(session: Session) -> Iterator[Claim]:
    """(subject, claim, run) of every check; run() says why the claim does not hold, or None."""
    from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, NEED_TWO_DOMAINS, RING_CHECKS
    from xenpv.testing import store as store_checks
    from xenpv.testing.ring import own_ring

    def on_pair(check: Callable[[Domain, Domain], None]) -> str | None:
        with _pair(session) as (first, second):
            return _reason(check, first, second)

    left_out = NEED_TWO_DOMAINS if _on_xen(session) else ()
    for subject, checks in (("grants", GRANT_CHECKS), ("events", EVENT_CHECKS)):
        for check in (check for check in checks if check not in left_out):
            yield subject, _claim(check), partial(on_pair, check)

    for flag in (False, True):
        for ring_check in RING_CHECKS:
            mode = "with the flag" if flag else "with event indices"
            yield "ring", f"{_claim(ring_check)} ({mode})", partial(_reason, ring_check, partial(own_ring, flag=flag))

    @contextmanager
    def connection() -> Iterator[Store]:
        with session.open_domain() as domain:
            yield domain.store

    with session.open_domain() as domain:
        home = domain.store.domain_path(domain.domid)
        too_large = {store_checks.check_large_directory} if domain.domid else set()  # for a guest's quota of one node
    for store_check in (check for check in store_checks.CHECKS if check not in too_large):
        yield "store", _claim(store_check), partial(_reason, store_check, connection, _PLACE)
    yield "store", _claim(store_checks.check_watch_paths), partial(_reason, store_checks.check_watch_paths, connection,
                                                                   _PLACE, home)
    yield "store", _claim(store_checks.check_domain_path), partial(_reason, store_checks.check_domain_path, connection)


def _claim(check: Callable[..., Any]) -> str:
    return (inspect.getdoc(check) or check.__name__).splitlines()[0].rstrip(".")


def _on_xen(session: Session) -> bool:
    return session.uri().startswith("xen:")


@contextmanager
def _pair(session: Session) -> Iterator[tuple[Domain, Domain]]:
    """Two fresh domains of this run's own; on a real Xen, two places in this process's domain."""
    from xenpv.hypervisors import open_domain

    with ExitStack() as stack:
        if _on_xen(session):
            yield stack.enter_context(session.open_domain()), stack.enter_context(session.open_domain())
            return
        domains = session.domains()
        opened = []
        for number in range(2):
            domid = domains.create(f"xenpv-selftest-{os.getpid()}-{number}", (), environment={}, cwd="/")
            stack.callback(domains.destroy, domid)
            opened.append(stack.enter_context(open_domain(f"emulated:{domains.run}#{domid}")))
        yield opened[0], opened[1]
