"""Tests here need a real Xen under this kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenpv.hypervisors.xen import devices


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them `xen`, and skip them with the reason where one device is missing."""
    reason = next((": ".join(found) for device in devices.DEVICES if (found := device.trouble())), None)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xen)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"needs a real Xen: {reason}"))
