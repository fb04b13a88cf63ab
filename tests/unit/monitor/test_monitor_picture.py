"""The picture: what is in it is what was recorded, and what it means can be read from it alone."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.backend_files import latency_of
from xenpv.errors import UsageError
from xenpv.latency import DiskLatency, Histogram
from xenpv_tools.monitor.heatmap import Row, cells, level_of, levels
from xenpv_tools.monitor.page import as_html, as_png, render
from xenpv_tools.monitor.picture import COLUMNS_MAX, HEAT_COLOURS, RATE_COLOURS, STAGE_COLOURS, Plot, draw
from xenpv_tools.monitor.recording import COUNTERS, Header, Period, Recorder, Recording, read_recording
from xenpv_tools.svg import linear_ticks, log_ticks

SVG = "{http://www.w3.org/2000/svg}"


def histogram(*values: int) -> Histogram:
    made = Histogram()
    for value in values:
        made.record(value)
    return made


def recording(*latencies: DiskLatency | str, name: str = "guest", unit: str = "us",
              resolution_ns: int = 1000) -> Recording:
    """A second each; text is a gap."""
    header = Header(1, 51712, name, 1_700_000_000.0, 1.0, "backend", unit, resolution_ns)
    return Recording(header, tuple(
        Period(float(second), 1.0, {}, gap=each) if isinstance(each, str) else
        Period(float(second), 1.0, dict.fromkeys(COUNTERS, 10), 1, each) for second, each in enumerate(latencies)))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}title")]


# ---- cells ----


def test_every_value_is_in_the_row_that_holds_it() -> None:
    values = (1, 2, 3, 90, 91, 5000, 1_000_000)
    found = cells([histogram(*values)])
    counts = dict(zip(found.rows, found.counts[0], strict=True))
    assert all(counts[row] == sum(row.low <= value < row.high for value in values) for row in counts)
    assert sum(counts.values()) == len(values)


def test_rows_stand_one_on_the_other() -> None:
    rows = cells([histogram(1, 100_000_000)]).rows
    assert all(below.high == above.low for below, above in zip(rows, rows[1:], strict=False))
    assert rows[0] == Row(1, 2) and all(row.high / row.low < 1.25 for row in rows if row.low >= 64)


def test_what_has_no_place_is_counted_apart() -> None:
    found = cells([histogram(0, 0, -1, 1 << 28, 7)])
    assert (found.zeros, found.outside, sum(found.counts[0])) == ([2], 2, 1)


def test_only_zeros() -> None:
    assert cells([histogram(0), histogram()]).rows == ()


@pytest.mark.parametrize(("most", "least", "begins"), [
    (621.0, 0.25, [0.1, 0.3, 1, 3, 10, 30, 100, 300]), (10.0, 10.0, [10]), (30.0, 4.0, [3, 10, 30]),
    (1e6, 1.0, [300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6])])
def test_colours_begin_at_round_values(most: float, least: float, begins: list[float]) -> None:
    assert levels(most, least) == pytest.approx(begins)
    assert level_of(most, begins) == len(begins) - 1 and level_of(least, begins) == 0


# ---- scales ----


def test_ticks_are_round() -> None:
    assert linear_ticks(900, 8) == [0, 200, 400, 600, 800] and linear_ticks(0) == [0]
    assert log_ticks(4e-3, 9e-2) == pytest.approx([5e-3, 1e-2, 2e-2, 5e-2])


# ---- the picture ----


def test_what_it_says() -> None:
    svg = draw(Plot(recording(latency_of(100, 0), latency_of(100, 100))))
    said = " ".join(texts(svg))
    for words in ("guest (domain 1), xvda: how long requests took", "2023-11-14 22:13:20 UTC", "4 requests",
                  "by the backend, clock CLOCK_MONOTONIC, resolution 1 us; 25 % took less than one step",
                  "total: submit to response", "seconds since", "p99", "requests/s in a cell", "queued",
                  "stored", "submit to fetch"):
        assert words in said


def test_each_column_says_its_figures() -> None:
    found = titles(draw(Plot(recording(latency_of(100, 100), "no backend"))))
    assert "0 to 1 s: 2 requests; total p50 100 us, p99 100 us" in found
    assert "1 to 2 s: no backend" in found


def test_a_hostile_name_stays_text() -> None:
    svg = draw(Plot(recording(latency_of(5), name="</svg><script>alert(1)</script>\"&")))
    assert "<script" not in svg
    assert texts(svg)[0].startswith('</svg><script>alert(1)</script>"& (domain 1)')


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place in JSON that can be written to: what holds it, and its key there."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [spot for key, inner in pairs for spot in [(value, key), *spots(inner)]]


def test_a_spoilt_recording_is_drawn_or_refused(tmp_path: Path) -> None:
    path, chance = tmp_path / "r", random.Random(1)
    with Recorder(path, recording().header, size_max=1 << 20) as recorder:
        for period in recording(latency_of(5, 900), "no backend", latency_of(0, 70_000)).periods:
            recorder.add(period)
    whole = path.read_text().splitlines()
    bad = (0, -1, 1, 1 << 62, 1 << 63, 1e11, 1e-3, 1e300, "x", None, True, [], {}, [[0, 1]], [[5, 1 << 60, 1]], "\0")
    outcomes = set()
    for _ in range(300):
        lines = [json.loads(line) for line in whole]
        holder, key = chance.choice(spots(lines))
        holder[key] = chance.choice(bad)
        path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
        try:
            ElementTree.fromstring(draw(Plot(read_recording(path))))
            outcomes.add("drawn")
        except UsageError:
            outcomes.add("refused")
    assert outcomes == {"drawn", "refused"}


def test_characters_that_xml_has_not() -> None:
    assert texts(draw(Plot(recording(latency_of(5), name="a\x00\x1b\ud800b"))))[0].startswith("a???b (domain 1)")


def test_gaps_have_their_reasons() -> None:
    assert "no backend, not connected" in texts(draw(Plot(recording(latency_of(5), "not connected", "no backend"))))


def test_without_stamps_service_is_shown() -> None:
    bare = latency_of(100)
    for stage in ("total", "queued"):
        bare.operations["read"].stages[stage] = Histogram()
    said = texts(draw(Plot(recording(bare))))
    assert "service: fetch to response (log)" in said and "queued" not in said


def test_one_operation() -> None:
    both = latency_of(100) + latency_of(9, 9, operation="write")
    assert "1 requests" in " ".join(texts(draw(Plot(recording(both), operation="read"))))


@pytest.mark.parametrize("made", [
    lambda: Plot(recording()), lambda: Plot(recording("no backend")), lambda: Plot(recording(latency_of(5)), stage="reaped"),
    lambda: Plot(recording(latency_of(5)), operation="discard")])
def test_nothing_to_show_is_said(made: Callable[[], Plot]) -> None:
    with pytest.raises(UsageError, match="there are no times"):
        draw(made())


@pytest.mark.parametrize("times", [(0,), (0, 0, 1), (1 << 28,), (-5,), (5,), (1, 134_000_000)])
def test_any_times_give_a_picture(times: tuple[int, ...]) -> None:
    ElementTree.fromstring(draw(Plot(recording(latency_of(*times)))))


def test_a_coarse_clock_shows_the_most_that_quantiles_can_be() -> None:
    coarse = recording(latency_of(0, 0, 1, unit="tick", resolution_ns=4_000_000), unit="tick", resolution_ns=4_000_000)
    said = texts(draw(Plot(coarse)))
    assert "p50, at the most" in said and "< 4 ms" in said and any("resolution 4 ms; 66.7 %" in text for text in said)


def test_a_long_recording_is_put_together() -> None:
    plot = Plot(recording(*[latency_of(5)] * 1000))
    assert len(plot.columns) <= COLUMNS_MAX and plot.whole.count == 1000
    assert len(draw(plot)) < 200_000


def test_a_rare_long_column_does_not_flatten_the_others() -> None:
    svg = draw(Plot(recording(*[latency_of(100)] * 99, latency_of(1_000_000))))
    assert any(text.startswith("▲ cut; most ") for text in texts(svg))


# ---- colours ----


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    parts = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_heat_map_is_told_by_lightness_alone() -> None:
    shades = [luminance(colour) for colour in HEAT_COLOURS]
    assert all(lighter > 1.2 * darker for lighter, darker in zip(shades, shades[1:], strict=False))
    assert luminance("#ffffff") > shades[0] * 1.2


def test_text_is_dark_on_light_ground() -> None:
    root = ElementTree.fromstring(draw(Plot(recording(latency_of(5), "no backend"))))
    fills = {element.get("fill", str(root.get("fill"))) for element in root.iter(f"{SVG}text")}
    assert all((1.05) / (luminance(fill) + 0.05) >= 4.5 for fill in fills)


def test_one_meaning_a_colour() -> None:
    used = [*STAGE_COLOURS.values(), *RATE_COLOURS.values(), *HEAT_COLOURS]
    assert len(set(used)) == len(used)


# ---- files ----


def test_html_stands_alone_and_has_the_figures() -> None:
    page = as_html(Plot(recording(latency_of(100, 200), name="<i>")))
    assert page.count("<svg") == 1 and "<title>&lt;i&gt;: xenpv recording</title>" in page
    assert "<td>total</td><td>submit to response</td><td>2</td><td>150 us</td>" in page
    assert not re.search(r"(src|href)=|@import|url\(", page)


def test_png(requires: Callable[[str], str]) -> None:
    pytest.importorskip("cairosvg", reason="cairosvg is not installed (pip install 'xenpv[png]')")
    requires("libcairo.so.2")
    made = as_png(Plot(recording(latency_of(100))))
    assert made.startswith(b"\x89PNG\r\n\x1a\n") and int.from_bytes(made[16:20], "big") == 2000


def test_png_without_cairosvg_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cairosvg", None)
    with pytest.raises(UsageError, match=r"pip install 'xenpv\[png\]'"):
        as_png(Plot(recording(latency_of(100))))


@pytest.mark.parametrize("ending", ["", "gif"])
def test_other_endings_are_refused(ending: str) -> None:
    with pytest.raises(UsageError, match=r"want \.svg, \.html, \.png"):
        render(Plot(recording(latency_of(100))), ending)


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    made = [render(Plot(recording(latency_of(100), "x", latency_of(0, 5))), "svg") for _ in range(2)]
    assert made[0] == made[1]
