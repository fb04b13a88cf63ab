"""What pictures are drawn with: SVG elements as text, scales from values to places, and ticks at round values.

Source: Scalable Vector Graphics (SVG) 1.1, second edition; no script, no style sheet and no link, so that every viewer and
converter shows the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

__all__ = ["Drawing", "Scale", "linear_ticks", "log_ticks", "number", "path"]

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold (XML 1.0, 2.2 Characters)."""

FONT = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif"


def number(value: float) -> str:
    """`value` as a coordinate: a tenth of a pixel is fine enough."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("?", text))


class Drawing:
    """An SVG document of `width` by `height` pixels."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self._parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(width)}" height="{number(height)}" '
                       f'viewBox="0 0 {number(width)} {number(height)}" font-family="{FONT}" font-size="12" fill="#1a1a1a" '
                       f'role="img">', f"<title>{_text(title)}</title>"]
        self.rectangle(0, 0, width, height, fill="#ffffff")

    def add(self, element: str, attributes: Mapping[str, str | float], content: str = "", title: str = "") -> None:
        """An element. ``stroke_width`` is written ``stroke-width``; `content` is text, `title` what hovering shows."""
        text = "".join(f" {key.replace('_', '-')}={quoteattr(value if isinstance(value, str) else number(value))}"
                       for key, value in attributes.items())
        inside = (f"<title>{_text(title)}</title>" if title else "") + _text(content)
        self._parts.append(f"<{element}{text}>{inside}</{element}>" if inside else f"<{element}{text}/>")

    def rectangle(self, x: float, y: float, width: float, height: float, *, title: str = "",
                  **attributes: str | float) -> None:
        self.add("rect", {"x": x, "y": y, "width": width, "height": height, **attributes}, title=title)

    def line(self, x1: float, y1: float, x2: float, y2: float, **attributes: str | float) -> None:
        self.add("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, **attributes})

    def text(self, x: float, y: float, content: str, anchor: str = "start", **attributes: str | float) -> None:
        self.add("text", {"x": x, "y": y, "text_anchor": anchor, **attributes}, content)

    def turned(self, x: float, y: float, content: str) -> None:
        """Text upwards, centred at the place: the label of a vertical axis."""
        self.text(x, y, content, "middle", transform=f"rotate(-90 {number(x)} {number(y)})")

    def done(self) -> str:
        """The document."""
        return "\n".join([*self._parts, "</svg>", ""])


def path(points: Iterable[tuple[float, float]], *, close: bool = False) -> str:
    """A path's data through `points`."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points) + ("Z" if close else "")


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto pixels from `start` to `end`, which may run downwards; what lies outside is cut."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)


def linear_ticks(high: float, count: int = 5) -> list[float]:
    """Round values from 0 to `high`, about `count` of them."""
    if high <= 0:
        return [0.0]
    rough = high / count
    power: float = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [step * index for index in range(int(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`; where there are few, twice and five times them too."""
    decades = math.log10(high / low)
    factors: Sequence[int] = (1,) if decades > 4 else (1, 3) if decades > 2.5 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0 ** power for power in powers for factor in factors]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]
