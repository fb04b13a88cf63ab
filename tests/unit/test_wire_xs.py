"""xenpv.wire.xs: the header both ways, the decoder's bounds, the numbers of Xen's own header."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenpv.errors import LocalProtocolError, RemoteProtocolError
from xenpv.wire import xs

U32 = st.integers(0, 0xFFFFFFFF)
HEADER = Path("/usr/include/xen/io/xs_wire.h")


@given(U32, U32, U32, st.binary(max_size=64))
def test_declaration_and_struct_are_equal(type: int, req_id: int, tx_id: int, payload: bytes) -> None:
    declared = xs.HEADER.build({"type": type, "req_id": req_id, "tx_id": tx_id, "len": len(payload)})
    assert xs.encode(type, req_id, tx_id, payload) == declared + payload
    assert xs.HEADER.sizeof() == xs.HEADER_SIZE == 16


@given(st.lists(st.tuples(U32, U32, U32, st.binary(max_size=40)), max_size=5), st.integers(1, 30))
def test_decoder_gives_what_was_encoded_however_cut(messages: list[tuple[int, int, int, bytes]], step: int) -> None:
    stream = b"".join(xs.encode(*message) for message in messages)
    decoder = xs.Decoder()
    found = []
    for place in range(0, len(stream), step):
        decoder.feed(stream[place:place + step])
        while packet := decoder.next():
            found.append(tuple(packet))
    assert found == messages
    assert decoder.pending == 0


def test_longest_payload_passes() -> None:
    decoder = xs.Decoder()
    decoder.feed(xs.encode(xs.Opcode.WRITE, 1, 0, bytes(4096)))
    packet = decoder.next()
    assert packet is not None and len(packet.payload) == 4096


@pytest.mark.parametrize("length", [4097, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_longer_message_kills_the_stream_for_good(length: int) -> None:
    decoder = xs.Decoder()
    decoder.feed(xs.HEADER.build({"type": 2, "req_id": 1, "tx_id": 0, "len": length}))
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            decoder.next()


def test_longer_payload_is_not_encoded() -> None:
    with pytest.raises(LocalProtocolError):
        xs.encode(xs.Opcode.WRITE, 1, 0, bytes(4097))


def test_split_leaves_out_what_has_no_nul() -> None:
    assert xs.split(b"a\0\0b\0c") == [b"a", b"", b"b"]


@pytest.mark.skipif(not HEADER.exists(), reason="xen/io/xs_wire.h is not installed (apt-get install libxen-dev)")
class TestAgainstXensHeader:
    text = HEADER.read_text() if HEADER.exists() else ""

    def test_opcodes(self) -> None:
        body = self.text[self.text.index("enum xsd_sockmsg_type"):self.text.index("XS_TYPE_COUNT")]
        number = 0
        theirs: dict[str, int] = {}
        for name, expression in re.findall(r"^\s+XS_(\w+)(?: = XS_SET_TARGET \+ (\d))?,", body, re.MULTILINE):
            number = theirs["SET_TARGET"] + int(expression) if expression else number
            theirs[name] = number
            number += 1
        assert len(theirs) >= 22
        assert theirs.items() <= {opcode.name: opcode.value for opcode in xs.Opcode}.items()

    def test_error_names(self) -> None:
        assert tuple(re.findall(r"XSD_ERROR\((E\w+)\)", self.text)) == xs.ERROR_NAMES

    @pytest.mark.parametrize("name, value", [
        ("XENSTORE_PAYLOAD_MAX", xs.PAYLOAD_MAX), ("XENSTORE_ABS_PATH_MAX", xs.ABSOLUTE_PATH_MAX),
        ("XENSTORE_REL_PATH_MAX", xs.RELATIVE_PATH_MAX), ("XENSTORE_RING_SIZE", xs.RING_SIZE),
        ("XENSTORE_SERVER_FEATURE_RECONNECTION", xs.Feature.RECONNECTION),
        ("XENSTORE_SERVER_FEATURE_ERROR", xs.Feature.ERROR),
    ])
    def test_limits(self, name: str, value: int) -> None:
        found = re.search(rf"#define {name}\s+(\d+)", self.text)
        assert found and int(found[1]) == value
