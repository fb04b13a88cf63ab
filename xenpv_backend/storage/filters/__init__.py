"""What may stand between a disk and its storage, as nbdkit's filters do. Each is a Layer; they stack."""

from __future__ import annotations

from typing import Final

from ..registry import Filter
from . import fault, log, overlay, throttle

BUILT_IN: Final[dict[str, Filter]] = {
    "readonly": Filter(lambda below, readonly, parameters: below, readonly_below=True, keeps_descriptor=True),
    "throttle": Filter(throttle.make),
    "fault": Filter(fault.make),
    "overlay": Filter(overlay.make, readonly_below=True),
    "log": Filter(log.make),
}
