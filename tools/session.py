"""What every verb is given: the options that all have in common, and the way to the hypervisor.

RULES

- A verb is made with `@click.command` over `@verb(...)`, and gets the Session as its first argument.
- A verb says what it can: `json` when it shows something, `dry_run` when it changes something and can leave it,
  `force` in the words that -h shows for -f. A -N or --json that a verb cannot heed is refused, never ignored.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from xenpv.errors import UsageError

from .output import dumps

if TYPE_CHECKING:
    from xenpv.domain import Domain

    from .domains import Domains

__all__ = ["Session", "one_line", "verb"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class Session:
    """One run of the command."""

    hypervisor: str | None = None
    """A URI, or None for the default."""
    verbose: int = 0
    dry_run: bool = False
    force: bool = False
    json: bool = False

    def uri(self) -> str:
        """The hypervisor that is meant."""
        from xenpv.hypervisors import default_uri

        return self.hypervisor or default_uri()

    def open_domain(self) -> Domain:
        """This process's place on the hypervisor. Raises HypervisorError, UsageError."""
        from xenpv.hypervisors import open_domain

        return open_domain(self.uri())

    def domains(self) -> Domains:
        """The toolstack's view. Raises HypervisorError, UsageError."""
        from .domains import open_domains

        return open_domains(self.uri())

    def run_directory(self) -> Path:
        """Where the backend of this process's domain has its files. Raises UsageError."""
        from xenpv.hypervisors.emulated.rundir import default_directory, domain_directory

        from .domains import emulated_run_directory

        uri = self.uri()
        if not uri.startswith("emulated:"):
            return default_directory()
        try:
            return emulated_run_directory(uri)
        except UsageError:
            return domain_directory(uri)  # of a driver domain

    def show(self, data: Any, text: str) -> None:
        """The result on stdout: `data` with --json, else `text`."""
        if self.json:
            click.echo(dumps(data))
        elif text:
            click.echo(text)

    def say(self, text: str) -> None:
        """One line on stderr, beside the result."""
        click.echo(f"xenpv: {one_line(text)}", err=True)


def one_line(text: str) -> str:
    """`text` without line ends or anything else that would act on a terminal."""
    return "".join(char if char.isprintable() else " " for char in " ".join(text.split()))


def verb(*, json: bool = False, dry_run: bool = False, force: str = "",
         changes: bool = True) -> Callable[[Callable[Concatenate[Session, P], R]], Callable[P, R]]:
    """The common options, and the Session as the first argument.

    A verb that only looks (`changes` false) may be run dry as it is.
    """
    def decorate(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            session = click.get_current_context().ensure_object(Session)
            for wanted, able, name in ((session.dry_run, dry_run or not changes, "-N"), (session.json, json, "--json")):
                if wanted and not able:
                    raise click.UsageError(f"This verb has no {name}")
            _log(session.verbose)
            return function(session, *args, **kwargs)

        _option(wrapper, "-v", "--verbose", count=True, help="Say more; twice: all of it.", callback=_more)
        if dry_run:
            _option(wrapper, "-N", "--dry-run", is_flag=True, callback=_set,
                    help="Show what would be done, and change nothing.")
        if force:
            _option(wrapper, "-f", "--force", is_flag=True, callback=_set, help=force)
        if json:
            _option(wrapper, "--json", is_flag=True, callback=_set, help="Show the result as JSON.")
        return wrapper

    return decorate


def _option(function: Callable[..., Any], *names: str, **settings: Any) -> None:
    click.option(*names, expose_value=False, **settings)(function)


def _set(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        setattr(ctx.ensure_object(Session), str(param.name), True)


def _more(ctx: click.Context, param: click.Parameter, value: int) -> None:
    ctx.ensure_object(Session).verbose += value


def _log(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, stream=sys.stderr, format="xenpv: %(message)s", force=True)
