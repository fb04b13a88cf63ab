"""What verbs do with a bundle that is open, from a file or from a vbd: list, judge, extract."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any

from xenpv.errors import BundleError, UsageError
from xenpv.wire.bundle import Image, Index, signed_part

from ..output import table
from ..progress import Progress
from ..session import Session
from .extract import Stream, Target, device_sink, is_block_device
from .reader import Bundle
from .signing import Checker, load_checker
from .verify import Verdict, judge_images, judge_index

__all__ = ["diff", "extract", "image_rows", "image_table", "ls", "shell_script", "verify"]


def image_rows(images: Sequence[Image]) -> list[dict[str, Any]]:
    """For JSON."""
    return [{"name": each.name, "kind": each.kind, "size": each.size, "offset": each.offset, "sha256": each.sha256.hex()}
            for each in images]


def image_table(images: Sequence[Image]) -> str:
    """For people."""
    return table(["Name", "Kind", "Size", "Offset", "SHA-256"],
                 [[each.name, each.kind, each.size, each.offset, each.sha256.hex()] for each in images],
                 right=["Size", "Offset"])


def _read_line(bundle: Bundle) -> str:
    return f"read {bundle.source.bytes_read} bytes of {bundle.index.size}"


def ls(session: Session, bundle: Bundle) -> None:
    """Show the index, and on stderr how much was read for it."""
    index = bundle.index
    session.show({
        "id": str(bundle.id), "generation": index.generation, "created": index.created, "size": index.size,
        "index_size": index.index_size, "align": index.align, "cmdline": index.cmdline,
        "signed": signed_part(bundle.text) is not None, "images": image_rows(bundle.images),
        "bytes_read": bundle.source.bytes_read,
    }, image_table(bundle.images))
    for slot in bundle.slots:
        if slot.text != bundle.text:
            session.say(f"{slot.name} is not like the other one ({slot.fault or 'older'}): `xenpv bundle repair` mends it")
    if bundle.cut:
        session.say(f"{bundle.source.name} has {bundle.source.size} bytes of {index.size}: it was cut short")
    if not session.json:
        session.say(_read_line(bundle))


def verify(session: Session, name: str, bundle: Bundle | BundleError, key: str | None) -> bool:
    """Judge all of a bundle, or say why there is none: whether it is ok."""
    check = None if key is None else load_checker(key)
    images: list[Verdict] = []
    if isinstance(bundle, BundleError):
        parts = [Verdict("index", bundle.reason, str(bundle))]
        found: dict[str, Any] = {"ok": False, "id": None, "signature": None}
    else:
        parts, images = _judge(bundle, check)
        signed = signed_part(bundle.text) is not None
        bad = any(each.name == "signature" and not each.ok for each in parts)
        state = ("bad" if bad else "good") if check is not None else "not checked" if signed else "none"
        found = {"ok": all(each.ok for each in (*parts, *images)), "id": str(bundle.id), "signature": state}
    rows = [[each.name, "ok" if each.ok else each.reason, each.text or None] for each in (*parts, *images)]
    text = table(["Part", "Verdict", "Why"], rows) + f"\n{name}: {'ok' if found['ok'] else 'NOT ok'}"
    if found["signature"] == "not checked":
        text += ", and its signature was not checked: --key checks it"
    session.show(found | {"index": [each.plain() for each in parts], "images": [each.plain() for each in images]}, text)
    return bool(found["ok"])


def diff(session: Session, old: Index, new: Index) -> bool:
    """Show what differs between two indices, wherever their images lie: whether nothing does."""
    rows: list[dict[str, Any]] = []
    if old.cmdline != new.cmdline:
        rows.append({"name": None, "change": "cmdline", "old": old.cmdline, "new": new.cmdline})
    for name in dict.fromkeys(each.name for each in (*old.images, *new.images)):
        was, now = old.image(name), new.image(name)
        if was is None or now is None:
            rows.append({"name": name, "change": "removed" if now is None else "added"})
            continue
        for field in ("kind", "size", "sha256"):
            before, after = getattr(was, field), getattr(now, field)
            if before != after:
                plain = [value.hex() if isinstance(value, bytes) else value for value in (before, after)]
                rows.append({"name": name, "change": field, "old": plain[0], "new": plain[1]})
    text = "\n".join(f"{row['name'] or 'bundle'}: {row['change']}" + (f" {row['old']} -> {row['new']}" if "old" in row else "")
                     for row in rows)
    session.show({"same": not rows, "differences": rows}, text)
    return not rows


def shell_script(name: str) -> str:
    """A POSIX shell script for guests without Python: ``extract`` lists, checks and extracts, ``root`` mounts a root."""
    return (resources.files(__package__) / "inside" / f"xenpv-{name}").read_text(encoding="ascii")


def _judge(bundle: Bundle, check: Checker | None) -> tuple[list[Verdict], list[Verdict]]:
    parts = list(judge_index(bundle, check))
    with Progress(bundle.source.name, sum(each.size for each in bundle.images)) as progress:
        return parts, list(judge_images(bundle, progress))


def extract(session: Session, bundle: Bundle, names: Sequence[str], *, directory: str, output: str | None,
            key: str | None) -> bool:
    """Images by `names`, all when there are none: whether every one was right.

    To `directory`, or a single one to `output`: a file, a block device, or ``-`` for standard output. With a public
    `key`, nothing is extracted from a bundle that its owner has not signed. Raises UsageError, StorageError, BundleError.
    """
    if key is not None:
        load_checker(key)(bundle.text)
    images = [bundle.image(name) for name in dict.fromkeys(names)] if names else list(bundle.images)
    if output is not None and len(images) != 1:
        raise UsageError(f"-o takes one image, and {len(images)} are to be extracted: name one, or use -d DIRECTORY")
    if output == "-" and session.json:
        raise UsageError("standard output takes the image or --json's result, not both")
    with Progress(bundle.source.name, sum(each.size for each in images)) as progress:
        if output is None:
            rows = _to_directory(session, bundle, images, directory, progress)
        else:
            rows = [_to_output(session, bundle, images[0], output, progress)]
    wrong = [row for row in rows if not row["ok"]]
    session.show({"ok": not wrong, "images": rows, "bytes_read": bundle.source.bytes_read}, "")
    if not session.json:
        session.say(f"{len(rows) - len(wrong)} of {len(rows)} images extracted; {_read_line(bundle)}")
    return not wrong


def _row(image: Image, path: str, reason: str | None = None) -> dict[str, Any]:
    return {"name": image.name, "path": path, "size": image.size, "ok": reason is None, "reason": reason}


def _to_directory(session: Session, bundle: Bundle, images: Sequence[Image], directory: str,
                  progress: Progress) -> list[dict[str, Any]]:
    rows = []
    with Target(directory, overwrite=session.force) as target:
        for image in images:
            target.check_free(image.name)
        for image in images:
            try:
                bundle.check_there(image)
                with target.file(image.name, image.size) as sink:
                    bundle.copy_out(image, sink, progress)
            except BundleError as error:  # the others may be whole
                session.say(str(error))
                rows.append(_row(image, f"{directory}/{image.name}", f"{error.reason}: {error}"))
            else:
                rows.append(_row(image, f"{directory}/{image.name}"))
    return rows


def _to_output(session: Session, bundle: Bundle, image: Image, output: str, progress: Progress) -> dict[str, Any]:
    bundle.check_there(image)
    if output == "-":
        if sys.stdout.isatty() and not session.force:
            raise UsageError("an image's bytes would garble the terminal: use -o FILE or a pipe, or -f")
        bundle.copy_out(image, Stream(sys.stdout.buffer), progress)
        sys.stdout.buffer.flush()
    elif is_block_device(output):
        with device_sink(output, image.size) as sink:
            bundle.copy_out(image, sink, progress)
    else:
        directory, _, name = output.rpartition("/")
        with Target(directory or ("/" if output.startswith("/") else "."), overwrite=session.force) as target:
            target.check_free(name)
            with target.file(name, image.size) as file:
                bundle.copy_out(image, file, progress)
    return _row(image, output)
