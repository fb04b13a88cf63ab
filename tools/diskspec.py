"""xl's disk grammar: ``target,format,vdev,access``, ``key=value`` and flags, in any order.

Source: docs/man/xl-disk-configuration.5 and what `xl -N block-attach` makes of it (tools/xl/check-xl-disk-parse).
Parsing touches nothing: whether a disk can be served is the toolstack's question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from xenpv.errors import UsageError
from xenpv.xenbus import vdev_number

__all__ = ["DiskSpec", "parse_disk"]

FORMATS: Final = ("raw", "qcow", "qcow2", "vhd", "qed", "empty")
BACKEND_TYPES: Final = ("phy", "qdisk", "standalone", "tap")
SPECIFICATIONS: Final = ("xen", "virtio")
_ACCESS: Final = {"": True, "w": True, "rw": True, "r": False, "ro": False}
_FLAGS: Final[dict[str, tuple[str, bool]]] = {
    "cdrom": ("cdrom", True), "discard": ("discard", True), "no-discard": ("discard", False),
    "direct-io-safe": ("direct_io_safe", True), "trusted": ("trusted", True), "untrusted": ("trusted", False)}
_TYPES: Final = {"cdrom": True, "disk": False}
_PREFIX: Final = re.compile(r"(?P<name>[a-z][a-z0-9]*):(?P<rest>.*)", re.DOTALL)
_FORMAT_PREFIXES: Final = ("raw", "qcow", "qcow2", "vhd")
_SCRIPT_PREFIXES: Final = ("iscsi", "nbd", "enbd", "drbd")
_IGNORED_PREFIXES: Final = ("tapdisk", "tap", "tap2", "aio", "ioemu", "file", "phy")
_KEY: Final = re.compile(r"(?P<key>[a-z][a-z0-9_-]*)=(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk as it was asked for. None: not said."""

    vdev: str
    target: str | None = None
    format: str = "raw"
    writable: bool = True
    cdrom: bool = False
    backend: str | None = None
    """The backend's domain, a name or a number."""
    backendtype: str | None = None
    specification: str | None = None
    script: str | None = None
    discard: bool | None = None
    direct_io_safe: bool = False
    trusted: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The names of `xl -N block-attach`; what was not said is left out."""
        values = {"pdev_path": self.target, "vdev": self.vdev, "backend_domname": self.backend,
                  "backend": self.backendtype, "format": self.format, "specification": self.specification,
                  "script": self.script, "removable": self.cdrom or None, "readwrite": self.writable,
                  "is_cdrom": self.cdrom or None, "discard_enable": self.discard,
                  "direct_io_safe": self.direct_io_safe or None, "trusted": self.trusted}
        return {name: value for name, value in values.items() if value is not None}


class _Parser:
    """One disk, from one or several texts."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[str, Any] = {}
        self.old_syntax = False
        self.access_set = False

    def error(self, cause: str) -> UsageError:
        return UsageError(f"disk {self.text!r}: {cause}")

    def feed(self, rest: str) -> None:
        """The parameters in `rest`, up to its end."""
        while rest := rest.lstrip(" \t\n"):
            if rest.startswith("target="):
                self.put("target", rest.removeprefix("target="))  # it may hold commas, so it is the last
                return
            while ("target" not in self.values and (found := _PREFIX.fullmatch(rest))
                   and self.prefix(found["name"], found["rest"])):
                rest = found["rest"]  # there may be another: tap:aio:
            item, _, rest = rest.partition(",")
            self.item(item)

    def prefix(self, name: str, rest: str) -> bool:
        """Whether it is the old xm's ``format:target``, which has no format among its positions."""
        if name in _FORMAT_PREFIXES:
            self.put("format", name)
        elif name in _SCRIPT_PREFIXES:
            self.put("script", f"block-{name}")
        elif name not in _IGNORED_PREFIXES:
            if rest[:1].isascii() and rest[:1].isalnum():
                return False
            raise self.error(f"unknown prefix '{name}:': write target={name}:... if it is part of the target")
        self.old_syntax = True
        return True

    def item(self, item: str) -> None:
        """One parameter."""
        if item in _FLAGS:
            name, value = _FLAGS[item]
            self.values[name] = value
        elif found := _KEY.fullmatch(item):
            self.key(found["key"], found["value"])
        elif "=" in item:
            raise self.error(f"{item!r} is no parameter")
        else:
            self.positional(item)

    def key(self, key: str, value: str) -> None:
        match key:
            case "vdev" | "script" | "backend":
                self.put(key, value)
            case "format":
                self.put("format", self.one_of("format", value or "raw", FORMATS))
            case "backendtype":
                self.put(key, self.one_of(key, value, BACKEND_TYPES))
            case "specification":
                self.put(key, self.one_of(key, value, SPECIFICATIONS))
            case "devtype":
                self.values["cdrom"] = _TYPES[self.one_of(key, value, tuple(_TYPES))]
            case "access":
                self.access(value)
            case _:
                raise self.error(f"unknown parameter {key!r}")

    def positional(self, item: str) -> None:
        if "target" not in self.values:
            self.put("target", item)
        elif not self.old_syntax and "format" not in self.values:
            if not self.values["target"] and ":" in item:
                self.vdev(item)
                self.put("format", "empty")
            else:
                self.put("format", self.one_of("format", item or "raw", FORMATS))
        elif not self.values.get("vdev"):
            self.vdev(item)
        elif not self.access_set:
            self.access_set = True
            self.access(item)
        else:
            raise self.error(f"{item!r} is one too many: the positions are target,format,vdev,access")

    def vdev(self, item: str) -> None:
        """The device; the old syntax has its type behind a colon."""
        name, colon, kind = item.rpartition(":")
        if colon:
            self.values["cdrom"] = _TYPES[self.one_of("type", kind, tuple(_TYPES))]
        self.put("vdev", name if colon else item)

    def access(self, value: str) -> None:
        if value not in _ACCESS:
            raise self.error(f"access is {value!r}: want r, ro, w or rw")
        self.values["writable"] = _ACCESS[value]

    def one_of(self, what: str, value: str, known: Sequence[str]) -> str:
        if value not in known:
            raise self.error(f"{what} is {value!r}: want one of {', '.join(known)}")
        return value

    def put(self, name: str, value: str) -> None:
        if self.values.get(name, value) not in ("", value):
            raise self.error(f"{name} is given twice")
        self.values[name] = value

    def finish(self) -> DiskSpec:
        """What is missing or follows from the rest."""
        values = self.values
        if values.get("cdrom"):
            values["writable"] = False
            if not values.get("target"):
                values["format"] = "empty"
        values.setdefault("format", "raw")
        if not values.get("vdev"):
            raise self.error("no virtual device: want target,format,vdev,access, such as /srv/a.img,raw,xvda,w")
        try:
            vdev_number(values["vdev"])
        except UsageError as error:
            raise self.error(str(error)) from None
        if not values.get("target") and values["format"] != "empty":
            raise self.error("no target: which file or block device is it to be?")
        return DiskSpec(**values)


def parse_disk(*texts: str) -> DiskSpec:
    """The disk that `texts` describe, as if they were one with commas between; but ``target=`` ends with its own text.

    Raises UsageError.
    """
    parser = _Parser(",".join(texts))
    for text in texts:
        parser.feed(text)
    return parser.finish()
