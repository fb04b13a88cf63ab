"""CONTROL: what xenstore-control asks. Of C xenstored's commands: check, help, print."""

from __future__ import annotations

import logging

from xenpv.errors import StoreError

from .request import OK, Request

_log = logging.getLogger(__name__)


def control(request: Request) -> bytes:
    """CONTROL command parameters."""
    command, *parameters = request.strings(1, 3)
    if command == b"help":
        return b"check\nhelp\nprint <string>\0"
    if command == b"check":
        faults = request.store.check()
        for fault in faults:
            _log.error("xenstored: %s", fault)
        if faults:
            raise StoreError(faults[0], "EIO")
        return OK
    if command == b"print" and len(parameters) == 1:
        _log.info("xenstored: %s", parameters[0].decode("ascii", "backslashreplace"))
        return OK
    raise StoreError("this command is not known; help names those that are", "EINVAL")
