"""The picture of a comparison."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from xenpv_tools.bench import plot

NAMESPACE = "{http://www.w3.org/2000/svg}"


def found(*rows: tuple[str, str, float]) -> dict[str, Any]:
    return {
        "results": [{"system": system, "case": case, "storage": "tmpfs", "iops": iops, "p50_us": 1.0, "p99_us": 2.0,
                     "options": {"setup": "a < b & c"}} for system, case, iops in rows],
        "options": {"runs": 3, "seconds": 2.0, "pinning": "none"}, "processors": {"count": 2, "model": "a processor"}}


def bars(picture: str) -> list[float]:
    return [float(bar.attrib["width"]) for bar in ElementTree.fromstring(picture).iter(f"{NAMESPACE}rect")][1:]


def test_each_group_is_scaled_to_its_fastest() -> None:
    widths = bars(plot.comparison(found(("xenpv", "one", 500), ("raw", "one", 1000), ("xenpv", "two", 7))))
    assert widths == [pytest.approx(widths[1] / 2), widths[1], widths[1]]


def test_systems_and_figures_are_written_and_no_text_breaks_it() -> None:
    words = "".join(ElementTree.fromstring(plot.comparison(found(("xenpv", "one", 512_345)))).itertext())
    assert "xenpv" in words and "512,345" in words and "a < b & c" in words


def test_nothing_is_no_picture() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.comparison(found())
