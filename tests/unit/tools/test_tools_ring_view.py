"""A ring decoded from a copy of its pages."""

from __future__ import annotations

import struct

import pytest

from xenpv.ring import BackRing, FrontRing, initialise
from xenpv.wire.blkif import Op, Protocol, Request, Response, Segment, pack_request, pack_response
from xenpv_tools.ring_view import decode_ring

ABIS = [(64, Protocol.X86_64), (32, Protocol.X86_32)]


@pytest.mark.parametrize(("abi", "protocol"), ABIS)
def test_requests_until_they_are_answered(abi: int, protocol: Protocol) -> None:
    page = memoryview(bytearray(4096))
    initialise(page)
    with FrontRing(page, abi=abi) as front, BackRing(page, abi=abi) as back:
        for number in range(3):
            front.put(pack_request(protocol, Request.direct(Op.READ, 70 + number, 8 * number, [Segment(100 + number)])))
        front.publish()
        back.take()
        back.put(pack_response(protocol, Response(70, Op.READ, -1)))
        back.publish()
        ring = decode_ring(bytes(page), protocol)
    assert (ring.entries, ring.header["req_prod"], ring.header["rsp_prod"], ring.unanswered) == (32, 3, 1, 2)
    slots = ring.to_json()["slots"]
    assert slots[0] == {"slot": 0, "kind": "response", "id": 70, "operation": "READ", "status": "ERROR"}
    assert slots[1] == {"slot": 1, "kind": "request", "id": 71, "operation": "READ", "sector": 8, "segments": 1,
                        "grefs": ["101:0-7"]}
    assert [slot["kind"] for slot in slots[2:]] == ["request"] + ["empty"] * 29


def test_indices_wrap() -> None:
    page = bytearray(4096)
    page[:12] = struct.pack("<III", 1, 0, 0xFFFFFFFF)
    ring = decode_ring(bytes(page), Protocol.X86_64)
    assert (ring.unanswered, ring.possible) == (2, True)
    assert [slot for slot, kind, _ in ring.slots if kind == "request"] == [0, 31]


def test_a_broken_ring_is_shown_and_said_to_be_broken() -> None:
    page = bytearray(b"\xff" * 4096)
    page[:12] = struct.pack("<III", 1000, 0, 1)
    ring = decode_ring(bytes(page), Protocol.X86_64)
    assert (ring.unanswered, ring.possible, len(ring.slots)) == (999, False, 32)
    assert ring.to_json()["slots"][0]["operation"] == "255"


def test_other_operations() -> None:
    page = bytearray(4096)
    page[:4] = struct.pack("<I", 2)
    page[64:64 + 112] = pack_request(Protocol.X86_64, Request.discard(1, 8, 16))
    page[176:176 + 112] = pack_request(Protocol.X86_64, Request.indirect(Op.WRITE, 2, 8, 513, [5, 6]))
    discard, indirect = decode_ring(bytes(page), Protocol.X86_64).to_json()["slots"][:2]
    assert (discard["sectors"], discard["operation"]) == (16, "DISCARD")
    assert (indirect["inner"], indirect["segments"], indirect["grefs"]) == ("WRITE", 513, [5, 6])
