"""A terminal's screen as far as `xenpv top` uses one: what its bytes leave to be seen."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\033\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """A sequence that it does not know fails the test: another terminal might not know it either."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns, self.height = columns, lines
        self.alternate = False
        self.cursor = True
        self.frames = 0
        self._cells = [[" "] * columns for _ in range(lines)]
        self._row = self._column = 0
        self._saved = 0, 0
        self._rest = ""
        self.last: list[str] = []
        """What the alternate screen showed when it was left."""

    def resize(self, columns: int, lines: int) -> None:
        """As xterm does: what does not fit is cut, the rest stays."""
        self._cells = [(row + [" "] * columns)[:columns] for row in self._cells[:lines]]
        self._cells += [[" "] * columns for _ in range(lines - len(self._cells))]
        self.columns, self.height = columns, lines
        self._row, self._column = min(self._row, lines - 1), min(self._column, columns - 1)

    def feed(self, data: bytes) -> None:
        text = self._rest + data.decode()
        self._rest = ""
        at = 0
        while at < len(text):
            if text[at] == "\033":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    assert len(text) - at < 12, f"no sequence: {text[at:at + 12]!r}"
                    self._rest = text[at:]
                    return
                self._obey(found[1] + found[3], found[2])
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    def _obey(self, command: str, value: str) -> None:
        match command, value:
            case "H", "":
                self._row = self._column = 0
                self.frames += 1
            case "K", "":
                self._cells[self._row][self._column:] = [" "] * (self.columns - self._column)
            case "J", "":
                self._obey("K", "")
                for row in self._cells[self._row + 1:]:
                    row[:] = [" "] * self.columns
            case "?h", "1049":
                self._saved = self._row, self._column
                self.alternate = True
            case "?l", "1049":
                self.last = self.lines()
                self._row, self._column = self._saved if self.alternate else (self._row, self._column)
                self.alternate = False
            case "?h" | "?l", "25":
                self.cursor = command == "?h"
            case "m", "0" | "1" | "7":
                pass
            case _:
                raise AssertionError(f"unknown sequence: CSI {command} {value}")

    def _put(self, char: str) -> None:
        match char:
            case "\r":
                self._column = 0
            case "\n":
                assert self._row + 1 < self.height, "the screen scrolled"
                self._row += 1
            case _:
                assert char.isprintable(), repr(char)
                assert self._column + 1 < self.columns, f"a line of {self.columns} columns was filled: {self.lines()}"
                self._cells[self._row][self._column] = char
                self._column += 1

    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]
