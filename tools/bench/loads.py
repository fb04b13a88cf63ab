"""Many disks' loads at once, a process each: ``python -m xenpv_tools.bench.child loads URI``.

Each disk is a guest's of its own as far as the scheduler goes: it has a process that sleeps and wakes by itself. They are
forked from one that has imported everything, before any of them has opened a domain, so that 64 start in a second.

Reads one JSON object a line and answers each with one, until the end of its input:

    {"open": [{"domid", "vdev"}, ...], "spin_us", "depth", "pool", "queues"}
                                                                         open the disks -> {"features"} of the first
    {"run": [{"disk": INDEX, "case": {...}}, ...], "seconds", "seed"}    run their loads -> {"results": [LoadResult, ...]}

An answer has "error" instead when it went wrong.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import FrameType
from typing import IO, Any

from xenpv.errors import HypervisorError, XenpvError
from xenpv.hypervisors import open_domain
from xenpv_frontend.disk import Disk

from .cases import Case
from .load import noted_load, sectors_of

PATIENCE = 2.0
"""Seconds for a backend to answer at the end: one that has died must not keep us."""
_OPEN_SECONDS = 60.0
_GATHER_SECONDS = 0.1
"""Between asking the loads to begin and their beginning together."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: ends what runs."""
    raise KeyboardInterrupt


class Worker:
    """A forked process with one disk. What it is asked and what it answers are lines of JSON."""

    def __init__(self, serve: Callable[[Iterator[dict[str, Any]], Callable[[dict[str, Any]], None]], None],
                 others: Sequence[Worker]) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            # Only the ends of our own pipes: the end of the parent is the end of our input, whoever else lives.
            for fd in (ours[1], theirs[0], *(fd for other in others for fd in other.descriptors())):
                os.close(fd)
            _end_after(lambda: self._serve(serve, ours[0], theirs[1]))
        os.close(ours[0])
        os.close(theirs[1])
        self._asks: IO[str] = os.fdopen(ours[1], "w")
        self._answers: IO[str] = os.fdopen(theirs[0])

    @staticmethod
    def _serve(serve: Callable[[Iterator[dict[str, Any]], Callable[[dict[str, Any]], None]], None],
               asked: int, answers: int) -> None:
        with os.fdopen(asked) as lines, os.fdopen(answers, "w") as out:
            def answer(reply: dict[str, Any]) -> None:
                out.write(json.dumps(reply) + "\n")
                out.flush()

            serve((json.loads(line) for line in lines), answer)

    def descriptors(self) -> tuple[int, int]:
        return self._asks.fileno(), self._answers.fileno()

    def ask(self, request: dict[str, Any]) -> None:
        try:
            self._asks.write(json.dumps(request) + "\n")
            self._asks.flush()
        except BrokenPipeError as error:
            raise HypervisorError("a load's process ended") from error

    def answer(self) -> dict[str, Any]:
        """Raises HypervisorError when it has ended, XenpvError with its own words when it refuses."""
        line = self._answers.readline()
        if not line:
            raise HypervisorError("a load's process ended without a word")
        reply = json.loads(line)
        if "error" in reply:
            raise XenpvError(reply["error"])
        return dict(reply)

    def close(self) -> None:
        """Ask it to end, in the middle of a run too; wait() then waits for it."""
        os.kill(self.pid, signal.SIGTERM)
        for file in (self._asks, self._answers):
            try:
                file.close()
            except BrokenPipeError:
                pass  # a request that it will never read

    def wait(self) -> None:
        os.waitpid(self.pid, 0)


def _end_after(function: Callable[[], None]) -> None:
    """What a forked process does, and its end: nothing of what its parent has on its stack runs in it."""
    status = 1
    try:
        function()
        status = 0
    except KeyboardInterrupt:
        status = 0
    except XenpvError as error:
        print(f"xenpv: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _disk(uri: str, settings: dict[str, Any], requests: Iterator[dict[str, Any]],
          answer: Callable[[dict[str, Any]], None]) -> None:
    """One worker: opens its disk, then runs loads until the end of its input."""
    with ExitStack() as stack:
        try:
            domain = stack.enter_context(open_domain(uri))
            spin = {} if settings["spin_us"] is None else {"spin_ns": settings["spin_us"] * 1000}
            disk = stack.enter_context(Disk.open(domain, settings["vdev"], depth=settings["depth"],
                                                 pool_bytes=settings["pool"], queues=settings["queues"],
                                                 closing_patience=PATIENCE,
                                                 timeout=_OPEN_SECONDS, **spin))
            answer({"features": asdict(disk.features)})
            for request in requests:
                case = Case(**request["case"])
                sectors_of(disk.size, case, request["seed"])  # kept: nothing of it is in the run
                answer({})
                begin = float(next(requests)["at"])
                select.select([], [], [], max(0.0, begin - time.monotonic()))
                result = noted_load(disk, case, request["seconds"], request["seed"])
                answer({})
                next(requests)  # the others have ended, too
                answer({"result": asdict(result())})
        except XenpvError as error:
            answer({"error": f"{settings['vdev']} of {uri}: {error}"})


class Loads:
    """All the workers."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._workers: list[Worker] = []

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        for place in request["open"]:
            settings = {**request, "vdev": place["vdev"]}
            uri = f"{self._uri}#{place['domid']}"
            self._workers.append(Worker(
                lambda requests, answer, uri=uri, settings=settings: _disk(  # type: ignore[misc]
                    uri, settings, requests, answer),
                self._workers))
        return [worker.answer() for worker in self._workers][0]

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        workers = [self._workers[load["disk"]] for load in request["run"]]
        for worker, load in zip(workers, request["run"], strict=True):
            worker.ask({"case": load["case"], "seconds": request["seconds"], "seed": request["seed"] + load["disk"]})
        for worker in workers:
            worker.answer()
        begin = time.monotonic() + _GATHER_SECONDS
        for worker in workers:
            worker.ask({"at": begin})
        for worker in workers:
            worker.answer()
        for worker in workers:
            worker.ask({"tell": True})
        return {"results": [worker.answer()["result"] for worker in workers]}

    def close(self) -> None:
        """End them all; at once, since each waits for the backend to let its disk go."""
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.wait()


def main(uri: str) -> int:
    """Open and run, as asked; the exit status."""
    signal.signal(signal.SIGTERM, interrupt)
    loads = Loads(uri)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                reply = loads.open(request) if "open" in request else loads.run(request)
            except XenpvError as error:
                reply = {"error": str(error)}
            print(json.dumps(reply), flush=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        loads.close()
    return 0
