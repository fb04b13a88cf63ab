"""A recording as a picture: a heat map of how long requests took, where the time went, and how many there were.

RULES

- One scale of time below the other, one meaning a colour. Colours are told apart by those who do not see all of them: the
  heat map's by lightness alone, the others are those of Okabe and Ito's set.
- What is not known is hatched, with its reason in the legend; it is not shown as zero.
- The clock's resolution and the share of what it could not resolve stand in the picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Final

from xenpv.errors import UsageError
from xenpv.latency import DiskLatency, Histogram
from xenpv.xenbus import vdev_name

from ..latency_text import clock_text, interval_text, share_text, time_text
from ..output import si
from .heatmap import Cells, cells, level_of, levels
from .recording import Header, Period, Recording, merged
from ..svg import Drawing, Scale, linear_ticks, log_ticks, number, path

__all__ = ["Plot", "draw"]

COLUMNS_MAX: Final = 240
WIDTH, LEFT, RIGHT = 1000.0, 76.0, 200.0
TOP, HEAT, STAGES_HEIGHT, RATE, GAP, BOTTOM = 72.0, 300.0, 150.0, 80.0, 44.0, 48.0

HEAT_COLOURS: Final = ("#cfe1f2", "#b0d2e8", "#85bcdc", "#57a0ce", "#3585bf", "#1966ad", "#084a91", "#08285a")
STAGE_COLOURS: Final = {"queued": "#56b4e9", "waited": "#f0e442", "stored": "#0072b2", "answered": "#e69f00",
                        "reaped": "#8c8c8c"}
"""In the order of a request's life."""
RATE_COLOURS: Final = {"read": "#009e73", "write": "#cc79a7"}
LINES: Final = (("p50", 0.5, "#000000", "5 3"), ("p99", 0.99, "#d55e00", ""))
GRID, AXIS, FAINT = "#d9d9d9", "#4d4d4d", "#595959"
TIME_UNITS: Final = (("hours", 3600), ("minutes", 60), ("seconds", 1))
NARROW: Final = 1.5
"""A quantile that lies between two times of which one is at most so often the other is known as one time."""


@dataclass(frozen=True)
class Plot:
    """What is to be drawn of a recording. `stage`: of the heat map; `operation`: one of OPERATIONS, or None for all.

    Raises UsageError when there is nothing of it.
    """

    recording: Recording
    stage: str = ""
    operation: str | None = None
    title: str = ""

    @property
    def header(self) -> Header:
        return self.recording.header

    @cached_property
    def columns(self) -> list[Period]:
        """Intervals, put together where there are more than a picture can show."""
        periods = self.recording.periods
        return list(merged(periods, -(-len(periods) // COLUMNS_MAX))) if periods else []

    def histogram(self, latency: DiskLatency | None, stage: str) -> Histogram:
        if latency is None:
            return Histogram()
        return latency.operations[self.operation].stages.get(stage, Histogram()) if self.operation else latency.stage(stage)

    @cached_property
    def whole(self) -> DiskLatency:
        """All of it."""
        found = DiskLatency(self.header.end, self.header.unit, self.header.resolution_ns)
        for period in self.columns:
            if period.latency:
                found += period.latency
        return found

    @cached_property
    def shown(self) -> str:
        """The heat map's stage: total where it was measured, else service."""
        for stage in [self.stage] if self.stage else ["total", "service"]:
            if self.histogram(self.whole, stage).count:
                return stage
        what = f"{self.operation} requests" if self.operation else "requests"
        raise UsageError(f"there are no times of {what} in it" + (f" for the stage {self.stage}" if self.stage else ""))

    @cached_property
    def seconds(self) -> float:
        return max((period.start + period.seconds for period in self.columns), default=0.0)

    def span(self) -> str:
        first, last = self.whole.span(self.shown)
        return f"{self.shown}: {first} to {last}"


def draw(plot: Plot) -> str:
    """The picture as an SVG document. Raises UsageError when there is nothing to show."""
    return _Picture(plot).done()


class _Picture:
    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.heat = cells(plot.histogram(period.latency, plot.shown) for period in plot.columns)
        self.step = plot.header.resolution_ns / 1e9
        self.right = WIDTH - RIGHT
        self.x = Scale(0.0, plot.seconds, LEFT, self.right)
        self.stages = [stage for stage in STAGE_COLOURS if plot.histogram(plot.whole, stage).count]
        self.drawing = Drawing(WIDTH, TOP + HEAT + STAGES_HEIGHT + RATE + 2 * GAP + BOTTOM, self._title())

    def done(self) -> str:
        self._head()
        heat, stages = TOP, TOP + HEAT + GAP
        rates = stages + STAGES_HEIGHT + GAP
        self._heat(heat)
        self._stages(stages)
        self._rates(rates)
        for top, height in ((heat, HEAT), (stages, STAGES_HEIGHT), (rates, RATE)):
            self._gaps(top, height)
            self._frame(top, height)
        self._time_axis(rates + RATE)
        self._hover(heat, rates + RATE - heat)
        return self.drawing.done()

    # ---- around ----

    def _title(self) -> str:
        header = self.plot.header
        who = header.name or "?"
        return self.plot.title or f"{who} (domain {header.domid}), {vdev_name(header.devid)}: how long requests took"

    def _head(self) -> None:
        plot, header = self.plot, self.plot.header
        histogram = plot.histogram(plot.whole, plot.shown)
        began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(header.started))
        what = plot.operation or "all operations"
        facts = f"{clock_text(plot.whole)}; {share_text(histogram.zero_share)} took less than one step of it"
        lost = sum(getattr(each, word) for each in plot.whole.operations.values() for word in ("unknown", "refused"))
        if lost:
            facts += f"; {lost:,} without a known time"
        self.drawing.text(LEFT, 26, self._title(), font_size=17, font_weight="bold")
        self.drawing.text(LEFT, 45, f"{began}, {plot.seconds:,.4g} s in {len(plot.columns)} columns; {what}, "
                          f"{histogram.count:,} requests", fill=FAINT)
        self.drawing.text(LEFT, 61, facts, fill=FAINT)

    def _frame(self, top: float, height: float) -> None:
        self.drawing.rectangle(LEFT, top, self.right - LEFT, height, fill="none", stroke=AXIS)

    def _grid(self, y: Scale, ticks: Sequence[float], text: Callable[[float], str]) -> None:
        for tick in ticks:
            place = y(tick)
            self.drawing.line(LEFT, place, self.right, place, stroke=GRID)
            self.drawing.line(LEFT - 4, place, LEFT, place, stroke=AXIS)
            self.drawing.text(LEFT - 7, place + 4, text(tick), "end")

    def _time_axis(self, bottom: float) -> None:
        unit, scale = next((name, each) for name, each in TIME_UNITS if self.plot.seconds >= 10 * each or each == 1)
        for tick in linear_ticks(self.plot.seconds / scale, 8):
            place = self.x(tick * scale)
            self.drawing.line(place, bottom, place, bottom + 4, stroke=AXIS)
            self.drawing.text(place, bottom + 18, f"{tick:g}", "middle")
        self.drawing.text((LEFT + self.right) / 2, bottom + 36, f"{unit} since the recording began", "middle")

    def _gaps(self, top: float, height: float) -> None:
        for gap, group in groupby(self.plot.columns, key=lambda period: period.gap):
            periods = list(group)
            if gap:
                left, right = self.x(periods[0].start), self.x(periods[-1].start + periods[-1].seconds)
                self.drawing.rectangle(left, top, right - left, height, fill="#ededed")
                self.drawing.add("path", {"d": _hatch(left, right, top, height), "stroke": "#b3b3b3"})
        gaps = sorted({period.gap for period in self.plot.columns if period.gap})
        if gaps and top == TOP:
            self._legend_box(top + 244, "#ededed", "not known:")
            self.drawing.text(self.right + 36, top + 260, ", ".join(gaps)[:30], fill=FAINT)

    def _legend_box(self, y: float, colour: str, text: str) -> None:
        self.drawing.rectangle(self.right + 16, y - 10, 14, 12, fill=colour, stroke=AXIS, stroke_width=0.5)
        self.drawing.text(self.right + 36, y, text)

    def _edges(self, column: int) -> tuple[float, float]:
        period = self.plot.columns[column]
        return self.x(period.start), self.x(period.start + period.seconds)

    def _stretches(self) -> Iterator[list[int]]:
        """Columns side by side without a gap in between."""
        known = ((column, not period.gap) for column, period in enumerate(self.plot.columns))
        for there, group in groupby(known, key=lambda pair: pair[1]):
            if there:
                yield [column for column, _ in group]

    # ---- how long ----

    def _heat(self, top: float) -> None:
        heat, foot = self.heat, 16.0 if any(self.heat.zeros) else 0.0
        low = heat.rows[0].low * self.step if heat.rows else self.step
        high = heat.rows[-1].high * self.step if heat.rows else 2 * self.step
        y = Scale(low, high, top + HEAT - foot, top, log=True)
        self.drawing.turned(20, top + HEAT / 2, f"{self.plot.span()} (log)")
        rates = [count / period.seconds for column, period in zip(heat.counts, self.plot.columns, strict=True)
                 for count in column if count]
        rates += [zeros / period.seconds for zeros, period in zip(heat.zeros, self.plot.columns, strict=True) if zeros]
        most = max(rates, default=0.0)
        begins = levels(most, min(rates)) if rates else []
        self._grid(y, log_ticks(low, high), _seconds)
        if foot:
            self.drawing.text(LEFT - 7, top + HEAT - 4, f"< {_seconds(self.step)}", "end")
            self.drawing.line(LEFT, y.start, self.right, y.start, stroke=AXIS, stroke_width=0.5)
        for level, data in self._cell_paths(heat, y, top + HEAT, begins).items():
            self.drawing.add("path", {"d": data, "fill": _heat_colour(level, len(begins))})
        self._quantiles(y)
        self._heat_legend(top, begins, most)

    def _cell_paths(self, heat: Cells, y: Scale, bottom: float, begins: Sequence[float]) -> Mapping[int, str]:
        """One path a colour: its cells."""
        parts: dict[int, list[str]] = {}
        for column, period in enumerate(self.plot.columns):
            left, right = self._edges(column)
            rows = [(y(row.high * self.step), y(row.low * self.step), count)
                    for row, count in zip(heat.rows, heat.counts[column] or [0] * len(heat.rows), strict=True)]
            for above, below, count in [*rows, (y.start, bottom, heat.zeros[column])]:
                if count:
                    level = level_of(count / period.seconds, begins)
                    parts.setdefault(level, []).append(
                        f"M{number(left)} {number(above)}H{number(right)}V{number(below)}H{number(left)}Z")
        return {level: "".join(found) for level, found in sorted(parts.items())}

    @cached_property
    def coarse(self) -> bool:
        """Whether the clock is too coarse for this disk: quantiles are shown by the greatest that they can be."""
        spans = [span for stretch in self._stretches() for column in stretch for _, q, *_ in LINES
                 if (span := self._span(column, q))]
        return sum(high > NARROW * low for low, high in spans) > 0.1 * len(spans)

    def _span(self, column: int, q: float) -> tuple[float, float] | None:
        """The seconds between which the quantile lies."""
        span = self.plot.histogram(self.plot.columns[column].latency, self.plot.shown).quantile(q)
        return (max(span[0], 0) * self.step, max(span[1], 0) * self.step) if span else None

    def _quantiles(self, y: Scale) -> None:
        for _, q, colour, dashes in LINES:
            for stretch in self._stretches():
                spans = [(column, self._span(column, q)) for column in stretch]
                for known, group in groupby(spans, key=lambda pair: pair[1] is not None):
                    points: list[tuple[float, float]] = []
                    for column, span in group:
                        if span and self.coarse:
                            points += [(x, y(span[1])) for x in self._edges(column)]
                        elif span:
                            points.append((sum(self._edges(column)) / 2, y(sum(span) / 2)))
                    if known and len(points) > 1:
                        self._line(points, colour, dashes)

    def _line(self, points: Sequence[tuple[float, float]], colour: str, dashes: str) -> None:
        for stroke, width, dash in (("#ffffff", 3.6, ""), (colour, 1.6, dashes)):
            self.drawing.add("path", {"d": path(points), "fill": "none", "stroke": stroke, "stroke_width": width,
                                      "stroke_linejoin": "round", **({"stroke_dasharray": dash} if dash else {})})

    def _heat_legend(self, top: float, begins: Sequence[float], most: float) -> None:
        left = self.right + 16
        self.drawing.text(left, top + 10, "requests/s in a cell", font_weight="bold")
        texts = [f"{si(begin)} to {si(end)}" for begin, end in pairwise(begins)]
        texts += [f"{si(begins[-1])} to {si(most)}" if len(begins) > 1 else si(most)] if begins else []
        for level, text in enumerate(texts):
            self._legend_box(top + 30 + 17 * level, _heat_colour(level, len(begins)), text)
        for place, (name, _, colour, dashes) in enumerate(LINES):
            y = top + 186 + 20 * place
            self.drawing.line(left, y - 4, left + 28, y - 4, stroke=colour, stroke_width=1.6,
                              **({"stroke_dasharray": dashes} if dashes else {}))
            self.drawing.text(left + 36, y, f"{name}, at the most" if self.coarse else name)
        if self.heat.outside:
            self.drawing.text(left, top + HEAT - 8, f"{self.heat.outside:,} not on the scale")

    # ---- where ----

    def _means(self, column: int) -> list[float]:
        latency = self.plot.columns[column].latency
        return [(self.plot.histogram(latency, stage).mean or 0.0) * self.step for stage in self.stages]

    def _stages(self, top: float) -> None:
        sums = sorted(sum(self._means(column)) for stretch in self._stretches() for column in stretch)
        usual = sums[int(0.97 * (len(sums) - 1))]
        high = (usual * 1.5 if sums[-1] > 3 * usual > 0 else sums[-1] * 1.05) or self.step
        y = Scale(0.0, high, top + STAGES_HEIGHT, top)
        self.drawing.turned(20, top + STAGES_HEIGHT / 2, "mean a request")
        self._grid(y, linear_ticks(high, 4), _seconds)
        for stretch in self._stretches():
            below = [0.0] * len(stretch)
            means = [self._means(column) for column in stretch]
            for place, stage in enumerate(self.stages):
                above = [low + mean[place] for low, mean in zip(below, means, strict=True)]
                self._area(stretch, below, above, y, STAGE_COLOURS[stage])
                below = above
            for column, total in zip(stretch, below, strict=True):
                if total > high:
                    middle = sum(self._edges(column)) / 2
                    self.drawing.add("path", {"d": path([(middle - 4, top + 7), (middle + 4, top + 7), (middle, top + 1)],
                                                        close=True), "fill": "#000000"},
                                     title=f"mean {_seconds(total)}")
        left = self.right + 16
        self.drawing.text(left, top + 10, "stages", font_weight="bold")
        for place, stage in enumerate(reversed(self.stages)):
            first, last = self.plot.whole.span(stage)
            self._legend_box(top + 30 + 17 * place, STAGE_COLOURS[stage], stage)
            self.drawing.text(left + 88, top + 30 + 17 * place, _short(first, last), fill=FAINT, font_size=10)
        if sums[-1] > high:
            self.drawing.text(left, top + 36 + 17 * len(self.stages), f"▲ cut; most {_seconds(sums[-1])}")

    def _area(self, stretch: Sequence[int], below: Sequence[float], above: Sequence[float], y: Scale, colour: str) -> None:
        """Between two steps that follow the columns."""
        edges = [self._edges(column) for column in stretch]
        upper = [(x, y(value)) for pair, value in zip(edges, above, strict=True) for x in pair]
        lower = [(x, y(value)) for pair, value in zip(edges, below, strict=True) for x in pair]
        self.drawing.add("path", {"d": path([*upper, *reversed(lower)], close=True), "fill": colour})

    # ---- how many ----

    def _rates(self, top: float) -> None:
        rates = {name: [period.counts.get(f"requests.{name}", 0) / period.seconds for period in self.plot.columns]
                 for name in RATE_COLOURS}
        high = max(map(sum, zip(*rates.values(), strict=True))) * 1.05 or 1.0
        y = Scale(0.0, high, top + RATE, top)
        self.drawing.turned(20, top + RATE / 2, "requests/s")
        self._grid(y, linear_ticks(high, 3), si)
        for stretch in self._stretches():
            below = [0.0] * len(stretch)
            for name, colour in RATE_COLOURS.items():
                above = [low + rates[name][column] for low, column in zip(below, stretch, strict=True)]
                self._area(stretch, below, above, y, colour)
                below = above
        self.drawing.text(self.right + 16, top + 10, "requests", font_weight="bold")
        for place, (name, colour) in enumerate(reversed(RATE_COLOURS.items())):
            self._legend_box(top + 30 + 17 * place, colour, name)

    # ---- the figures ----

    def _hover(self, top: float, height: float) -> None:
        """What a column says when it is pointed at."""
        for column, period in enumerate(self.plot.columns):
            left, right = self._edges(column)
            self.drawing.rectangle(left, top, right - left, height, fill="#ffffff", fill_opacity="0",
                                   title=self._said(period))

    def _said(self, period: Period) -> str:
        when = f"{period.start:.3g} to {period.start + period.seconds:.3g} s"
        if period.gap:
            return f"{when}: {period.gap}"
        histogram = self.plot.histogram(period.latency, self.plot.shown)
        spans = {name: histogram.quantile(q) for name, q, *_ in LINES}
        said = [f"{name} {interval_text(*map(self.plot.whole.ns, span))}" for name, span in spans.items() if span]
        return f"{when}: {histogram.count:,} requests; {self.plot.shown} " + ", ".join(said)


def _hatch(left: float, right: float, top: float, height: float) -> str:
    """Slanted lines within a rectangle."""
    parts = []
    for start in range(-int(height), int(right - left), 9):
        first, last = max(start, 0), min(start + height, right - left)
        if first < last:
            parts.append(path([(left + first, top + height - (first - start)), (left + last, top + height - (last - start))]))
    return "".join(parts)


def _heat_colour(level: int, count: int) -> str:
    """Of `count` colours; the last is always the darkest."""
    return HEAT_COLOURS[len(HEAT_COLOURS) - count + level]


def _seconds(seconds: float) -> str:
    return time_text(seconds * 1e9)


def _short(first: str, last: str) -> str:
    return f"{first} to {last}".replace("storage start", "start").replace("storage end", "end")
