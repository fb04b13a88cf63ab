"""A disk that the kernel has: taken away from it only on demand, and given back as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tests.support.fake_backend import FakeBackend
from tests.support.fake_domain import FakeDomain, FakeKernelDriver
from xenpv.errors import AccessDeniedError, DeviceError
from xenpv_frontend import kernel
from xenpv_frontend.disk import Disk

Open = Callable[..., Disk]


@pytest.fixture
def driver(domain: FakeDomain, backend: FakeBackend) -> FakeKernelDriver:
    """The kernel has the backend's disk, with a ring of its own."""
    domain.driver = driver = FakeKernelDriver(domain.store, backend.place.frontend)
    for name, value in {"state": "4", "ring-page-order": "1", "ring-ref0": "8", "ring-ref1": "9",
                        "event-channel": "3"}.items():
        domain.store.write(f"{backend.place.frontend}/{name}", value)
    return driver


def toolstack_keys(backend: FakeBackend) -> dict[str, bytes]:
    """What stands in the frontend's node, but for its state."""
    top = f"{backend.place.frontend}/"
    return {path: value for path, value in backend.store.nodes.items()
            if path.startswith(top) and path != f"{top}state"}


def test_it_is_not_taken_unasked(driver: FakeKernelDriver, open_disk: Open) -> None:
    with pytest.raises(DeviceError, match=r"the kernel of this domain has it as /dev/xvda: .*--take"):
        open_disk()
    assert driver.bound


def test_it_is_taken_and_read(driver: FakeKernelDriver, backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(take=True)
    assert not driver.bound
    assert disk.read(0, disk.size) == backend.data


def test_a_disk_in_use_stays(driver: FakeKernelDriver, open_disk: Open) -> None:
    driver.error = DeviceError("/dev/xvda is in use: unmount it")
    with pytest.raises(DeviceError, match="in use"):
        open_disk(take=True)
    assert driver.bound


def test_a_disk_that_the_kernel_has_not_is_not_given_to_it(driver: FakeKernelDriver, open_disk: Open) -> None:
    driver.unbind()
    open_disk(take=True).close()
    assert not driver.bound


def test_it_is_given_back(driver: FakeKernelDriver, backend: FakeBackend, open_disk: Open) -> None:
    disk = open_disk(take=True)
    disk.close()
    assert driver.bound
    assert backend.frontend_key("state") == b"4"


def test_nothing_but_the_toolstack_s_keys_is_given_back(driver: FakeKernelDriver, backend: FakeBackend,
                                                        open_disk: Open) -> None:
    disk = open_disk(take=True)
    disk.close()
    assert {path.rpartition("/")[2] for path in toolstack_keys(backend)} == {"backend", "backend-id", "virtual-device",
                                                                             "device-type", "trusted"}


def test_it_is_given_back_when_it_cannot_be_opened(driver: FakeKernelDriver, backend: FakeBackend,
                                                   open_disk: Open) -> None:
    backend.raw = {"sector-size": "1000"}
    with pytest.raises(Exception, match="sector-size"):
        open_disk(take=True)
    assert driver.bound


@pytest.mark.parametrize("handover, state", [(False, b"1"), (True, b"2")])
def test_whose_backend_sees_it_anew(driver: FakeKernelDriver, backend: FakeBackend, open_disk: Open, handover: bool,
                                    state: bytes) -> None:
    """The kernel's backend looks at a node in Initialising, and must pass over one of ours."""
    if handover:
        backend.set("xenpv-handover", "1")
    disk = open_disk(take=True, closing_patience=0.1)
    backend.close()
    disk.close()
    assert backend.store.read(f"{backend.place.backend}/state") == state


def test_a_guest_cannot_give_it_back(driver: FakeKernelDriver, domain: FakeDomain, backend: FakeBackend, open_disk: Open,
                                     monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refused(path: str) -> None:
        raise AccessDeniedError(f"{path}: not yours", "EACCES")

    disk = open_disk(take=True)
    monkeypatch.setattr(domain.store, "mkdir", refused)
    with caplog.at_level(logging.WARNING):
        disk.close()
    (record,) = caplog.records
    assert "xl block-detach 7 xvda" in record.getMessage()
    assert backend.frontend_key("backend") is not None and backend.frontend_key("state") == b"6"


def test_a_kernel_that_does_not_take_it(driver: FakeKernelDriver, open_disk: Open, monkeypatch: pytest.MonkeyPatch,
                                        caplog: pytest.LogCaptureFixture) -> None:
    disk = open_disk(take=True)
    driver.takes_back = False
    monkeypatch.setattr(kernel, "PATIENCE", 0.1)
    disk.close()
    assert "did not take it back" in caplog.text


def test_where_no_kernel_is_below_there_is_nothing_to_take(domain: FakeDomain, open_disk: Open) -> None:
    assert domain.driver is None
    disk = open_disk(take=True)
    assert len(disk.read(0, 512)) == 512
