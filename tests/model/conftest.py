"""The model is `./dev check`'s: it takes half a minute, and what it holds up is the algorithm, not the day's change."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them `stress`. A conftest's hook sees the items of other folders too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.stress)
