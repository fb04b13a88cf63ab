"""A backend in a process of its own, which a test may kill. Run as a program: RUN [stuck]."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]


class BackendProcess:
    """Started and ready. `stuck`: a storage named ``stuck:/path`` takes requests and never ends them.

    With `env`, more of the environment.
    """

    def __init__(self, run: Path, *, stuck: bool = False, ready: bool = True, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(run), *(["stuck"] if stuck else [])], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **env})
        self.line = self.process.stdout.readline().strip() if self.process.stdout else ""
        if ready:
            assert self.line == "ready", self.process.communicate()[1]

    def wait_for(self, line: str) -> None:
        """Wait until it prints a line that begins so."""
        assert self.process.stdout is not None
        for got in self.process.stdout:
            if got.startswith(line):
                return
        raise AssertionError(f"the backend ended without {line!r}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send the signal: the exit status, and what it had to say on stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def main(arguments: Sequence[str]) -> int:
    from xenpv.hypervisors import open_domain
    from xenpv_backend import storage
    from xenpv_backend.daemon import run
    from xenpv_backend.options import BackendOptions

    class Stuck(storage.FileStorage):
        def fileno(self) -> int:
            return -1

        def handle(self, requests: Sequence[storage.StorageRequest]) -> None:
            print(f"stuck {len(requests)}", flush=True)
            threading.Event().wait()

    if arguments[1:] == ["stuck"]:
        storage.FORMATS["stuck"] = lambda opening: Stuck(opening.target, readonly=opening.readonly, cache=opening.cache)
    else:
        storage.FORMATS["stuck"] = storage.FORMATS["raw"]
    try:
        with open_domain(f"emulated:{arguments[0]}") as domain:
            return run(domain, arguments[0], options=BackendOptions(spin_us=0),
                       ready=lambda: print("ready", flush=True))
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
