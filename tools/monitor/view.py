"""`xenpv top` as lines of text: one a vbd, in columns; which of them fit, in what order, and from which on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from xenpv.errors import UsageError

from ..latency_text import interval_text, share_text, time_text
from ..output import si
from .interval import OTHERS, Interval
from .source import Vbd
from .terminal import BOLD, REVERSE, styled

__all__ = ["COLUMNS", "SORT_KEYS", "View", "span_text"]

NAME_MAX: Final = 16
_HELP: Final = ("q quit   left/right sort by another column   R other way round   up/down, page up/down scroll   "
                "+/- interval   space now   h help")


def rate_text(value: float | None) -> str:
    """A rate in at most five characters; a dash without one."""
    if value is None:
        return "-"
    return "0" if value < 0.05 else f"{value:.1f}" if value < 10 else f"{value:.0f}" if value < 1000 else si(value)


def bytes_text(value: float | None) -> str:
    """A rate of bytes, in powers of 1024; a dash without one."""
    if value is None:
        return "-"
    for power, unit in ((3, "Gi"), (2, "Mi"), (1, "Ki")):
        if value >= 1000 * 1024 ** (power - 1):
            scaled = value / 1024 ** power
            return f"{scaled:.2f}{unit}" if scaled < 10 else f"{scaled:.1f}{unit}" if scaled < 100 else f"{scaled:.0f}{unit}"
    return f"{value:.0f}"


def span_text(span: tuple[float, float] | None) -> str:
    """A time that lies between two, in ns: one figure where they are near, both where the clock is coarse."""
    if span is None:
        return "-"
    return interval_text(*span).replace(" ", "")


def _resolution(interval: Interval) -> str:
    return time_text(interval.latency.resolution_ns).replace(" ", "") if interval.latency else "-"


def _zero(interval: Interval) -> str:
    return share_text(interval.zero_share).replace(" ", "")


def _lost(interval: Interval) -> str:
    return share_text(interval.lost_share).replace(" ", "")


@dataclass(frozen=True, slots=True)
class Column:
    """`value` is what is sorted by, greatest first but for the identity; `rank` says which goes first when space is short."""

    key: str
    header: str
    rank: int
    text: Callable[[Interval], str]
    value: Callable[[Interval], float | None] | None = None
    """None: it cannot be sorted by."""


def _rate(key: str, header: str, rank: int, *names: str, text: Callable[[float | None], str] = rate_text) -> Column:
    return Column(key, header, rank, lambda interval: text(interval.rate(*names)), lambda interval: interval.rate(*names))


def _time(stage: str, name: str, q: float, rank: int) -> Column:
    def middle(interval: Interval) -> float | None:
        span = interval.quantile_ns(stage, q)
        return sum(span) / 2 if span else None

    return Column(f"{stage}-{name}", f"{stage[:3]}-{name}", rank, lambda interval: span_text(interval.quantile_ns(stage, q)),
                  middle)


COLUMNS: Final = (
    Column("vbd", "ID", 0, lambda interval: str(interval.domid), lambda interval: None),
    Column("vdev", "VDEV", 0, lambda interval: interval.vdev),
    _rate("reads", "r/s", 0, "requests.read"),
    _rate("writes", "w/s", 0, "requests.write"),
    _rate("others", "o/s", 6, *OTHERS),
    _rate("read-bytes", "rB/s", 1, "bytes_read", text=bytes_text),
    _rate("written-bytes", "wB/s", 1, "bytes_written", text=bytes_text),
    _time("service", "p50", 0.5, 2),
    _time("service", "p99", 0.99, 1),
    _time("total", "p50", 0.5, 2),
    _time("total", "p99", 0.99, 0),
    Column("depth", "QD", 0, lambda interval: rate_text(interval.depth), lambda interval: interval.depth),
    _rate("notifications", "ntf/s", 4, "notifications"),
    _rate("saved", "saved/s", 1, "notifications_saved"),
    Column("resolution", "clock", 5, _resolution),
    Column("zero", "zero", 5, _zero),
    Column("lost", "lost", 5, _lost, lambda interval: interval.lost_share),
)
SORT_KEYS: Final = tuple(column.key for column in COLUMNS if column.value)
_LEFT: Final = frozenset({"vdev", "name"})


def _cell(text: str, width: int, column: Column) -> str:
    return text.ljust(width) if column.key in _LEFT else text.rjust(width)


@dataclass
class View:
    """What is shown, and what the user chose. `where`: the hypervisor, for the first line."""

    where: str
    seconds: float
    sort: str = "vbd"
    reverse: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    """Of domains, by domid."""
    _rows: list[Interval] = field(default_factory=list)
    _pid: int | None = None
    _clock: str = ""
    _offset: int = 0
    _page: int = 1
    _help: bool = False

    def __post_init__(self) -> None:
        if self.sort not in SORT_KEYS:
            raise UsageError(f"{self.sort!r} is no column to sort by: want one of {', '.join(SORT_KEYS)}")

    def update(self, found: Mapping[Vbd, Interval], pid: int | None, clock: str) -> None:
        """What is to be shown from now on. `clock`: the time of day, in words."""
        self._rows, self._pid, self._clock = list(found.values()), pid, clock

    def press(self, key: str) -> bool:
        """A key of Terminal.key. False when it ends the display."""
        if key in ("q", "Q", "eof"):
            return False
        at = SORT_KEYS.index(self.sort)
        match key:
            case "left" | "<":
                self.sort = SORT_KEYS[at - 1]
            case "right" | ">":
                self.sort = SORT_KEYS[(at + 1) % len(SORT_KEYS)]
            case "R":
                self.reverse = not self.reverse
            case "up" | "down" | "page-up" | "page-down" | "home" | "end":
                far = len(self._rows)
                self._offset += {"up": -1, "down": 1, "page-up": -self._page, "page-down": self._page, "home": -far,
                                 "end": far}[key]
            case "+":
                self.seconds = min(self.seconds * 2, 60)
            case "-":
                self.seconds = max(self.seconds / 2, 0.125)
            case "h" | "?":
                self._help = not self._help
        return True

    def sorted_rows(self) -> list[Interval]:
        """The vbds in the order that was chosen; those without a figure come last."""
        column = next(column for column in COLUMNS if column.key == self.sort)
        rows = sorted(self._rows, key=lambda row: (row.domid, row.devid))
        if self.sort == "vbd":
            return rows[::-1] if self.reverse else rows
        assert column.value is not None
        measured = [(value, row) for row in rows if (value := column.value(row)) is not None]
        measured.sort(key=lambda pair: pair[0], reverse=not self.reverse)
        bare = [row for row in rows if column.value(row) is None]
        return [row for _, row in measured] + bare

    def title(self) -> str:
        """The first line."""
        count = len(self._rows)
        backend = f"backend pid {self._pid}" if self._pid else "no backend runs: `xenpv backend run`"
        return (f"xenpv top {self._clock}  {self.where}  {backend}  {count} vbd{'' if count == 1 else 's'}  "
                f"every {self.seconds:g} s  by {self.sort}{', reversed' if self.reverse else ''}")

    def _columns(self) -> list[Column]:
        columns = list(COLUMNS)
        if any(row.domid in self.names for row in self._rows):
            columns.insert(1, Column("name", "NAME", 3, lambda row: _name(self.names, row)))
        return columns

    def table(self, width: int | None = None, rows: Sequence[Interval] | None = None) -> list[str]:
        """Header and rows, as wide as they need; columns are left out until they fit into `width`."""
        return self._fitted(width, self.sorted_rows() if rows is None else rows)[0]

    def _fitted(self, width: int | None, rows: Sequence[Interval]) -> tuple[list[str], list[Column]]:
        """The table, and the columns that are in it."""
        columns = self._columns()
        texts = {column.key: [column.header, *(column.text(row) for row in rows)] for column in columns}
        widths = {key: max(len(text) for text in cells) for key, cells in texts.items()}

        def whole() -> int:
            return sum(widths[column.key] for column in columns) + gap * (len(columns) - 1)

        gap = 2
        if width is not None and whole() > width:
            gap = 1
            while whole() > width and (spare := max(columns, key=lambda column: column.rank)).rank:
                columns.remove(spare)
        lines = [[_cell(texts[column.key][line], widths[column.key], column) for column in columns]
                 for line in range(len(rows) + 1)]
        shown = [(" " * gap).join(cells).rstrip() for cells in lines]
        first = sum(column.key in ("vbd", "name", "vdev") for column in columns)
        for line, row in enumerate(rows, 1):
            if row.state and not row.counts:
                shown[line] = (" " * gap).join([*lines[line][:first], row.state])
        return [line[:width] for line in shown], columns

    def clocks(self) -> str:
        """What the times of all rows may be believed, in a line: for a table without room for the columns that say it."""
        steps = sorted({row.latency.resolution_ns for row in self._rows if row.latency})
        zeros = [row.zero_share for row in self._rows if row.zero_share is not None]
        lost = [row.lost_share for row in self._rows if row.lost_share is not None]
        if not steps:
            return "no times: the backend does not measure them (`xenpv backend run --profile auto`)"
        clock = " and ".join(time_text(step) for step in steps)
        return (f"clock {clock}; shorter than a step of it: {share_text(max(zeros, default=None))} at most; "
                f"times lost: {share_text(max(lost, default=None))} at most")

    def frame(self, columns: int, lines: int) -> list[str]:
        """What fills a terminal of that size: no line is as long as it is wide, and there are no more than it has."""
        width = max(columns - 1, 1)
        rows = self.sorted_rows()
        table, shown = self._fitted(width, rows)
        foot = [_HELP[:width]] if self._help else []
        if rows and lines > 3 and not {"resolution", "zero", "lost"} <= {column.key for column in shown}:
            foot.insert(0, self.clocks()[:width])
        self._page = max(lines - 2 - len(foot), 1)
        self._offset = min(max(self._offset, 0), max(len(rows) - self._page, 0))
        body = table[1 + self._offset:][:self._page]
        if not rows:
            body = ["no vbd is served here yet"[:width]]
        made = [styled(self.title()[:width], BOLD), styled(table[0].ljust(width), REVERSE), *body]
        made += [""] * (lines - len(made) - len(foot)) + foot
        return made[:max(lines, 1)]

    def text(self) -> str:
        """For --batch: the title and the whole table."""
        return "\n".join([self.title(), *self.table()]) + "\n"

    def to_json(self, taken: float) -> dict[str, Any]:
        """For --batch --json. `taken`: seconds since 1970."""
        return {"time": round(taken, 3), "seconds": self.seconds, "backend_pid": self._pid,
                "vbds": [{"name": self.names.get(row.domid), **row.to_json()} for row in self.sorted_rows()]}


def _name(names: Mapping[int, str], row: Interval) -> str:
    """Of columns that a terminal shows one by one: what is wider or no letter at all becomes ``?``."""
    name = names.get(row.domid, "-")[:NAME_MAX]
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in name)
