import struct
from typing import NamedTuple

NUL: bytes

class Operations(NamedTuple):
    DEBUG: int
    DIRECTORY: int
    READ: int
    GET_PERMS: int
    WATCH: int
    UNWATCH: int
    TRANSACTION_START: int
    TRANSACTION_END: int
    INTRODUCE: int
    RELEASE: int
    GET_DOMAIN_PATH: int
    WRITE: int
    MKDIR: int
    RM: int
    SET_PERMS: int
    WATCH_EVENT: int
    ERROR: int
    IS_DOMAIN_INTRODUCED: int
    RESUME: int
    SET_TARGET: int
    RESTRICT: int

Op: Operations

class _Packet(NamedTuple):
    op: int
    rq_id: int
    tx_id: int
    size: int
    payload: bytes

class Packet(_Packet):
    _struct: struct.Struct
