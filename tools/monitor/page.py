"""The picture as a file: SVG, a page of HTML with the figures below it, or PNG by cairosvg."""

from __future__ import annotations

from html import escape

from xenpv.errors import UsageError

from ..latency_text import QUANTILES, interval_text, share_text, time_text
from .picture import Plot, draw

__all__ = ["FORMATS", "as_html", "as_png", "render"]

SCALE = 2
"""Pixels of a PNG for one of the drawing's."""

_STYLE = """body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 2em auto;
 max-width: 1000px } svg { max-width: 100%; height: auto } table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .2em .9em; text-align: right; border-bottom: 1px solid #d9d9d9; white-space: nowrap }
th:first-child, td:first-child, td:nth-child(2) { text-align: left } p { color: #595959 }"""


def _table(plot: Plot) -> str:
    whole = plot.whole
    head = "".join(f"<th>{name}</th>" for name in ("stage", "", "requests", "mean", *QUANTILES,
                                                   "most", "under one step"))
    rows = []
    for stage in ("queued", "waited", "stored", "answered", "reaped", "service", "total"):
        histogram = plot.histogram(plot.whole, stage)
        if histogram.count and histogram.mean is not None and histogram.max is not None:
            spans = [span for q in QUANTILES.values() if (span := histogram.quantile(q))]
            spans.append((histogram.max - 1, histogram.max + 1))
            cells = [stage, " to ".join(whole.span(stage)), f"{histogram.count:,}", time_text(whole.ns(histogram.mean)),
                     *(interval_text(*map(whole.ns, span)) for span in spans), share_text(histogram.zero_share)]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>"


def as_html(plot: Plot) -> str:
    """A page that needs nothing else. Pointing at a column shows its figures."""
    picture = draw(plot)
    title = escape(f"{plot.title or plot.header.name}: xenpv recording")
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n{picture}\n{_table(plot)}\n"
            f"<p>A time is given as two where the clock cannot tell: its resolution is "
            f"{time_text(plot.header.resolution_ns)}. Means and counts are exact.</p>\n</body>\n</html>\n")


def as_png(plot: Plot) -> bytes:
    """Raises UsageError when what draws it is not installed."""
    try:
        import cairosvg
    except ImportError as error:
        raise UsageError("PNG needs cairosvg: `pip install 'xenpv[png]'`, or plot to .svg") from error
    except OSError as error:  # cairocffi, when it finds no library
        raise UsageError("PNG needs the cairo library: `apt-get install libcairo2`, or plot to .svg") from error
    made: bytes = cairosvg.svg2png(bytestring=draw(plot).encode(), scale=SCALE)
    return made


FORMATS = {"svg": lambda plot: draw(plot).encode(), "html": lambda plot: as_html(plot).encode(), "png": as_png}
"""By the ending of the file's name."""


def render(plot: Plot, ending: str) -> bytes:
    """Raises UsageError for an ending that is not in FORMATS, and when there is nothing to show."""
    if ending not in FORMATS:
        raise UsageError(f"{ending or 'no ending'!r} is no picture's ending: want .{', .'.join(FORMATS)}")
    return FORMATS[ending](plot)
