"""The exporter, scraped, and read by Prometheus's own parser."""

from __future__ import annotations

import re
import socket
import sys
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.backend_files import BackendFiles, latency_of
from xenpv.errors import UsageError
from xenpv.latency import Histogram
from xenpv_tools.monitor.source import Reading, read_all

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed (pip install 'xenpv[exporter]')")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from xenpv_tools.monitor import exporter  # noqa: E402

LABELS = {"domid": "1", "devid": "51712"}
Sample = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Sample:
    """By name and labels."""
    return {(sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}


def value(found: Sample, name: str, **labels: str) -> float:
    return found[name, frozenset((LABELS | labels).items())]


@pytest.fixture
def files(tmp_path: Path) -> BackendFiles:
    made = BackendFiles(tmp_path)
    made.put(requests_read=7, bytes_read=4096, notifications=2, notifications_saved=5, in_flight=3,
             latency=latency_of(3, 100, 1 << 28, service=50))
    return made


def scraped(files: BackendFiles) -> Sample:
    return samples(exporter.text(partial(read_all, files.run)))


def test_counters(files: BackendFiles) -> None:
    found = scraped(files)
    assert value(found, "xenpv_vbd_requests_total", operation="read") == 7
    assert value(found, "xenpv_vbd_read_bytes_total") == 4096
    assert (value(found, "xenpv_vbd_notifications_sent_total"), value(found, "xenpv_vbd_notifications_saved_total")) == (2, 5)
    assert value(found, "xenpv_vbd_in_flight_requests") == 3
    assert value(found, "xenpv_vbd_info", vdev="xvda", queues="1", clock="us") == 1
    assert found["xenpv_backend_up", frozenset()] == 1


def test_queues_are_one_disk(files: BackendFiles) -> None:
    files.put(queue=1, requests_read=10)
    assert value(scraped(files), "xenpv_vbd_requests_total", operation="read") == 17


def test_histograms_are_in_seconds_and_cumulative(files: BackendFiles) -> None:
    found = scraped(files)
    buckets = partial(value, found, "xenpv_vbd_request_seconds_bucket", operation="read")
    assert (buckets(le="4e-06"), buckets(le="6.4e-05"), buckets(le="0.000128")) == (1, 1, 2)
    assert (buckets(le="16.777216"), buckets(le="+Inf")) == (2, 3)
    assert value(found, "xenpv_vbd_request_seconds_count", operation="read") == 3
    assert value(found, "xenpv_vbd_request_seconds_sum", operation="read") == pytest.approx(103e-6 + (1 << 28) / 1e6)
    assert value(found, "xenpv_vbd_stage_seconds_count", operation="read", stage="stored") == 3
    assert value(found, "xenpv_vbd_service_seconds_count", operation="write") == 0
    assert value(found, "xenpv_vbd_clock_resolution_seconds") == 1e-6


def test_what_the_clock_does_not_resolve_is_counted(files: BackendFiles) -> None:
    files.put(latency=latency_of(0, 0, 1, 1 << 28, service=50))
    unresolved = partial(value, scraped(files), "xenpv_vbd_times_unresolved_total")
    assert [unresolved(stage="total", reason=reason) for reason in ("zeros", "underflow", "overflow")] == [2, 0, 1]
    assert [unresolved(stage="service", reason=reason) for reason in ("zeros", "underflow", "overflow")] == [0, 0, 0]


def test_a_stage_that_is_not_known_has_no_series(files: BackendFiles) -> None:
    bare = latency_of(5)
    bare.operations["read"].stages["total"] = Histogram()
    files.put(latency=bare)
    assert not [name for name, _ in scraped(files) if name.startswith("xenpv_vbd_request_seconds_")]


def test_the_number_of_series_is_bounded(files: BackendFiles) -> None:
    everything = latency_of(1, 1000)
    for operation in ("write", "flush", "discard"):
        everything += latency_of(5, operation=operation)
    files.put(latency=everything)
    assert len(scraped(files)) < 800


def test_names_follow_the_conventions(files: BackendFiles) -> None:
    text = exporter.text(partial(read_all, files.run))
    for family in text_string_to_metric_families(text):
        assert family.documentation and re.fullmatch(r"xenpv_[a-z_]+", family.name)
        assert not re.search(r"_(ms|us|ns|milliseconds|kib|mib)(_|$)", family.name)
        assert (family.type == "counter") == all(sample.name.endswith("_total") for sample in family.samples)
        assert family.type != "histogram" or family.name.endswith("_seconds")


@given(st.lists(st.integers(-3, 1 << 28), max_size=80), st.sampled_from([1000, 1_000_000, 4_000_000, 10_000_000]))
def test_every_bucket_is_exact(times: list[int], resolution_ns: int) -> None:
    histogram = Histogram()
    for time in times:
        histogram.record(time)
    ends = exporter.bounds(resolution_ns)
    buckets = exporter._buckets(histogram, resolution_ns)
    assert [count for _, count in buckets[:-1]] == [sum(time < end for time in times) for end in ends]
    assert buckets[-1] == ("+Inf", len(times)) and len(buckets) <= 24
    assert [float(le) for le, _ in buckets[:-1]] == pytest.approx([end * resolution_ns / 1e9 for end in ends])


def test_a_page_that_cannot_be_read_costs_its_own_vbd(files: BackendFiles) -> None:
    files.page(2, 51712).write_bytes(b"\x01" * 4096)
    found = scraped(files)
    assert value(found, "xenpv_vbd_unreadable", domid="2") == 1 and value(found, "xenpv_vbd_unreadable") == 0
    assert value(found, "xenpv_vbd_requests_total", operation="read") == 7


def test_no_backend(tmp_path: Path) -> None:
    found = samples(exporter.text(partial(read_all, tmp_path)))
    assert (found["xenpv_backend_up", frozenset()], found["xenpv_backend_unreadable", frozenset()]) == (0, 0)


def test_a_directory_that_is_not_ours_is_a_metric_and_no_failure(files: BackendFiles) -> None:
    files.directory.chmod(0o777)
    found = scraped(files)
    assert (found["xenpv_backend_up", frozenset()], found["xenpv_backend_unreadable", frozenset()]) == (0, 1)


def test_scraped_over_http(files: BackendFiles) -> None:
    with exporter.listening(partial(read_all, files.run), "127.0.0.1", 0) as port:
        for reads in (7, 9):
            files.put(requests_read=reads)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                assert answer.headers["Content-Type"].startswith("text/plain")
                found = samples(answer.read().decode())
            assert value(found, "xenpv_vbd_requests_total", operation="read") == reads


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}: .*--listen"), exporter.listening(Reading, "127.0.0.1", port):
            pass


@pytest.mark.parametrize(("where", "place"), [("127.0.0.1:9479", ("127.0.0.1", 9479)), ("[::1]:1", ("::1", 1)),
                                              ("localhost:0", ("localhost", 0))])
def test_where_to_listen(where: str, place: tuple[str, int]) -> None:
    assert exporter.parse_listen(where) == place


@pytest.mark.parametrize("where", ["", "9479", ":9479", "host:", "host:65536", "host:-1", "host:٣"])
def test_no_place_to_listen_at(where: str) -> None:
    with pytest.raises(UsageError, match="ADDRESS:PORT"):
        exporter.parse_listen(where)


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, exporter.__name__)
    with pytest.raises(UsageError, match=r"pip install 'xenpv\[exporter\]'"):
        __import__(exporter.__name__)
