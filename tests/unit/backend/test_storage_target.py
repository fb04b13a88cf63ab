"""What a target says: filters, format, parameters; and what is wrong with one, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenpv.errors import StorageError
from xenpv_backend.storage import is_filter, open_storage, parse_target
from xenpv_backend.storage.target import Parameters, parse_size


@pytest.mark.parametrize(("text", "word", "rest", "filters"), [
    ("/a.img", "raw", "/a.img", []),
    ("/a:b,c.img", "raw", "/a:b,c.img", []),
    ("raw:/a.img", "raw", "/a.img", []),
    ("aio:readonly:/a.img", "raw", "/a.img", [("readonly", {})]),
    ("nbd://host:10809/x", "nbd", "//host:10809/x", []),
    ("nbd+unix:///x?socket=/s", "nbd+unix", "///x?socket=/s", []),
    ("readonly:/a.img", "raw", "/a.img", [("readonly", {})]),
    ("log,file=/var/log/x%2Cy.log:throttle,iops=5,bps=1M:nbd://h", "nbd", "//h",
     [("log", {"file": "/var/log/x,y.log"}), ("throttle", {"iops": "5", "bps": "1M"})]),
])
def test_taken_apart(text: str, word: str, rest: str, filters: list[tuple[str, dict[str, str]]]) -> None:
    found = parse_target(text, is_filter)
    assert (found.word, found.rest, list(found.filters)) == (word, rest, filters)
    assert found.head + found.rest == text


@pytest.mark.parametrize(("text", "words"), [
    ("throttle:memory:65536", "throttle: names no limit: want throttle,iops=500"),
    ("throttle,iops=none:memory:65536", "throttle: iops=none: want a number from 1"),
    ("throttle,iops:memory:65536", "'iops' is no parameter: want name=value"),
    ("throttle,iops=1,iops=2:memory:65536", "iops is given twice"),
    ("throttle,iosp=1,bps=1M:memory:65536", "throttle: there is no parameter iosp: it has iops, bps, burst"),
    ("throttle,ips=1:memory:65536", "throttle: there is no parameter ips"),
    ("fault,error=1%:memory:65536", "fault: there is no parameter error"),
    ("throtle,iops=1:/x", "format throtle is not served .*filters: .*throttle"),
    ("throttle,bps=fast:memory:65536", "bps=fast: want a size in bytes"),
    ("throttle,bps=1M,burst=x:memory:65536", "burst=x: want a time"),
    ("throttle,iops=1:", "throttle: names no storage"),
    ("readonly,x=1:memory:65536", "readonly: there is no parameter x: it has none"),
    ("fault:memory:65536", "fault: names nothing that goes wrong"),
    ("fault,errors=2:memory:65536", "errors=2: want a probability"),
    ("fault,errors=1%,ops=read+trim:memory:65536", "ops=read[+]trim: want some of"),
    ("fault,errors=1%,sectors=x:memory:65536", "sectors=x: want a sector"),
    ("fault,torn=1%,lie=maybe:memory:65536", "lie=maybe: want yes or no"),
    ("log,file=:memory:65536", "log: file=: want something"),
    ("log,file=/nonexistent/x:memory:65536", "log: cannot write /nonexistent/x"),
    ("overlay,file=/nonexistent/x:memory:65536", "overlay: cannot open /nonexistent/x"),
    ("overlay,file=/x,limit=1M:memory:65536", "limit= is for an overlay in memory"),
    ("memory,x=1:65536", "memory: there is no parameter x: it has none"),
    ("raw,cache=fast:/x", "raw: cache=fast: want one of"),
    ("nosuch:/x", "format nosuch is not served .*nbd://"),
    ("readonly:" * 17 + "/x", "more than 16 filters"),
])
def test_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        open_storage(text, "w")
    assert "\n" not in str(caught.value)


def test_a_refused_filter_leaves_no_descriptor(tmp_path: Path) -> None:
    image = tmp_path / "a.img"
    image.write_bytes(bytes(65536))
    with pytest.raises(StorageError):
        open_storage(f"throttle,iops=0:log:{image}", "w")
    open_storage(str(image), "w").close()


def test_the_first_filter_is_nearest_to_the_guest() -> None:
    with open_storage("log:overlay:memory:65536", "w") as storage:
        assert storage.name == "overlay of memory:65536"
        assert type(storage).__name__ == "Log"


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("64k", 65536), ("10M", 10 << 20), ("2G", 2 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5M", "1x", "1Mi", "\u0661"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [("2", 2.0), ("10ms", 0.01), ("250us", 0.00025), ("1.5s", 1.5), ("1m", 60.0)])
def test_times(text: str, seconds: float) -> None:
    assert Parameters("x", {"t": text}).seconds("t", 0.0) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1", 1.0), ("0.25", 0.25), ("50%", 0.5), (".5", 0.5)])
def test_probabilities(text: str, value: float) -> None:
    assert Parameters("x", {"p": text}).probability("p") == pytest.approx(value)
