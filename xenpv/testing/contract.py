"""What the checks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NoReturn

from xenpv.domain import Domain
from xenpv.errors import GrantError

MakePair = Callable[[], AbstractContextManager[tuple[Domain, Domain]]]
"""Makes two fresh domains of one hypervisor, and ends them."""

Check = Callable[[Domain, Domain], None]
"""One claim about two domains; its docstring is the claim."""


class ContractError(AssertionError):
    """A claim of the contract does not hold."""


def hold(true: bool, claim: str) -> None:
    """Raise ContractError unless `true`. (An assert would vanish under python -O.)"""
    if not true:
        raise ContractError(claim)


@contextmanager
def refused(error: type[Exception], claim: str, *, status: int | None = None) -> Iterator[None]:
    """What is done inside must raise `error`, a GrantError with Xen's `status`."""
    try:
        yield
    except error as raised:
        if status is not None:
            found = raised.status if isinstance(raised, GrantError) else None
            hold(found == status, f"{claim}: refused with status {found}, not {status}")
        return
    _broken(claim)


def _broken(claim: str) -> NoReturn:
    raise ContractError(claim)


def run(checks: tuple[Check, ...], make_pair: MakePair) -> None:
    """Every check, each with a fresh pair."""
    for check in checks:
        with make_pair() as (first, second):
            check(first, second)
