"""The comparison as a picture: an SVG of bars, that any browser shows.

Each case has a group of bars, one a system, scaled to the fastest of the group: what is compared is systems, not cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..svg import Drawing

_COLOURS = {"xenpv": "#1b6ca8", "raw": "#8a8a8a", "nbdkit": "#c77c2c", "qemu-storage-daemon": "#5b8c3a", "blkback": "#c77c2c",
            "qdisk": "#5b8c3a"}
_OTHER = "#444444"
_LEFT, _BAR, _RIGHT = 190, 420, 250
"""Widths of the systems' names, of the longest bar, and of the figures beside it."""
_ROW, _GAP, _TOP = 20, 34, 40
_WIDTH = _LEFT + _BAR + _RIGHT


def comparison(found: dict[str, Any]) -> str:
    """The picture of compare.compare's answer. Raises ValueError when it has no result."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found["results"]:
        groups.setdefault((row["storage"], row["case"]), []).append(row)
    if not groups:
        raise ValueError("there is nothing to draw: no system ran")
    height = _TOP + sum(_GAP + _ROW * len(rows) for rows in groups.values()) + _GAP
    title = "I/O operations a second, medians"
    drawing = Drawing(_WIDTH, height + 20, title)
    drawing.text(10, 24, title, font_size=16, font_weight="bold")
    top = _TOP
    for (storage, case), rows in groups.items():
        top += _GAP
        drawing.text(10, top - 10, f"{case}, {storage}", font_size=13, font_weight="bold")
        for row, width in zip(rows, _widths(rows), strict=True):
            _bar(drawing, row, top, width)
            top += _ROW
    options, processors = found["options"], found["processors"]
    drawing.text(10, height, f"{options['runs']} runs of {options['seconds']:g} s; {processors['count']} x "
                             f"{processors['model']}; pinning: {options['pinning']}", font_size=11)
    return drawing.done()


def _widths(rows: Sequence[dict[str, Any]]) -> list[float]:
    most = max(row["iops"] for row in rows) or 1
    return [_BAR * row["iops"] / most for row in rows]


def _bar(drawing: Drawing, row: dict[str, Any], top: int, width: float) -> None:
    figures = f"{row['iops']:,.0f}; p50 {row['p50_us']:,.1f}, p99 {row['p99_us']:,.1f} us"
    drawing.text(_LEFT - 8, top + 14, row["system"], "end", font_size=13)
    drawing.rectangle(_LEFT, top + 2, width, _ROW - 4, fill=_COLOURS.get(row["system"], _OTHER), title=row["options"]["setup"])
    drawing.text(_LEFT + width + 6, top + 14, figures, font_size=11)
