"""xenpv time: dom0's time page."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from xenpv.errors import TimeDisruptedError, TimePageError, UsageError
from xenpv.signals import handled, signal_pipe
from xenpv.testing.timepage import Fault, inject
from xenpv.timepage import (Finding, Kernel, Level, Publisher, Reader, Reading, against_kernel, find_page, judge, observe,
                            open_reader)
from xenpv.timepage.page import Cost, Snapshot
from xenpv.wire.timepage import HISTORY

from ..output import dumps, pairs, table
from ..session import Session, verb


@click.group("time")
def command() -> None:
    """The time page: dom0's tick, for each domain that asks (docs/time-page.md)."""


def _lock(path: Path) -> int:
    """The descriptor of the file `path`, locked. Raises UsageError when another publisher has it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except BlockingIOError as error:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise UsageError(f"the time page is published already (pid {pid}, lock {path}): end that process first") from error
        except FileNotFoundError:
            pass
        os.close(fd)  # its last holder removed it between our open and our lock, which keeps nobody out


@contextmanager
def only_publisher(directory: Path) -> Iterator[None]:
    """A lock for as long as the block lasts. Raises UsageError when another publisher has it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "time.lock"
    fd = _lock(path)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


@command.command()
@click.option("--max-age-ms", type=click.IntRange(20, 60_000), default=500, show_default=True, metavar="MS",
              help="Readers take a page whose tick is older for stale.")
@click.option("--fault", type=click.Choice([fault.value for fault in Fault]),
              help="For tests: do this to every page that ticks.")
@click.option("--fault-after", type=click.FloatRange(0), metavar="S",
              help="When, after the first page ticks; without it, on SIGUSR1.")
@verb(dry_run=True)
def publish(session: Session, /, max_age_ms: int, fault: str | None,
            fault_after: float | None) -> None:
    """In dom0: publish the kernel's tick until SIGTERM.

    Each domain that subscribes gets a page of its own, read-only. While nobody is subscribed nothing ticks.
    """
    directory = session.run_directory()
    if session.dry_run:
        session.show(None, f"would publish the time page on {session.uri()}, with a lock in {directory}")
        return
    with ExitStack() as stack:
        domain = stack.enter_context(session.open_domain())
        stack.enter_context(only_publisher(directory))
        woken = stack.enter_context(signal_pipe())
        publisher = stack.enter_context(Publisher(domain, max_age_ns=max_age_ms * 1_000_000))
        publisher.heed(woken)
        stack.enter_context(handled(lambda *_: publisher.stop(), signal.SIGTERM, signal.SIGINT))
        from xenpv_backend.daemon import notify_service_manager

        notify_service_manager("READY=1")
        session.say(f"the time page is published: {publisher.kind.name.lower()}, {1e9 / Kernel().tick_nsec():.0f} Hz")
        if fault:
            _serve_with(publisher, Fault(fault), fault_after)
        publisher.serve()
        notify_service_manager("STOPPING=1")


def _serve_with(publisher: Publisher, fault: Fault, after: float | None) -> None:
    asked = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: asked.set())
    while not publisher.pages and not publisher.stopping:
        publisher.turn()
    deadline = math.inf if after is None else time.monotonic() + after
    while not publisher.stopping and not asked.is_set() and (left := deadline - time.monotonic()) > 0:
        publisher.turn(min(left, 0.05))
    inject(publisher, fault)


@command.command()
@click.option("-c", "--count", type=click.IntRange(1), default=1, show_default=True, help="Read so often.")
@click.option("-i", "--interval", type=click.FloatRange(0), default=1.0, show_default=True, metavar="S",
              help="Seconds between two readings.")
@click.option("--wait", type=click.FloatRange(0), default=5.0, show_default=True, metavar="S",
              help="How long a page is waited for.")
@verb(json=True, changes=False)
def read(session: Session, count: int, interval: float, wait: float) -> None:
    """dom0's tick, and its nanoseconds.

    Nanoseconds between ticks are this domain's own clock, once that agrees with the page; until then the line has a dash.
    With --json a line is an object.
    """
    with session.open_domain() as domain, open_reader(domain, timeout=wait) as reader:
        _settled(reader)
        for number in range(count):
            if number:
                time.sleep(interval)
            _show(session, _good(session, reader))


def _settled(reader: Reader) -> None:
    try:
        reader.settle()
    except TimePageError:
        pass  # the reading that is shown says it again, or it was over by then


def _good(session: Session, reader: Reader) -> Reading:
    """A reading; a disruption is told and read past."""
    try:
        return reader.read()
    except TimeDisruptedError as error:
        session.say(str(error))
        return reader.read()


def _show(session: Session, reading: Reading) -> None:
    epoch = reading.epoch
    values = {"tick": reading.tick, "tick_ns": reading.tick_ns, "ns": reading.ns, "missed": reading.missed,
              "boot_id": str(epoch.boot_id), "generation": epoch.generation, "disruptions": epoch.disruptions}
    if session.json:
        click.echo(dumps(values).replace("\n", "").replace("  ", " "))
    else:
        click.echo(f"{reading.tick} {'-' if reading.ns is None else reading.ns}")


def _fields(copy: Snapshot) -> dict[str, Any]:
    values: dict[str, Any] = {"version": f"{copy.major}.{copy.minor}", "size": copy.size, "sequence": copy.sequence,
                              "alive": copy.alive, "paused": copy.paused}
    values |= asdict(copy.facts) | {"kind": copy.facts.kind.name.lower(), "boot_id": str(copy.facts.boot_id)}
    return values | {name: getattr(copy, name) for name in ("tick", "ns", "written_ns", "disruptions", "missed")}


@command.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also the history of the last 64 ticks.")
@click.option("--wait", type=click.FloatRange(0), default=5.0, show_default=True, metavar="S",
              help="How long a page is waited for.")
@verb(json=True, changes=False)
def show(session: Session, everything: bool, wait: float) -> None:
    """This domain's time page, field by field."""
    with session.open_domain() as domain, open_reader(domain, timeout=wait) as reader:
        view = reader.view
        assert view is not None
        copy = view.read()
    values = _fields(copy)
    history = sorted((point for slot, point in enumerate(copy.history) if point != (0, 0) and point[0] % HISTORY == slot),
                     reverse=True)
    text = pairs(values)
    if everything:
        text += "\n\n" + table(("Tick", "ns", "before"), [(tick, ns, copy.tick - tick) for tick, ns in history],
                               ("Tick", "ns", "before"))
    session.show(values | {"history": [{"tick": tick, "ns": ns} for tick, ns in history]}, text)


@command.command()
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, show_default=True, metavar="S",
              help="How long the page is watched.")
@click.option("--wait", type=click.FloatRange(0), default=5.0, show_default=True, metavar="S",
              help="How long a page is waited for before.")
@verb(json=True, changes=False)
def doctor(session: Session, seconds: float, wait: float) -> None:
    """Watch this domain's time page, and say in words what is wrong with it.

    Exit status 1 when it is not to be relied on.
    """
    cost: Cost | None = None
    beside: Finding | None = None
    with session.open_domain() as domain, open_reader(domain, timeout=0) as reader:
        try:
            reader.wait(wait)
        except TimePageError:
            pass  # what is watched now shows it in more detail
        findings = judge(observe(lambda: find_page(domain), seconds,
                                 begun=lambda: session.say(f"watching the page for {seconds:g} s")))
        if reader.view is not None and reader.view.tick() is not None:
            cost = reader.view.measure()
            beside = against_kernel(reader.view, Kernel()) if domain.domid == 0 else None
    findings = [*([beside] if beside else []), *findings]
    findings.sort(key=lambda finding: [Level.BAD, Level.NOTE, Level.GOOD].index(finding.level))
    text = table(("", "What", ""), [(finding.level, finding.name, finding.text) for finding in findings])
    if cost:
        text += (f"\n\na read of the tick takes {cost.tick:.1f} ns here; clock_gettime: CLOCK_MONOTONIC "
                 f"{cost.monotonic:.0f} ns, COARSE {cost.coarse:.0f} ns")
    bad = any(finding.level is Level.BAD for finding in findings)
    session.show({"healthy": not bad, "findings": [asdict(finding) for finding in findings],
                  "cost_ns": asdict(cost) if cost else None}, text)
    click.get_current_context().exit(1 if bad else 0)
