"""How a value of the store is read, once and strictly, and the base of the records made of them.

RULES

- A value is the other side's: it is bounded here, at its first read, or refused with RemoteProtocolError that names key
  and value. Past this file there are only numbers within their bounds.
- A number is canonical decimal: ASCII digits, no sign, no space, no leading zero, nothing after it.
- A key that is missing has its default; one without a default must be there.
- Each key is asked for once and in the order of the fields, so that a `Values` may read the store as it is asked.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from ..errors import RemoteProtocolError

__all__ = ["Choice", "FLAG", "Kind", "Number", "Record", "TEXT", "Text", "U32", "Values", "key", "refuse"]

U32: Final = (1 << 32) - 1
_DECIMAL: Final = re.compile(rb"0|[1-9][0-9]{0,19}")


def refuse(where: str, name: str, value: bytes | None, want: str) -> RemoteProtocolError:
    """The error for `value` of the key `name` in the directory `where`; a long value is cut."""
    path = f"{where}/{name}" if where else name
    shown = "missing" if value is None else repr(value[:40]) + ("..." if len(value) > 40 else "")
    return RemoteProtocolError(f"{path} is {shown}: want {want}")


class Values(Protocol):
    """A device's directory: a dict, or something that reads the store."""

    def get(self, name: str, /) -> bytes | None:
        """What stands in the key `name`, relative to the directory (``queue-0/ring-ref``), or None."""
        ...


class Kind(Protocol):
    """How the value of a key is read and written."""

    def read(self, where: str, name: str, value: bytes) -> Any: ...

    def write(self, value: Any) -> str: ...

    @property
    def want(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `low`, at least 0, to `high`.

    With `most`, whatever is above `most` but not above `high` is taken as `most`.
    """

    low: int
    high: int
    most: int | None = None

    @property
    def want(self) -> str:
        return f"a decimal number from {self.low} to {self.high}"

    def read(self, where: str, name: str, value: bytes) -> int:
        number = int(value) if _DECIMAL.fullmatch(value) else -1
        if not self.low <= number <= self.high:
            raise refuse(where, name, value, self.want)
        return number if self.most is None else min(number, self.most)

    def write(self, value: int) -> str:
        return str(int(value))


@dataclass(frozen=True, slots=True)
class Flag:
    """0 or 1."""

    want: str = "0 or 1"

    def read(self, where: str, name: str, value: bytes) -> bool:
        if value not in (b"0", b"1"):
            raise refuse(where, name, value, self.want)
        return value == b"1"

    def write(self, value: bool) -> str:
        return "1" if value else "0"


@dataclass(frozen=True, slots=True)
class Text:
    """UTF-8 of at most `size` bytes, without control characters."""

    size: int = 3072

    @property
    def want(self) -> str:
        return f"UTF-8 text of at most {self.size} bytes, without control characters"

    def read(self, where: str, name: str, value: bytes) -> str:
        try:
            text = value[:self.size + 1].decode()
        except UnicodeDecodeError:
            raise refuse(where, name, value, self.want) from None
        if len(value) > self.size or any(ord(letter) < 0x20 or ord(letter) == 0x7f for letter in text):
            raise refuse(where, name, value, self.want)
        return text

    def write(self, value: str) -> str:
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `words`, which are kept as they are."""

    words: tuple[str, ...]

    @property
    def want(self) -> str:
        return " or ".join(self.words)

    def read(self, where: str, name: str, value: bytes) -> str:
        for word in self.words:
            if value == word.encode():
                return word
        raise refuse(where, name, value, self.want)

    def write(self, value: str) -> str:
        return str(value)


FLAG: Final = Flag()
TEXT: Final = Text()


def key(name: str, kind: Kind, default: Any = dataclasses.MISSING, *, other: str | None = None) -> Any:
    """A record's field that stands in the key `name`, or where that is missing in `other`.

    A field whose value is None has no key.
    """
    return dataclasses.field(default=default, metadata={"key": name, "kind": kind, "other": other})


class Record:
    """A dataclass of key() fields."""

    __slots__ = ()

    @classmethod
    def parse(cls, values: Values, where: str = "") -> Self:
        """The record that stands in `values`; keys that it does not know are passed over.

        `where`, the directory's path, is for the error's text. Raises RemoteProtocolError.
        """
        found = {}
        for each in dataclasses.fields(cls):  # type: ignore[arg-type]
            name, kind = each.metadata["key"], each.metadata["kind"]
            value = values.get(name)
            if value is None and each.metadata["other"]:
                value = values.get(each.metadata["other"])
            if value is not None:
                found[each.name] = kind.read(where, name, value)
            elif each.default is dataclasses.MISSING:
                raise refuse(where, name, None, kind.want)
        record = cls(**found)
        record.check(where)
        return record

    def check(self, where: str) -> None:
        """What must hold between the fields. Raises RemoteProtocolError."""

    def to_keys(self) -> dict[str, str]:
        """The keys to write, in the order of the fields."""
        return {each.metadata["key"]: each.metadata["kind"].write(getattr(self, each.name))
                for each in dataclasses.fields(self)  # type: ignore[arg-type]
                if getattr(self, each.name) is not None}
