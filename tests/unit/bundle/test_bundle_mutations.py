"""Mutated bundles through `xenpv bundle ls`, `verify` and `extract`: lines that say why, and nothing else."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.bundle_mutator import mutant
from tests.support.bundles import SMALL, MemoryMedium, bundle, contents, inputs, opened, reasons
from xenpv.errors import XenpvError
from xenpv.wire.bundle import Reason, slot_offset
from xenpv_tools import cli
from xenpv_tools.bundle.update import change, repair
from xenpv_tools.progress import Progress

IMAGES = {"kernel": random.Random(1).randbytes(5000), "root": random.Random(2).randbytes(60), "empty": b""}
PATIENCE = 20
"""Seconds after which one mutant counts as a hang."""
MEMORY = 48 << 10
"""KiB by which the process may grow in all, for bundles of about 100 KiB."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """What is written, seen by an audit hook; hooks cannot be taken off, so this one is made once."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.outside: list[str] = []
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None:
            return
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITES:
            self._check(arguments[0])
        elif event in ("os.mkdir", "os.remove", "os.truncate", "os.symlink") and isinstance(arguments[0], str):
            self._check(arguments[0])
        elif event in ("os.rename", "os.link"):
            self._check(str(arguments[0]))
            self._check(str(arguments[1]))

    def _check(self, path: str) -> None:
        # A bare name is relative to the target's own descriptor.
        if not ("/" not in path and path not in (".", "..") or Path(path).resolve().is_relative_to(str(self.inside))):
            self.outside.append(path)


WATCH: list[Watch] = []


@contextmanager
def watched(folder: Path) -> Iterator[Watch]:
    if not WATCH:
        WATCH.append(Watch())
    watch = WATCH[0]
    watch.inside, watch.outside = folder.resolve(), []
    try:
        yield watch
    finally:
        watch.inside = None


def _hang(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"no end within {PATIENCE} s")


OUT, ERR = io.StringIO(), io.StringIO()
"""The same ones every time: click remembers each stream that it has written to."""


def run(*words: str) -> tuple[int, str, str]:
    """The command in this process: exit status, stdout, stderr."""
    for stream in (OUT, ERR):
        stream.seek(0)
        stream.truncate()
    out, err = OUT, ERR
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(["bundle", *words])
    return status, out.getvalue(), err.getvalue()


def write(path: Path, data: bytes) -> None:
    """Sparse, as bundles are; a new file, for ext4 writes one out that is cut to nothing and filled again."""
    path.unlink(missing_ok=True)
    with open(path, "xb") as file:
        for at in range(0, len(data), 4096):
            if any(data[at:at + 4096]):
                file.seek(at)
                file.write(data[at:at + 4096])
        file.truncate(len(data))


def check(folder: Path, data: bytes, key: list[str]) -> set[str]:
    """Both verbs and a third on one mutant: the reasons that verify names."""
    path, target = folder / "bundle", folder / "target"
    write(path, data)
    shutil.rmtree(target, ignore_errors=True)
    answers = [run("ls", str(path), "--json"), run("verify", str(path), "--json", *key),
               run("extract", str(path), "-d", str(target), "--json")]
    for status, _, err in answers:
        assert status in (0, 1) and "bug in xenpv" not in err and "Traceback" not in err, err
        assert all(line.startswith("xenpv: ") and line.isprintable() for line in err.splitlines()), err
    (_, listed, _), (judged_status, judged, _), (extract_status, extracted, _) = answers
    verdict = json.loads(judged)
    assert (judged_status == 0) == verdict["ok"]
    assert sorted(os.listdir(folder)) == ["bundle", "target"] if extracted else ["bundle"]
    there = {entry.name: entry for entry in os.scandir(target)} if target.exists() else {}
    good = {row["name"] for row in json.loads(extracted)["images"] if row["ok"]} if extracted else set()
    assert set(there) == good and all(entry.is_file(follow_symlinks=False) for entry in there.values())
    assert sum(entry.stat().st_size for entry in there.values()) <= len(data)
    if verdict["ok"]:
        assert extract_status == 0 and good == {row["name"] for row in json.loads(listed)["images"]}
    rows = [row for row in (*verdict["index"], *verdict["images"]) if not row["ok"]]
    return {row["reason"].partition(":")[0] for row in rows}


def mutate(folder: Path, count: int, seed: int) -> None:
    cryptography = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    secret = cryptography.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    (folder / "key").mkdir()
    key = folder / "key" / "public.pem"
    key.write_bytes(secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    bases = [bytes(bundle(IMAGES)), bytes(bundle(IMAGES, sign=secret.sign))]
    second_slot, chosen, reached = slot_offset(1, SMALL.index_size), random.Random(seed), set()
    sandbox = folder / "sandbox"
    sandbox.mkdir()
    before_handler = signal.signal(signal.SIGALRM, _hang)
    before = 0
    try:
        with watched(sandbox) as watch:
            for number in range(count):
                made = mutant(chosen.choice(bases), second_slot, chosen)
                signal.alarm(PATIENCE)
                try:
                    reached |= check(sandbox, made.data, ["--key", str(key)] if chosen.random() < 0.3 else [])
                    assert not watch.outside
                except AssertionError as error:
                    raise AssertionError(f"mutant {number} ({', '.join(made.done)}) of seed {seed}: {error}") from error
                if number == 100:  # what is loaded once is loaded
                    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before_handler)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    assert reached == set(Reason)


def test_a_thousand(tmp_path: Path) -> None:
    mutate(tmp_path, 1000, seed=3)


@pytest.mark.stress
def test_many(tmp_path: Path) -> None:
    """XENPV_MUTANTS=100000 is what a release is tried with: half an hour."""
    mutate(tmp_path, int(os.environ.get("XENPV_MUTANTS", "10000")), seed=2)


def test_repair_and_replace_mend_or_refuse() -> None:
    """What repair takes is right afterwards but for the images themselves; replace then leaves the others as they were."""
    base, second_slot, chosen = bytes(bundle(IMAGES)), slot_offset(1, SMALL.index_size), random.Random(3)
    images = {Reason.DIGEST, Reason.PADDING, Reason.CUT}
    mended = 0
    for _ in range(1500):
        data = mutant(base, second_slot, chosen).data
        if chosen.random() < 0.2:
            del data[120_000:]
        try:
            found = opened(data)
            if found.index.size > 2 * len(base):  # a file as long as the index says would fill the memory
                continue
            repair(found, MemoryMedium(data))
        except XenpvError:
            continue
        mended += 1
        assert set(reasons(data)) <= images, reasons(data)
        before = contents(data, checked=False)
        name = chosen.choice([*before, "more"])
        try:
            change(opened(data), MemoryMedium(data), inputs({name: b"another"}), (), cmdline=None, created=1, sign=None,
                   progress=Progress("test", None))
        except XenpvError:
            continue
        assert set(reasons(data)) <= images and contents(data, checked=False) == before | {name: b"another"}
    assert mended > 300
