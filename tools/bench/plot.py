"""The comparison as a picture: an SVG of bars, written by hand, that any browser shows.

Each case has a group of bars, one a system, scaled to the fastest of the group: what is compared is systems, not cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

_COLOURS = {"xenpv": "#1b6ca8", "raw": "#8a8a8a", "nbdkit": "#c77c2c", "qemu-storage-daemon": "#5b8c3a"}
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
    parts, top = [_text(10, 24, "I/O operations a second, medians", size=16, bold=True)], _TOP
    for (storage, case), rows in groups.items():
        top += _GAP
        parts.append(_text(10, top - 10, f"{case}, {storage}", bold=True))
        for row, width in zip(rows, _widths(rows), strict=True):
            parts.append(_bar(row, top, width))
            top += _ROW
    options, processors = found["options"], found["processors"]
    top += _GAP
    parts.append(_text(10, top, f"{options['runs']} runs of {options['seconds']:g} s; {processors['count']} x "
                                f"{processors['model']}; pinning: {options['pinning']}", size=11))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top + 20}" '
        f'viewBox="0 0 {_WIDTH} {top + 20}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{top + 20}" fill="white"/>', *parts, "</svg>", ""])


def _widths(rows: Sequence[dict[str, Any]]) -> list[float]:
    most = max(row["iops"] for row in rows) or 1
    return [_BAR * row["iops"] / most for row in rows]


def _bar(row: dict[str, Any], top: int, width: float) -> str:
    figures = f"{row['iops']:,.0f}   p50 {row['p50_us']:,.1f}, p99 {row['p99_us']:,.1f} us"
    return "\n".join([
        _text(_LEFT - 8, top + 14, row["system"], anchor="end"),
        f'<rect x="{_LEFT}" y="{top + 2}" width="{width:.1f}" height="{_ROW - 4}" '
        f'fill="{_COLOURS.get(row["system"], _OTHER)}"><title>{escape(row["options"]["setup"])}</title></rect>',
        _text(_LEFT + width + 6, top + 14, figures, size=11)])


def _text(x: float, y: float, text: str, *, size: int = 13, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}"{weight} text-anchor="{anchor}">{escape(text)}</text>'
