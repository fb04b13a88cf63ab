"""What ``xenpv --version`` names."""

from __future__ import annotations

from typing import Final

from xenpv import __version__

__all__ = ["PAGE", "versions"]

PAGE: Final = 3
"""The version of a statistics page; a test holds it equal to the core's XENPV_STATS_VERSION."""


def versions() -> dict[str, str | int]:
    """The package; the core, which is compiled from it; `wire`, the emulated Xen's calls; `page`, statistics pages."""
    from xenpv.hypervisors.emulated.calls import VERSION

    return {"package": __version__, "core": __version__, "wire": VERSION, "page": PAGE}
