"""What a disk's target says: filters, the storage, and their parameters.

    /srv/a.img                              a raw image
    nbd://server/export                     FORMAT:REST
    throttle,iops=500,bps=10M:/srv/a.img    FILTER,NAME=VALUE,...:TARGET; the first filter is nearest to the guest

In a value, `,` and `:` and `%` are written %2C, %3A and %25.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from xenpv.errors import StorageError

_WORD: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31})((?:,[^,:]*)*):(.*)", re.ASCII | re.DOTALL)
_PARAMETER: Final = re.compile(r"([a-z][a-z0-9-]*)=(.*)", re.ASCII | re.DOTALL)
_SIZE: Final = re.compile(r"([0-9]{1,15})([kmgt]?)", re.ASCII | re.IGNORECASE)
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|ms|s|m|)", re.ASCII)
_UNITS: Final = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
FILTERS_MAX: Final = 16
_LIBXLS: Final = ("aio", "raw")
"""What libxl puts in front of every target with backendtype=tap."""


class Parameters:
    """The parameters of one word. Each getter takes its own; done() complains of what nobody took.

    All raise StorageError.
    """

    def __init__(self, word: str, values: Mapping[str, str] | None = None) -> None:
        self.word = word
        self._values = dict(values or {})
        self._asked: list[str] = []

    def error(self, name: str, want: str) -> StorageError:
        return StorageError(f"{self.word}: {name}={self._values.get(name, '')}: want {want}")

    def text(self, name: str, default: str | None = None) -> str | None:
        self._asked.append(name)
        value = self._values.get(name, default)
        if value == "":
            raise self.error(name, "something behind the =")
        return value

    def size(self, name: str, default: int | None = None) -> int | None:
        """Bytes, with k, M, G or T for powers of 1,024."""
        value = self.text(name)
        if value is None:
            return default
        try:
            return parse_size(value)
        except ValueError:
            raise self.error(name, "a size in bytes, such as 65536, 64k or 10M") from None

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int | None:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch("[0-9]{1,18}", value, re.ASCII) or not low <= int(value) <= high:
            raise self.error(name, f"a number from {low} to {high}")
        return int(value)

    def seconds(self, name: str, default: float) -> float:
        """A time, with us, ms, s or m behind it; without, seconds."""
        value = self.text(name)
        if value is None:
            return default
        found = _TIME.fullmatch(value)
        if found is None:
            raise self.error(name, "a time, such as 10ms or 1.5s")
        return float(found[1]) * _UNITS[found[2]]

    def probability(self, name: str) -> float:
        """0 to 1, or a percentage; 0 when it is not there."""
        value = self.text(name)
        if value is None:
            return 0.0
        percent = value.endswith("%")
        found = re.fullmatch(r"[0-9]{0,3}\.?[0-9]{1,9}", value.removesuffix("%"), re.ASCII)
        number = float(found[0]) / (100 if percent else 1) if found else 2.0
        if number > 1:
            raise self.error(name, "a probability, such as 0.01 or 1%")
        return number

    def done(self) -> None:
        """Nothing else is known."""
        for name in self._values:
            if name not in self._asked:
                known = f"it has {', '.join(self._asked)}" if self._asked else "it has none"
                raise StorageError(f"{self.word}: there is no parameter {name}: {known}")


def parse_size(text: str) -> int:
    """Bytes of ``512``, ``64k``, ``10M``. Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise ValueError(text)
    return int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[found[2].lower()]


@dataclass(frozen=True, slots=True)
class Target:
    """A target, taken apart. `word` is the format, ``raw`` for a path without one; `rest` is the format's own."""

    word: str
    rest: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    filters: tuple[tuple[str, Mapping[str, str]], ...] = ()
    head: str = ""
    """The text before `rest`, as it was."""


def parse_target(text: str, is_filter: Callable[[str], bool]) -> Target:
    """`text` taken apart; nothing is opened. Raises StorageError."""
    filters: list[tuple[str, Mapping[str, str]]] = []
    rest = text
    while True:
        found = None if rest.startswith("/") else _WORD.fullmatch(rest)
        if found is None:
            return Target("raw", rest, {}, tuple(filters), text[:len(text) - len(rest)])
        word, parameters, rest = found[1], _parameters(found[1], found[2]), found[3]
        if word in _LIBXLS and not parameters and not rest.startswith("/") and _WORD.fullmatch(rest):
            continue
        if not is_filter(word):
            return Target(word, rest, parameters, tuple(filters), text[:len(text) - len(rest)])
        if len(filters) == FILTERS_MAX:
            raise StorageError(f"more than {FILTERS_MAX} filters: leave some out")
        if not rest:
            raise StorageError(f"{word}: names no storage: write {word}:/path, or {word}:nbd://server")
        filters.append((word, parameters))


def _parameters(word: str, text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in text.split(",")[1:]:
        found = _PARAMETER.fullmatch(item)
        if found is None:
            raise StorageError(f"{word}: {item!r} is no parameter: want name=value, such as {word},name=value:/path")
        if found[1] in values:
            raise StorageError(f"{word}: {found[1]} is given twice")
        values[found[1]] = unquote(found[2])
    return values
