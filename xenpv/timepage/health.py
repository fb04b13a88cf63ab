"""Is a time page well? What ``xenpv time doctor`` says, from what was seen over a while.

A page is watched by the reader's own clock; `judge` has no clock, so that every verdict can be tried with time as a
parameter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from xenpv.errors import (HypervisorError, TimeDisruptedError, TimeMalformedError, TimePageError, TimeStaleError,
                          TimeTornError)
from xenpv.wire.timepage import HISTORY, Kind

from .clock import OwnClock
from .kernel import Kernel
from .page import PageView, Snapshot
from .reader import PAUSE, Reader

__all__ = ["Finding", "Level", "Observation", "against_kernel", "judge", "observe", "trouble"]


class Level(StrEnum):
    """How much a finding matters. Only `BAD` means that the page is not to be relied on."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the page, in words. `name` is for programs."""

    level: Level
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at the page gave, at `own_ns` of the reader's clock: a copy, or why there was none."""

    own_ns: int
    copy: Snapshot | None
    error: TimePageError | None = None


def observe(locate: Callable[[], PageView], seconds: float, *, clock: Callable[[], int] = time.monotonic_ns,
            sleep: Callable[[float], None] = time.sleep, begun: Callable[[], None] = lambda: None) -> list[Observation]:
    """Look at the page again and again for `seconds`, and at its successor once it is dead.

    `begun` is called after the first look.
    """
    found: list[Observation] = []
    deadline = clock() + int(seconds * 1e9)
    view: PageView | None = None
    try:
        while (now := clock()) < deadline or not found:
            copy: Snapshot | None = None
            error: TimePageError | None = None
            try:
                view = view or locate()
                copy = view.read()
            except TimePageError as trouble:
                error = trouble
            found.append(Observation(now, copy, error))
            if len(found) == 1:
                begun()
            # As the copy has it: a publisher that ends after the copy is seen to be dead by the next one.
            if view is not None and not (copy.alive if copy else view.alive()):
                view.close()
                view = None
            sleep(PAUSE)
    finally:
        if view is not None:
            view.close()
    return found


def judge(seen: Sequence[Observation]) -> list[Finding]:
    """What is wrong with the page, the worst first, and what is well."""
    copies = [(each.own_ns, each.copy) for each in seen if each.copy is not None]
    findings = list(_failures(seen))
    if copies:
        for name in (_life, _standstill, _steps, _epochs, _history, _pace, _facts, _own_clock):
            findings += name(copies)
    order = list(Level)[::-1]
    return sorted(findings, key=lambda finding: order.index(finding.level))


def trouble(locate: Callable[[], PageView], *, clock: Callable[[], int] = time.monotonic_ns,
            sleep: Callable[[float], None] = time.sleep) -> str:
    """Why the page does not tick now, in a line; empty once it is seen to, a tick later.

    Raises StoreError.
    """
    with Reader(locate, clock=clock, sleep=sleep) as reader:
        try:
            first = reader.read().tick
            while reader.read().tick == first:
                sleep(PAUSE)
        except TimeDisruptedError:
            pass  # that is over, and known to those whom it concerns
        except (TimePageError, HypervisorError) as error:
            return str(error)
    return ""


def against_kernel(view: PageView, kernel: Kernel, looks: int = 25) -> Finding | None:
    """In dom0: the page beside the kernel's own jiffies. None where those cannot be read."""
    off: list[int] = []
    for _ in range(looks):
        before = view.tick()
        jiffies = kernel.jiffies()
        after = view.tick()
        if jiffies is None:
            return None
        if before is not None and after is not None:
            off.append(min((before - jiffies, after - jiffies), key=abs))
        time.sleep(PAUSE)
    if not off:
        return None
    near = sum(abs(each) <= 1 for each in off)
    text = (f"{near} of {len(off)} looks at this kernel's jiffies are within one tick of the page, the furthest "
            f"{max(off, key=abs):+d}")
    return _good("jiffies", text) if near >= 0.9 * len(off) else _bad("jiffies", text)


Copies = Sequence[tuple[int, Snapshot]]
Findings = Iterable[Finding]


def _bad(name: str, text: str) -> Finding:
    return Finding(Level.BAD, name, text)


def _note(name: str, text: str) -> Finding:
    return Finding(Level.NOTE, name, text)


def _good(name: str, text: str) -> Finding:
    return Finding(Level.GOOD, name, text)


def _ms(ns: float) -> str:
    return f"{ns / 1e6:.0f} ms"


def _failures(seen: Sequence[Observation]) -> Findings:
    """Looks that gave no copy."""
    torn = [each for each in seen if isinstance(each.error, TimeTornError)]
    if torn and isinstance(seen[-1].error, TimeTornError):
        first = next(each for each in reversed(seen) if not isinstance(each.error, TimeTornError)) if len(torn) < len(
            seen) else seen[0]
        yield _bad("torn", f"the sequence word has been odd for {_ms(seen[-1].own_ns - first.own_ns)}: the publisher stands "
                           "still in the middle of a write; restart it")
    elif torn:
        yield _note("torn", f"{len(torn)} of {len(seen)} looks met the page while it was written, and the next ones did not")
    for kind, name in ((TimeMalformedError, "malformed"), (TimeStaleError, "stale")):
        if found := next((each.error for each in reversed(seen) if isinstance(each.error, kind)), None):
            yield _bad(name, str(found))
    absent = [each.error for each in seen if each.error is not None
              and not isinstance(each.error, (TimeTornError, TimeMalformedError, TimeStaleError))]
    if absent and seen[-1].error is not None:
        yield _bad("absent", str(absent[-1]))
    elif absent:
        yield _note("absent", "for a while there was no page, and then there was one")


def _life(copies: Copies) -> Findings:
    last = copies[-1][1]
    if not last.alive:
        yield _bad("dead", "the publisher has ended (the byte `alive` is 0): run `xenpv time publish` in dom0")
    elif last.paused:
        yield _bad("paused", "the page pauses: its publisher does not know that anybody here is subscribed")


def _standstill(copies: Copies) -> Findings:
    """Stretches without a change, by the reader's clock."""
    longest = since = 0
    start, at = copies[0][0], copies[0][1].tick
    for own_ns, copy in copies[1:]:
        if copy.tick != at or not copy.alive or copy.paused:
            start, at = own_ns, copy.tick
        elif own_ns - start > longest:
            longest, since = own_ns - start, at
    allowed = copies[-1][1].facts.max_age_ns
    if longest > allowed:
        yield _bad("frozen", f"the tick stood still at {since} for {_ms(longest)}, and {_ms(allowed)} are allowed: the "
                             "publisher gets no CPU time, or hangs")


def _same_epoch(one: Snapshot, other: Snapshot) -> bool:
    return (one.facts.boot_id, one.facts.generation, one.disruptions) == (
        other.facts.boot_id, other.facts.generation, other.disruptions)


def _steps(copies: Copies) -> Findings:
    """From one look to the next: back, further than time went, or tick and nanoseconds apart."""
    for (before_ns, before), (now_ns, now) in pairwise(copies):
        if not _same_epoch(before, now):
            continue
        nsec, passed = now.facts.tick_nsec, now.tick - before.tick
        if passed < 0:
            yield _bad("back", f"the tick went back by {-passed}, from {before.tick} to {now.tick}")
        elif passed * nsec - (now_ns - before_ns) > now.facts.max_age_ns + 2 * nsec:
            yield _bad("jump", f"the tick jumped forward by {passed}, which is {_ms(passed * nsec)}, within "
                               f"{_ms(now_ns - before_ns)}")
        elif abs(passed * nsec - (now.ns - before.ns)) > 2 * nsec:
            yield _bad("apart", f"{passed} ticks passed, and the page's nanoseconds say {_ms(now.ns - before.ns)}")
        if passed >= 0 and before.tick >> 32 != now.tick >> 32:
            yield _note("wrap", "the tick's low 32 bits, which requests carry, have wrapped: differences are signed, so all "
                                "is well")


def _epochs(copies: Copies) -> Findings:
    for (_, before), (_, now) in pairwise(copies):
        if before.facts.boot_id != now.facts.boot_id:
            yield _bad("migrated", f"another dom0 publishes the page: boot id {before.facts.boot_id} became "
                                   f"{now.facts.boot_id}; the domain was migrated, or dom0 started again")
        elif before.facts.generation != now.facts.generation:
            yield _note("restarted", f"the publisher was started again: generation {before.facts.generation} became "
                                     f"{now.facts.generation}")
        elif before.disruptions != now.disruptions:
            yield _bad("disrupted", f"the publisher declared {now.disruptions - before.disruptions} disruptions: dom0 slept, "
                                    "or its tick jumped")


def _history(copies: Copies) -> Findings:
    last = copies[-1][1]
    wrong = sum(1 for slot, (tick, ns) in enumerate(last.history)
                if (tick, ns) != (0, 0) and (tick % HISTORY != slot or tick > last.tick or ns > last.ns))
    if wrong:
        yield _bad("history", f"{wrong} slots of the history hold ticks that cannot stand there")


def _pace(copies: Copies) -> Findings:
    """HZ by the reader's clock, and what was missed, over the newest epoch."""
    last_ns, last = copies[-1]
    first_ns, first = next(each for each in copies if _same_epoch(each[1], last))
    passed, elapsed = last.tick - first.tick, last_ns - first_ns
    if passed < 100 or elapsed <= 0:
        return
    hz = passed * 1e9 / elapsed
    text = f"{passed} ticks in {_ms(elapsed)} of the own clock: {hz:.1f} a second, HZ is {last.facts.hz}"
    # Either end may have been seen late; what is left is the two clocks' own difference.
    slack = (2 * last.facts.tick_nsec + 20_000_000) / elapsed
    yield _good("pace", text) if abs(hz / last.facts.hz - 1) <= 0.001 + slack else _bad("pace", text)
    missed = last.missed - first.missed
    yield (_note if missed > passed // 100 else _good)(
        "missed", f"{missed} of {passed} ticks were missed ({100 * missed / passed:.1f} %)")


def _facts(copies: Copies) -> Findings:
    last = copies[-1][1]
    if last.facts.kind is Kind.JIFFIES:
        yield _good("kind", "the tick is dom0's jiffies, held to its /proc/timer_list")
    else:
        yield _note("kind", "the tick is dom0's coarse clock, not its jiffies: /proc/timer_list cannot be read there")


def _own_clock(copies: Copies) -> Findings:
    own = OwnClock(copies[-1][1].facts.tick_nsec)
    for own_ns, copy in copies:
        own.saw(copy.tick, copy.written_ns, own_ns)
    if own.agrees:
        yield _good("clock", "this domain's own clock agrees with the page: nanoseconds between ticks are to be had")
    else:
        yield _note("clock", "this domain's own clock does not agree with the page within a tick: only ticks are to be had")
