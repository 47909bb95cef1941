"""The frame types and what they carry."""

from __future__ import annotations

import re

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import MESSAGES, Frame, FrameType, decode, type_name
from outrelay.lib.orp.v1 import orp_pb2 as orp

# From protocol.md section 2; what is reserved there is unknown here.
CONTRACT = {
    0x001: ("HELLO", orp.Hello),
    0x002: ("HELLO_ACK", orp.HelloAck),
    0x003: ("REGISTER", orp.Register),
    0x004: ("REGISTER_ACK", orp.RegisterAck),
    0x010: ("OPEN_STREAM", orp.OpenStream),
    0x011: ("INCOMING_STREAM", orp.IncomingStream),
    0x012: ("STREAM_ACCEPT", orp.StreamAccept),
    0x013: ("STREAM_REJECT", orp.StreamReject),
    0x020: ("PING", Empty),
    0x021: ("PONG", Empty),
    0x0FF: ("GOAWAY", orp.Goaway),
    0x110: ("STREAM_CHECKPOINT", orp.StreamCheckpoint),
    0x111: ("STREAM_RESUME", orp.StreamResume),
    0x120: ("OBSERVED_ADDR_QUERY", orp.ObservedAddrQuery),
    0x121: ("OBSERVED_ADDR_RESP", orp.ObservedAddrResp),
    0x122: ("CANDIDATE_OFFER", orp.CandidateOffer),
    0x123: ("CANDIDATE_ANSWER", orp.CandidateAnswer),
    0x124: ("MIGRATE_TO_P2P", orp.MigrateToP2P),
    0x125: ("MIGRATE_TO_RELAY", orp.MigrateToRelay),
    0x140: ("FORWARD_STREAM", orp.IncomingStream),
    0x151: ("ALLOC_GRANTED", orp.AllocGranted),
    0x152: ("STREAM_READY", orp.StreamReady),
    0x700: ("DEREGISTER", orp.Register),
    0x701: ("FORWARD_RESUME", orp.StreamResume),
    0x702: ("STREAM_ENDED", orp.StreamEnded),
    0x703: ("RELAY_CONTROL", Empty),
    0x704: ("REGISTER_NACK", orp.StreamReject),
}


def test_names_numbers_and_messages_are_the_contracts() -> None:
    assert {kind.value: (kind.name, MESSAGES[kind]) for kind in FrameType} == CONTRACT


def test_every_message_of_the_protocol_is_carried_by_some_frame() -> None:
    messages = set(orp.DESCRIPTOR.message_types_by_name) - {"Candidate"}

    assert {message.DESCRIPTOR.name for message in MESSAGES.values()} == {*messages, "Empty"}


@pytest.mark.parametrize("kind", FrameType)
def test_every_type_comes_back_as_its_message(kind: FrameType) -> None:
    message = MESSAGES[kind]()
    payload = encode(kind, message)[8:]

    assert decode(Frame(type=kind, payload=payload)) == message


def test_fields_unknown_to_us_are_kept() -> None:
    later = bytes.fromhex("087f") + bytes.fromhex("82fa01026869")  # field 4000: "hi"

    message = decode(Frame(type=FrameType.STREAM_READY, payload=later))

    assert isinstance(message, orp.StreamReady)
    assert message.stream_id == 127
    assert message.SerializeToString() == later


def test_extensions_are_kept_by_a_peer_that_knows_only_numbers() -> None:
    ready = orp.StreamReady(stream_id=1, peer_agent_uri="x", p2p_mode=orp.REQUIRED)

    carried = Empty.FromString(ready.SerializeToString())

    assert carried.SerializeToString() == ready.SerializeToString()


def test_repeated_fields_keep_their_order() -> None:
    names = ["goaway/1", "a", "goaway/1", ""]
    payload = orp.Hello(capabilities=names).SerializeToString()

    message = decode(Frame(type=FrameType.HELLO, payload=payload))

    assert isinstance(message, orp.Hello)
    assert list(message.capabilities) == names


@pytest.mark.parametrize("kind", [0, 0x005, 0x030, 0x100, 0x705, 0x7FF])
def test_an_unknown_type_has_no_message(kind: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"unknown frame type 0x{kind:03x}"):
        decode(Frame(type=kind, payload=b""))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        pytest.param(FrameType.HELLO, b"\x0a\x05abc", id="truncated"),
        pytest.param(FrameType.HELLO, b"\x0a\x02\xff\xfe", id="not UTF-8"),
        pytest.param(FrameType.STREAM_READY, b"\x08" + b"\xff" * 11, id="endless varint"),
        pytest.param(FrameType.STREAM_ACCEPT, b"\x00", id="field zero"),
        pytest.param(FrameType.PING, b"\x07", id="wire type 7"),
    ],
)
def test_a_malformed_payload_is_the_peers_error(kind: FrameType, payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(f"malformed {kind.name} frame")):
        decode(Frame(type=kind, payload=payload))


def test_types_have_names_for_people() -> None:
    assert type_name(0x0FF) == "GOAWAY"
    assert type_name(0x005) == "0x005"
    assert Frame(type=0x152, payload=b"").name == "STREAM_READY"
