"""How results look: tables as xl's, JSON, sizes, and text of others that may not move the cursor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from xenpv.errors import UsageError

__all__ = ["dumps", "duration", "pairs", "parse_size", "printable", "si", "table", "text_or_hex"]

_SIZE = re.compile(r"(?P<number>[0-9]{1,19})(?P<unit>[kKmMgGtT]?)(i?[bB])?")
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def dumps(data: Any) -> str:
    """JSON for people and programs."""
    return json.dumps(data, indent=2)


def table(header: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell; those named in `right` are aligned to the right."""
    lines = [list(header)] + [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) if name in right else cell.ljust(width)
                  for cell, width, name in zip(line, widths, header, strict=True)).rstrip()
        for line in lines)


def pairs(values: Mapping[str, object]) -> str:
    """One name and value a line, as `xl info` has them."""
    return "\n".join(f"{name:<23}: {value}" for name, value in values.items())


def printable(value: bytes) -> str:
    """`value` on one line: UTF-8, and whatever a terminal would act on escaped."""
    text = value.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def text_or_hex(value: bytes) -> dict[str, str]:
    """For JSON: ``{"value": text}``, or ``{"hex": digits}`` when `value` is no UTF-8."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def parse_size(text: str) -> int:
    """Bytes: a number with k, M, G or T for powers of 1024. Raises UsageError."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is no size: want bytes, or a number with k, M, G or T, such as 512M")
    return int(found["number"]) << _UNITS[found["unit"].lower()]


def duration(seconds: float) -> str:
    """1:02:03, with days before it when there are any."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}"
    return clock if not days else f"{days} day{'s' if days > 1 else ''}, {clock}"


def si(value: float, digits: int = 3) -> str:
    """A number with k, M or G for powers of 1000, such as ``12.3k``."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10 ** power * 0.9995:
            return f"{value / 10 ** power:.{digits}g}{letter}"
    return f"{value:.0f}" if abs(value) >= 10 ** digits else f"{value:.{digits}g}"
