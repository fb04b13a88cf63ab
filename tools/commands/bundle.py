"""xenpv bundle: one file, many images, one disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import click

from xenpv.errors import BundleError, UsageError
from xenpv.wire.bundle import DEFAULT_ALIGN, DEFAULT_INDEX_SIZE, Index, check_settings

from ..bundle import actions, bootloader
from ..bundle.inputs import Input, Wanted, check_cmdline, check_names, opened, parse_image, read_manifest
from ..bundle.medium import FileMedium
from ..bundle.ramdisk import make_ramdisk
from ..bundle.reader import Bundle, open_bundle
from ..bundle.signing import Signer, load_signer
from ..bundle.source import FileSource
from ..bundle.update import change
from ..bundle.update import repair as mend
from ..bundle.target import new_target
from ..bundle.writer import creation_time, plan
from ..bundle.writer import create as write_bundle
from ..output import parse_size
from ..progress import Progress
from ..session import Session, verb

F = TypeVar("F", bound=Callable[..., object])


@click.group("bundle")
def command() -> None:
    """One file that holds many images, which guests see as the partitions of one disk (docs/bundle.md).

    An IMAGE is [KIND:][NAME=]FILE: KIND is kernel, ramdisk, root or data, and the file's own name is the NAME when there
    is none. An image called kernel, ramdisk or root is of that kind.
    """


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_size(value)


def _signing(function: F) -> F:
    return click.option("--sign", metavar="KEY", help="Sign the index with this Ed25519 private key (PEM).")(function)


def _cmdline(function: F) -> F:
    return click.option("--cmdline", metavar="TEXT", help="The kernel command line, kept with the images.")(function)


def _exit_unless(ok: bool) -> None:
    if not ok:
        click.get_current_context().exit(1)


@command.command()
@click.argument("output")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--manifest", metavar="FILE", help="TOML with `cmdline` and tables [[image]]: name, kind, file.")
@_cmdline
@click.option("--index-size", default=str(DEFAULT_INDEX_SIZE), callback=_size, metavar="BYTES",
              help="Fixed for the bundle's life. Default: 1M.")
@click.option("--align", default=str(DEFAULT_ALIGN), callback=_size, metavar="BYTES",
              help="Where images begin: a power of two. Default: 1M.")
@_signing
@verb(json=True, dry_run=True,
      force="Also over a file that is there, and with images that a guest cannot use as they are.")
def create(session: Session, output: str, images: tuple[str, ...], manifest: str | None, cmdline: str | None,
           index_size: int, align: int, sign: str | None) -> None:
    """Pack images into OUTPUT, a file or a block device.

    Holes stay holes. The same images give the same bytes when SOURCE_DATE_EPOCH is set.
    """
    wanted = [parse_image(text) for text in images]
    if manifest is not None:
        found = read_manifest(manifest)
        wanted, cmdline = [*found.images, *wanted], found.cmdline if cmdline is None else cmdline
    check_cmdline(cmdline)
    check_names([each.name for each in wanted])
    try:
        check_settings(index_size, align)
    except BundleError as error:
        raise UsageError(str(error)) from error
    settings = Index(size=0, cmdline=cmdline, index_size=index_size, align=align, created=creation_time())
    signer = _signer(sign)
    with opened(wanted, force=session.force, say=session.say) as inputs:
        if session.dry_run:
            _show_index(session, plan(inputs, settings), f"would write {output}")
            return
        with _progress(output, inputs) as progress, new_target(output, overwrite=session.force) as medium:
            index = write_bundle(medium, inputs, settings, signer, progress)
    _show_index(session, index, f"{output}: {index.size} bytes in {progress.seconds:.2f} s")


def _signer(path: str | None) -> Signer | None:
    return None if path is None else load_signer(path)


def _progress(name: str, inputs: Sequence[Input]) -> Progress:
    return Progress(name, sum(each.source.size for each in inputs))


def _show_index(session: Session, index: Index, what: str) -> None:
    session.show({"id": str(index.id), "size": index.size, "images": actions.image_rows(index.images)},
                 f"{actions.image_table(index.images)}\n{what}" if session.verbose or session.dry_run else what)


@command.command()
@click.argument("bundle")
@verb(json=True, changes=False)
def ls(session: Session, bundle: str) -> None:
    """The images in a bundle. Only the index is read."""
    with open_bundle(bundle, lock=False) as opened_bundle:
        actions.ls(session, opened_bundle)


@command.command()
@click.argument("bundle")
@click.option("--key", metavar="KEY", help="Demand that the owner of this Ed25519 public key (PEM) has signed it.")
@verb(json=True, changes=False)
def verify(session: Session, bundle: str, key: str | None) -> None:
    """Judge every part and every image of a bundle, to the end. Exit status 1 when one is not right."""
    with FileSource(bundle) as source:
        try:
            found: Bundle | BundleError = Bundle(source)
        except BundleError as error:
            found = error
        _exit_unless(actions.verify(session, bundle, found, key))


@command.command()
@click.argument("bundle")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-d", "--directory", default=".", metavar="DIR", help="Where the files go; made when it is not there.")
@click.option("-o", "--output", metavar="FILE", help="One image to a file, a block device, or - for standard output.")
@click.option("--key", metavar="KEY", help="Only what the owner of this Ed25519 public key (PEM) has signed.")
@verb(json=True, force="Also over files that are there.")
def extract(session: Session, bundle: str, names: tuple[str, ...], directory: str, output: str | None,
            key: str | None) -> None:
    """Images out of a bundle, all or by name, each checked. Only the index and those images are read.

    Of a damaged image no file is left; what went to a device or standard output before it was known is there, and the
    exit status is 1.
    """
    with open_bundle(bundle) as opened_bundle:
        _exit_unless(actions.extract(session, opened_bundle, names, directory=directory, output=output, key=key))


@contextmanager
def _changing(name: str) -> Iterator[tuple[Bundle, FileMedium]]:
    """A bundle that nobody else uses."""
    with FileMedium(name) as medium:
        yield Bundle(FileSource(name, fd=medium.fileno())), medium


def _change(session: Session, name: str, wanted: Sequence[Wanted], take_out: Sequence[str], cmdline: str | None,
            sign: str | None, *, there: bool | None) -> None:
    """`there`: whether the wanted images have to be in the bundle before, or must not be."""
    created, signer = creation_time(), _signer(sign)
    check_cmdline(cmdline or None)
    check_names([each.name for each in wanted])
    with _changing(name) as (bundle, medium):
        kinds = {each.name: each.kind for each in bundle.images}
        for each in wanted:
            if there:
                bundle.image(each.name)
            elif each.name in kinds:
                raise UsageError(f"{name} has an image {each.name}: `xenpv bundle replace` puts another in its place")
        with opened(wanted, force=session.force, say=session.say, kinds=kinds) as inputs, \
                _progress(name, inputs) as progress:
            index = change(bundle, medium, inputs, take_out, cmdline=cmdline, created=created, sign=signer,
                           progress=progress, force=session.force, dry_run=session.dry_run, say=session.say)
    _show_index(session, index, f"{'would make ' if session.dry_run else ''}{name}: generation {index.generation}, "
                                f"{len(index.images)} images, {index.size} bytes")


_FORCE = "Also when the bundle is signed and --sign is not given: it is signed no more. Also images that a guest cannot use."


@command.command()
@click.argument("bundle")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_signing
@verb(json=True, dry_run=True, force=_FORCE)
def add(session: Session, bundle: str, images: tuple[str, ...], sign: str | None) -> None:
    """Put more images into a bundle. Killed at any moment, it is the old or the new one."""
    _change(session, bundle, [parse_image(text) for text in images], (), None, sign, there=False)


@command.command()
@click.argument("bundle")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_signing
@verb(json=True, dry_run=True, force=_FORCE)
def rm(session: Session, bundle: str, names: tuple[str, ...], sign: str | None) -> None:
    """Take images out of a bundle. Killed at any moment, it is the old or the new one."""
    _change(session, bundle, (), names, None, sign, there=None)


@command.command("replace")
@click.argument("bundle")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@_cmdline
@_signing
@verb(json=True, dry_run=True, force=_FORCE)
def replace_(session: Session, bundle: str, images: tuple[str, ...], cmdline: str | None, sign: str | None) -> None:
    """Put other images in the place of those with the same names, and another command line ("" for none).

    Without an IMAGE or --cmdline, --sign signs what is there. Killed at any moment, it is the old or the new one.
    """
    if not images and cmdline is None and sign is None:
        raise UsageError("nothing to replace: name an image, or give --cmdline or --sign")
    _change(session, bundle, [parse_image(text) for text in images], (), cmdline, sign, there=True)


@command.command()
@click.argument("bundle")
@verb(json=True)
def repair(session: Session, bundle: str) -> None:
    """Mend what an interrupted change left: one slot from the other, and both partition tables.

    Images are not looked at; `xenpv bundle verify` does that.
    """
    with _changing(bundle) as (found, medium):
        done = mend(found, medium)
    session.show({"mended": done}, f"mended: {', '.join(done)}" if done else "nothing to mend")


@command.command()
@click.argument("old")
@click.argument("new")
@verb(json=True, changes=False)
def diff(session: Session, old: str, new: str) -> None:
    """What is different between two bundles, from their indices. Exit status 1 when something is."""
    with open_bundle(old, lock=False) as first, open_bundle(new, lock=False) as second:
        _exit_unless(actions.diff(session, first.index, second.index))


@command.command()
@click.argument("which", type=click.Choice(["extract", "root"]), default="extract")
def script(which: str) -> None:
    """A POSIX shell script for guests, to standard output: xenpv-extract, or xenpv-root for their ramdisk."""
    click.echo(actions.shell_script(which), nl=False)


@command.command()
@click.argument("bundle")
@click.argument("output")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--ramdisk", default="", metavar="NAME", help="The ramdisk's image. Default: the first of its kind.")
@verb(json=True, force="Also over a file that is there.")
def ramdisk(session: Session, bundle: str, output: str, names: tuple[str, ...], ramdisk: str) -> None:
    """Make OUTPUT, a ramdisk that has images of a bundle in its directory /xenpv: those named, or all but what boots.

    For guests that get no disk. At most 1 GiB in all, which is what Xen's tools load.
    """
    with open_bundle(bundle) as opened_bundle:
        size = make_ramdisk(opened_bundle, output, names, ramdisk=ramdisk, overwrite=session.force)
    session.show({"size": size}, f"{output}: {size} bytes")


command.add_command(bootloader.command)
