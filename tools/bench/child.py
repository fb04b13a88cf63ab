"""The processes of the system `xenpv`: ``python -m xenpv_tools.bench.child backend|load|loads URI ...``.

backend URI RUN SPIN_US|- [FILE]    FILE: options as a JSON object; SIGHUP reads them again
load URI
loads URI                           many disks: see loads.py

All end on SIGTERM, in order. The backend says "ready" on its standard output. The load reads one JSON object a line
and answers each with one, until the end of its input:

    {"vdev", "queues", "flag", "spin_us", "stamp"}    open a disk -> {"features"}; all but the first two may be null
    {"vdev", "case", "seconds", "seed"}     run a load  -> {"result"}, a LoadResult; `case` has a Case's fields
    {"vdev", "requests"}                    stamped reads, one at a time -> {"totals"}, see totals.py
    {"vdev", "close"}                       close the disk -> {}

An answer has "error" instead when it went wrong.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from xenpv.errors import XenpvError
from xenpv.hypervisors import open_domain
from xenpv_backend import daemon
from xenpv_backend.options import BackendOptions
from xenpv_frontend.disk import Disk

from . import loads
from .cases import Case
from .load import run_load
from .totals import check_totals

RING_DEPTH = 64
"""Requests that the ring has room for: 8 reads of 256 KiB are 48 requests where the backend takes no indirect ones."""
POOL_BYTES = 8 << 20


def backend(uri: str, rundir: str, spin_us: int | None, file: str | None = None) -> int:
    """Serve domain `uri` as `xenpv backend run` does, with the options of `file` and nobody's configuration."""
    def options() -> BackendOptions:
        found = BackendOptions(log_level="warning", **({} if file is None else json.loads(Path(file).read_text())))
        return found if spin_us is None else replace(found, spin_us=spin_us)

    with open_domain(uri) as domain:
        return daemon.run(domain, rundir, ready=lambda: print("ready", flush=True), options=options(), reload=options)


def _close(disks: dict[str, Disk]) -> None:
    with ExitStack() as stack:
        for disk in disks.values():
            stack.callback(disk.close)


def load(uri: str) -> int:
    """Open disks and run loads, as asked."""
    signal.signal(signal.SIGTERM, loads.interrupt)
    with ExitStack() as stack:
        domain = stack.enter_context(open_domain(uri))
        disks: dict[str, Disk] = {}
        stack.callback(_close, disks)

        def answer(request: dict[str, Any]) -> dict[str, Any]:
            vdev = request["vdev"]
            if "close" in request:
                disks.pop(vdev).close()
                return {}
            if "requests" in request:
                return {"totals": asdict(check_totals(disks[vdev], request["requests"], domain))}
            if "case" in request:
                result = run_load(disks[vdev], Case(**request["case"]), request["seconds"], request["seed"])
                return {"result": asdict(result)}
            spin = {} if request["spin_us"] is None else {"spin_ns": request["spin_us"] * 1000}
            disks[vdev] = Disk.open(domain, vdev, depth=RING_DEPTH, pool_bytes=POOL_BYTES, flag=request["flag"],
                                    stamp=request["stamp"], queues=request["queues"],
                                    closing_patience=loads.PATIENCE, **spin)
            return {"features": asdict(disks[vdev].features)}

        for line in sys.stdin:
            try:
                reply = answer(json.loads(line))
            except XenpvError as error:
                reply = {"error": str(error)}
            print(json.dumps(reply), flush=True)
    return 0


def main(argv: list[str]) -> int:
    """One of them; its exit status."""
    try:
        if argv[0] == "backend":
            return backend(argv[1], argv[2], None if argv[3] == "-" else int(argv[3]), *argv[4:])
        return load(argv[1]) if argv[0] == "load" else loads.main(argv[1])
    except KeyboardInterrupt:
        return 0
    except XenpvError as error:
        print(f"xenpv: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
