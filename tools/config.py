"""xl's domain configuration, as far as the emulated Xen can honour it.

The grammar is xl.cfg.5's: ``name = value``, a line or a ``;`` each, ``#`` comments; values are strings, numbers and
lists. It is parsed, never executed.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenpv.errors import UsageError

from .diskspec import DiskSpec, parse_disk

__all__ = ["DomainConfig", "parse_config", "read_config"]

LARGEST = 1 << 20
"""Bytes of a configuration file, at most."""


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """What a domain is made of. `ignored`: keys that mean nothing on the emulated Xen."""

    name: str
    disks: tuple[DiskSpec, ...] = ()
    exec: tuple[str, ...] = ()
    """The program that is the domain, and its arguments; empty: a domain without a process."""
    ignored: tuple[str, ...] = ()
    cmdline: str = ""
    """The kernel's command line, as xl puts it together from cmdline, root and extra (xl.cfg(5))."""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "disk": [disk.to_json() for disk in self.disks], "xenpv_exec": list(self.exec)}


def parse_config(text: str, where: str = "configuration") -> DomainConfig:
    """The domain that `text` describes; a later assignment replaces an earlier one.

    Raises UsageError, naming the line.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UsageError(f"{where}{line}: want NAME = \"text\", number or [list]") from None
    values: dict[str, tuple[int, Any]] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values[name] = statement.lineno, _literal(value, f"{where} line {statement.lineno}: {name}")
            case _:
                raise UsageError(f"{where} line {statement.lineno}: only NAME = VALUE can stand here")
    return _config(values, where)


def _literal(value: ast.expr, where: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UsageError(f"{where}: want a text in quotes, a number, or a list of such") from None


def _config(values: dict[str, tuple[int, Any]], where: str) -> DomainConfig:
    def take(name: str) -> tuple[int, Any]:
        return values.pop(name, (0, None))

    def strings(name: str) -> tuple[int, tuple[str, ...]]:
        line, value = take(name)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
            raise UsageError(f"{where} line {line}: {name} is a list of texts, such as {name} = [\"...\"]")
        return line, tuple(value)

    line, name = take("name")
    if name is None:
        raise UsageError(f"{where}: no name = \"...\": what is the domain called?")
    if not isinstance(name, str) or not name:
        raise UsageError(f"{where} line {line}: name is a text in quotes")
    line, specs = strings("disk")
    try:
        disks = tuple(parse_disk(spec) for spec in specs)
    except UsageError as error:
        raise UsageError(f"{where} line {line}: {error}") from None
    _, argv = strings("xenpv_exec")
    given = {key: str(values.get(key, (0, ""))[1]) for key in ("cmdline", "root", "extra")}
    cmdline = given["cmdline"] or " ".join([f"root={given['root']}"] * bool(given["root"]) + [given["extra"]])
    return DomainConfig(name, disks, argv, tuple(values), cmdline.strip())


def read_config(path: str, extra: Sequence[str] = ()) -> DomainConfig:
    """The file `path`, with the assignments `extra` after it. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise UsageError(f"{path} has more than {LARGEST} bytes: it is no configuration")
        text = data.decode()
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no text: it is no configuration") from None
    return parse_config("\n".join([text, *extra]), Path(path).name)
