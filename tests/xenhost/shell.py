"""Commands of dom0."""

from __future__ import annotations

import subprocess


def run(*argv: str) -> str:
    """A command's output; its failure is the test's."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout
