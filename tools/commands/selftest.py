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

from ..domains import Domains
from ..session import Session, verb


@click.command("selftest")
@click.argument("subject", nargs=-1)
@verb(json=True)
def command(session: Session, subject: tuple[str, ...]) -> None:
    """Try what this hypervisor promises: one line a claim. All SUBJECTs: grants, events, ring, store.

    It makes domains of its own and ends them. Exit status 1 when a claim does not hold.
    """
    domains = session.domains()
    domains.status()
    checks = list(_checks(session, domains))
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


Claim = tuple[str, str, Callable[[], str | None]]


def _checks(session: Session, domains: Domains) -> Iterator[Claim]:
    """(subject, claim, run) of every check; run() says why the claim does not hold, or None."""
    from xenpv.testing import EVENT_CHECKS, GRANT_CHECKS, RING_CHECKS
    from xenpv.testing import store as store_checks
    from xenpv.testing.ring import own_ring

    def on_pair(check: Callable[[Domain, Domain], None]) -> str | None:
        with _pair(domains) as (first, second):
            return _reason(check, first, second)

    for subject, checks in (("grants", GRANT_CHECKS), ("events", EVENT_CHECKS)):
        for check in checks:
            yield subject, _claim(check), partial(on_pair, check)

    for flag in (False, True):
        for ring_check in RING_CHECKS:
            mode = "with the flag" if flag else "with event indices"
            yield "ring", f"{_claim(ring_check)} ({mode})", partial(_reason, ring_check, partial(own_ring, flag=flag))

    @contextmanager
    def connection() -> Iterator[Store]:
        with session.open_domain() as domain:
            yield domain.store

    for name, check in inspect.getmembers(store_checks, inspect.isfunction):
        if name.startswith("check_") and name != "check_store":
            yield "store", _claim(check), partial(_reason, check, connection)


def _claim(check: Callable[..., Any]) -> str:
    return (inspect.getdoc(check) or check.__name__).splitlines()[0].rstrip(".")


@contextmanager
def _pair(domains: Domains) -> Iterator[tuple[Domain, Domain]]:
    """Two fresh domains of this run's own."""
    from xenpv.hypervisors import open_domain

    with ExitStack() as stack:
        opened = []
        for number in range(2):
            domid = domains.create(f"xenpv-selftest-{os.getpid()}-{number}", (), environment={}, cwd="/")
            stack.callback(domains.destroy, domid)
            opened.append(stack.enter_context(open_domain(f"emulated:{domains.run}#{domid}")))
        yield opened[0], opened[1]
