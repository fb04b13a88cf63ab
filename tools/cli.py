"""``xenpv``: finds the verb, and turns what goes wrong into one line and an exit status.

RULES

- Nothing of a verb is imported before it is asked for: the table COMMANDS is all that --help needs.
- One line on stderr, ``xenpv: cause: mend``. Exit status 0; 1: it failed; 2: it cannot be meant; 130: Ctrl-C. A trace
  is shown for what nobody expected alone, and only with -vv.
- -N changes nothing: a verb that has no dry run refuses it (session.verb).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

import click

from xenpv.errors import UsageError, XenpvError

from .output import dumps
from .session import Session, one_line

__all__ = ["COMMANDS", "group", "main"]

_NO_VERB: type[click.UsageError] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""A group without its verb, since click 8.2; before, click itself shows the help."""

COMMANDS: dict[str, dict[str, str]] = {
    "The main job": {
        "demo": "Serve a disk image to two guests of an emulated Xen, with a report.",
        "bench": "Measure against raw I/O and peers.",
    },
    "Domains": {
        "emu": "The emulated Xen: up, down, status.",
        "create": "Make a domain from a configuration.",
        "destroy": "End domains at once.",
        "list": "The domains that there are.",
        "domid": "The number of a domain.",
        "domname": "The name of a domain.",
        "info": "The hypervisor, as xenpv sees it.",
        "uptime": "Since when domains run.",
    },
    "Disks": {
        "block-attach": "Give a domain a disk.",
        "block-list": "The disks of domains.",
        "block-detach": "Take a disk away from a domain.",
        "block-resize": "Change the size of a disk in use.",
        "backend": "The backend: serve every disk that is offered to this domain.",
        "disk": "The guest's side: use a disk of this domain from user space.",
        "mirror": "A disk on several storages: create, show.",
        "bundle": "Boot bundles: one file, many images, guests that boot from it.",
    },
    "What disks do": {
        "latency": "How long a disk's requests took, and where.",
        "top": "Every disk live: requests, bytes, times, notifications.",
        "record": "Write a disk's times into a file.",
        "plot": "A recording as a picture: SVG, PNG or HTML.",
        "exporter": "Counters and times for Prometheus.",
    },
    "Look inside": {
        "store": "xenstore: ls, read, write, rm, watch, chmod.",
        "grant": "The grants of the emulated Xen's domains.",
        "event": "The event channels of the emulated Xen's domains.",
        "ring": "The shared ring of a disk, decoded.",
        "time": "The time page: publish, read, show, doctor.",
    },
    "This machine": {
        "selftest": "Try: the contract checks on this hypervisor.",
        "doctor": "Look: what is missing here, and the mend.",
        "host": "What stock xl needs on a Xen host: install, uninstall.",
        "testhost": "A real Xen host in QEMU: build, run, shell.",
    },
}
"""What --help shows, by section. The verb a-b is the file commands/a_b.py; one without its file is not shown."""


def _module(name: str) -> str:
    return name.replace("-", "_")


class LazyGroup(click.Group):
    """The verbs of COMMANDS, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        folder = Path(__file__).with_name("commands")
        return [name for section in COMMANDS.values() for name in section if (folder / f"{_module(name)}.py").exists()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{__package__}.commands.{_module(cmd_name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        there = self.list_commands(ctx)
        for title, section in COMMANDS.items():
            rows = [(name, text) for name, text in section.items() if name in there]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_spacing=4)


@click.group(cls=LazyGroup, invoke_without_command=True, no_args_is_help=False,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--hypervisor", metavar="URI",
              help="xen:, emulated:DIR, or emulated:DIR#N for its domain N. "
                   "Default: $XENPV_HYPERVISOR, else xen: where /dev/xen is, else emulated:.")
@click.option("-v", "--verbose", count=True, help="Say more; twice: all of it.")
@click.option("-N", "--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("-f", "--force", is_flag=True, help="Do it even so; the help of a verb that has -f says when.")
@click.option("--json", "json_", is_flag=True, help="Show results as JSON.")
@click.option("--version", is_flag=True, help="Show the versions of the package and of what it speaks.")
@click.pass_context
def group(ctx: click.Context, hypervisor: str | None, verbose: int, dry_run: bool, force: bool, json_: bool,
          version: bool) -> None:
    """Xen paravirtual block I/O in user space: backend, frontend, toolstack and an emulated Xen.

    A DOMAIN is a number or a name, a DEVICE is a name such as xvda or its number.
    """
    session = ctx.ensure_object(Session)
    session.hypervisor = hypervisor
    session.verbose += verbose
    session.dry_run, session.force, session.json = dry_run, force, json_
    if version:
        from .versions import versions

        found = versions()
        click.echo(dumps(found) if json_ else f"xenpv {found['package']}")
        ctx.exit(0)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """The command: its exit status. Whatever goes wrong is one line on stderr."""
    session = Session()
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        status = group.main(args=None if argv is None else list(argv), prog_name="xenpv", standalone_mode=False,
                            obj=session)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        _mute_stdout()
        return 1
    except click.ClickException as error:
        if isinstance(error, _NO_VERB) and error.ctx:
            click.echo(error.ctx.get_help(), err=True)
            return 2
        return _complain(_click_text(error), error.exit_code)
    except UsageError as error:
        return _complain(str(error), 2)
    except XenpvError as error:
        return _complain(str(error), 1)
    except OSError as error:
        logging.getLogger(__name__).debug("the trace of this error", exc_info=True)
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), 1)
    except Exception as error:  # whatever it is, it is not the user's fault
        if session.verbose >= 2:
            traceback.print_exc()
        advice = "report the trace above" if session.verbose >= 2 else "-vv shows the trace to report"
        return _complain(f"{type(error).__name__}: {error}: this is a bug in xenpv, {advice}", 1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: FrameType | None) -> None:
    """What was begun is undone, as with Ctrl-C."""
    raise SystemExit(128 + number)


def _complain(text: str, status: int) -> int:
    print(f"xenpv: {one_line(text)}", file=sys.stderr)
    return status


def _click_text(error: click.ClickException) -> str:
    """Click's own text, with where to read on."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "xenpv"
        return f"{text[:1].lower()}{text[1:]}: see `{path} --help`"
    return text


def _mute_stdout() -> None:
    """Nobody reads any more: what is still buffered goes nowhere, so that Python's end does not complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
