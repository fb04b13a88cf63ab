"""The blkif codecs: construct and struct say the same, padding is zero, hostile bytes are decoded and never fatal."""

from __future__ import annotations

import pytest
from construct import Container
from hypothesis import given, settings
from hypothesis import strategies as st

from xenpv.errors import LocalProtocolError
from xenpv.wire import blkif
from xenpv.wire.blkif import Op, Protocol, Request, Response, Segment, Status

ABIS = st.sampled_from(Protocol)
U8, U16 = st.integers(0, 0xff), st.integers(0, 0xffff)
U32, U64 = st.integers(0, 0xffffffff), st.integers(0, (1 << 64) - 1)
SEGMENTS = st.lists(st.builds(Segment, U32, U8, U8), max_size=blkif.MAX_SEGMENTS)
DIRECT = st.builds(Request.direct, st.sampled_from([0, 1, 2, 3, 4, 7, 255]), U64, U64, SEGMENTS, U16)
DISCARD = st.builds(lambda secure, *rest: Request.discard(*rest, secure=secure), st.booleans(), U64, U64, U64)
INDIRECT = st.integers(0, blkif.MAX_INDIRECT_SEGMENTS).flatmap(lambda count: st.builds(
    Request.indirect, U8, U64, U64, st.just(count),
    st.lists(U32, min_size=blkif.indirect_pages(count), max_size=blkif.indirect_pages(count)), U16))
REQUESTS = DIRECT | DISCARD | INDIRECT

bounded = settings(max_examples=100, derandomize=True, deadline=None)


def same(fields: Container, request: Request) -> bool:
    """Every field that construct found has struct's value; what it did not find is zero or empty."""
    found = {name: value for name, value in fields.items() if name != "_io"}
    segments = tuple(Segment(each["gref"], each["first_sect"], each["last_sect"]) for each in found.pop("segments", ()))
    grefs = tuple(found.pop("indirect_grefs", ()))
    numbers = {name: int(value) for name, value in found.items()}
    return Request(**{"operation": -1, "id": -1} | numbers, segments=segments, indirect_grefs=grefs) == request


@bounded
@given(ABIS, REQUESTS)
def test_a_request_comes_back_as_it_was_packed(abi: Protocol, request: Request) -> None:
    assert blkif.unpack_request(abi, blkif.pack_request(abi, request)) == request


@bounded
@given(ABIS, REQUESTS)
def test_construct_reads_what_struct_packed(abi: Protocol, request: Request) -> None:
    assert same(blkif.decode_request(abi, blkif.pack_request(abi, request)), request)


@bounded
@given(ABIS, st.binary(min_size=112, max_size=112))
def test_construct_and_struct_read_any_bytes_alike(abi: Protocol, slot: bytes) -> None:
    assert same(blkif.decode_request(abi, slot), blkif.unpack_request(abi, slot))


@bounded
@given(ABIS, REQUESTS)
def test_construct_builds_the_bytes_that_struct_packs(abi: Protocol, request: Request) -> None:
    shapes: dict[int, str] = {Op.DISCARD: "discard", Op.INDIRECT: "indirect"}
    shape = shapes.get(request.operation, "rw")
    fields = {name: getattr(request, name) for name in Request.__slots__}
    empty = blkif.MAX_SEGMENTS - len(request.segments)
    fields["segments"] = [{"gref": each.gref, "first_sect": each.first_sect, "last_sect": each.last_sect}
                          for each in (*request.segments, *[Segment(0, 0, 0)] * empty)]
    fields["indirect_grefs"] = [*request.indirect_grefs, *[0] * (8 - len(request.indirect_grefs))]
    built = blkif.DECLARED[abi][shape].build(fields)
    assert built.ljust(blkif.entry_size(abi), b"\0") == blkif.pack_request(abi, request)


@bounded
@given(ABIS, U64, U8, st.integers(-0x8000, 0x7fff))
def test_a_response_is_the_same_both_ways(abi: Protocol, id: int, operation: int, status: int) -> None:
    response = Response(id, operation, status)
    data = blkif.pack_response(abi, response)
    shown = blkif.decode_response(abi, data)
    assert blkif.unpack_response(abi, data) == response
    assert (shown["id"], int(shown["operation"]), int(shown["status"])) == (id, operation, status)
    assert blkif.DECLARED[abi]["response"].build({"id": id, "operation": operation, "status": status}) == data


@bounded
@given(SEGMENTS)
def test_segments_come_back_as_they_were_packed(segments: list[Segment]) -> None:
    data = blkif.pack_segments(segments)
    assert blkif.unpack_segments(data + b"more", len(segments)) == tuple(segments)


FULL = Request.direct(0xff, (1 << 64) - 1, (1 << 64) - 1, [Segment(0xffffffff, 0xff, 0xff)] * 11, 0xffff)


@pytest.mark.parametrize(("abi", "gap"), [(Protocol.X86_64, range(4, 8)), (Protocol.X86_32, range(0))])
def test_padding_of_a_full_request_is_zero(abi: Protocol, gap: range) -> None:
    data = blkif.pack_request(abi, FULL)
    first = blkif.entry_size(abi) - 11 * 8
    # nr_segments is 11, not all ones, and no byte of it is zero.
    padding = {*gap, *(first + 8 * n + k for n in range(11) for k in (6, 7))}
    assert {index for index, byte in enumerate(data) if byte == 0} == padding


@pytest.mark.parametrize(("abi", "padding"), [(Protocol.X86_64, {9, 12, 13, 14, 15}), (Protocol.X86_32, {9})])
def test_padding_of_a_response_is_zero(abi: Protocol, padding: set[int]) -> None:
    data = blkif.pack_response(abi, Response((1 << 64) - 1, 0xff, -1))
    assert {index for index, byte in enumerate(data) if byte == 0} == padding


@pytest.mark.parametrize("abi", Protocol)
def test_the_unused_part_of_a_slot_is_zero(abi: Protocol) -> None:
    assert not any(blkif.pack_request(abi, Request.discard(1, 2, 3))[32:])
    assert not any(blkif.pack_request(abi, Request.direct(Op.READ, 1, 2, [Segment(9)]))[32:])


@pytest.mark.parametrize(("abi", "entry", "response"), [
    (Protocol.X86_64, 112, 16), (Protocol.ARM, 112, 16), (Protocol.X86_32, 108, 12)])
def test_sizes(abi: Protocol, entry: int, response: int) -> None:
    assert (blkif.entry_size(abi), blkif.response_size(abi)) == (entry, response)


@pytest.mark.parametrize("abi", Protocol)
def test_a_ring_of_each_order_has_a_power_of_two_entries(abi: Protocol) -> None:
    assert [blkif.ring_entries(order, abi) for order in range(5)] == [32, 64, 128, 256, 512]


@pytest.mark.parametrize("order", [-1, 5, 31])
def test_a_ring_of_another_order_is_refused(order: int) -> None:
    with pytest.raises(LocalProtocolError, match="order"):
        blkif.ring_entries(order, Protocol.X86_64)


@pytest.mark.parametrize(("count", "pages"), [(0, 0), (1, 1), (512, 1), (513, 2), (4096, 8), (65535, 8)])
def test_pages_of_an_indirect_request(count: int, pages: int) -> None:
    assert blkif.indirect_pages(count) == pages


def test_255_segments_are_reported_and_11_are_read() -> None:
    request = blkif.unpack_request(Protocol.X86_64, bytes([Op.WRITE, 255]) + bytes(110))
    assert (request.nr_segments, len(request.segments)) == (255, 11)


@pytest.mark.parametrize("wrong", [
    Request.direct(Op.READ, 1, segments=[Segment(1)] * 12),
    Request.direct(256, 1),
    Request.direct(Op.READ, -1),
    Request.direct(Op.READ, 1 << 64),
    Request.direct(Op.READ, 1, segments=[Segment(1 << 32)]),
    Request.indirect(Op.READ, 1, 0, 65536, []),
    Request.indirect(Op.READ, 1, 0, 1, [1] * 9),
])
def test_a_request_that_does_not_fit_is_our_own_mistake(wrong: Request) -> None:
    with pytest.raises(LocalProtocolError):
        blkif.pack_request(Protocol.X86_64, wrong)


def test_a_response_that_does_not_fit_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="does not fit"):
        blkif.pack_response(Protocol.X86_64, Response(1, 0, 40000))


@pytest.mark.parametrize("size", [0, 11])
def test_too_few_bytes_are_refused(size: int) -> None:
    for read in (blkif.decode_request, blkif.unpack_request, blkif.decode_response, blkif.unpack_response):
        with pytest.raises(LocalProtocolError, match="too few"):
            read(Protocol.X86_64, bytes(size))


def test_an_indirect_request_is_answered_with_the_operation_inside() -> None:
    assert blkif.response_operation(Request.indirect(Op.WRITE, 1, 0, 1, [5])) == Op.WRITE


@pytest.mark.parametrize("operation", [0, 1, 2, 3, 5, 4, 200])
def test_another_request_is_answered_with_its_own_operation(operation: int) -> None:
    assert blkif.response_operation(Request(operation, 1)) == operation


def test_people_see_names() -> None:
    shown = blkif.decode_request(Protocol.X86_64, blkif.pack_request(Protocol.X86_64, Request.direct(Op.WRITE, 7)))
    answer = blkif.decode_response(Protocol.X86_32, blkif.pack_response(Protocol.X86_32, Response(7, 1, Status.ERROR)))
    assert (str(shown["operation"]), str(answer["status"])) == ("WRITE", "ERROR")


def test_the_ring_header_shows_our_two_words() -> None:
    page = bytes(32) + (5).to_bytes(4, "little") + (8).to_bytes(4, "little") + bytes(4056)
    shown = blkif.decode_ring_header(page)
    assert (shown["req_prod"], shown["backend_word"], shown["frontend_word"]) == (0, 5, 8)
