"""The xenbus states, and how one is read (xen/include/public/io/xenbus.h)."""

from __future__ import annotations

from enum import IntEnum

from ..errors import RemoteProtocolError

__all__ = ["XenbusState", "parse_state"]


class XenbusState(IntEnum):
    """The key `state` of either end. UNKNOWN means that the key is not there. A vbd never uses the last two."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


_BY_TEXT = {str(int(state)).encode(): state for state in XenbusState}


def parse_state(value: bytes | None, path: str = "state") -> XenbusState:
    """The state that `value`, the content of the node `path`, stands for; None, no such node, is UNKNOWN.

    Raises RemoteProtocolError for anything but one of the nine numbers.
    """
    if value is None:
        return XenbusState.UNKNOWN
    state = _BY_TEXT.get(value)
    if state is None:
        raise RemoteProtocolError(f"{path} is {value[:40]!r}: want a xenbus state, 0 to 8")
    return state
