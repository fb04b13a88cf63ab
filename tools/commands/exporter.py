"""xenpv exporter: counters and times for Prometheus."""

from __future__ import annotations

import signal
from functools import partial

import click

from xenpv.signals import ending_on

from ..monitor.source import read_all
from ..session import Session, verb


@click.command("exporter")
@click.option("--listen", default="127.0.0.1:9479", show_default=True, metavar="ADDRESS:PORT",
              help="Where to answer scrapes, at /metrics.")
@click.option("--once", is_flag=True, help="Write the metrics once, for node_exporter's textfile collector.")
@verb(dry_run=True)
def command(session: Session, listen: str, once: bool) -> None:
    """Every vbd's counters and times for Prometheus, until SIGTERM.

    Anybody who can reach the port can read them; by default that is this machine. Needs the extra `exporter`
    (prometheus_client).
    """
    from ..monitor.exporter import listening, parse_listen, text

    run = session.run_directory()
    read = partial(read_all, run)
    host, port = parse_listen(listen)
    if session.dry_run:
        session.show(None, f"would export the disks of the backend in {run} at {host}:{port}")
        return
    if once:
        click.echo(text(read), nl=False)
        return
    with ending_on(signal.SIGTERM, signal.SIGINT) as ending, listening(read, host, port) as port:
        from xenpv_backend.daemon import notify_service_manager

        notify_service_manager("READY=1")
        session.say(f"metrics are at http://{f'[{host}]' if ':' in host else host}:{port}/metrics")
        ending.wait()
        notify_service_manager("STOPPING=1")
