"""The codec against another implementation's frames, cut and broken in every way."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from outrelay.lib.orp.frame import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    RECEIVE_LIMIT,
    Frame,
    FrameDecoder,
    FrameType,
    encode,
)
from outrelay.lib.orp.types import MESSAGES, decode
from outrelay.lib.orp.v1.orp_pb2 import Hello, OpenStream, StreamAccept, StreamReady

VECTORS = Path(__file__).parent / "vectors" / "orp-frames.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A frame another implementation made."""

    name: str
    type: FrameType
    message: str
    fields: dict[str, Any]
    frame: bytes


def vectors() -> list[Vector]:
    lines = [json.loads(line) for line in VECTORS.read_text().splitlines()]
    return [
        Vector(
            name=line["name"],
            type=FrameType(line["type"]),
            message=line["message"],
            fields=line["fields"],
            frame=bytes.fromhex(line["frame"]),
        )
        for line in lines
    ]


every_vector = pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)


def frames_of(decoder: FrameDecoder) -> list[Frame]:
    return list(iter(decoder.next_frame, None))


def received(*chunks: bytes, limit: int = RECEIVE_LIMIT) -> list[Frame]:
    """The frames of a stream that came in ``chunks``, and ended after them."""
    decoder = FrameDecoder(limit)
    frames = []
    for chunk in chunks:
        decoder.receive_data(chunk)
        frames += frames_of(decoder)
    decoder.end()
    return frames


def header(
    *, version: int = 1, reserved: int = 0, kind: int = 1, flags: int = 0, length: int = 0
) -> bytes:
    word = version << 13 | reserved << 11 | kind
    return word.to_bytes(2) + flags.to_bytes(2) + length.to_bytes(4)


# ---- another implementation's frames -------------------------------------------------------


def test_there_are_vectors() -> None:
    assert len(vectors()) == 57


@every_vector
def test_encodes_fields_to_the_same_bytes(vector: Vector) -> None:
    message = ParseDict(vector.fields, MESSAGES[vector.type]())

    assert message.DESCRIPTOR.full_name == f"outrelay.orp.v1.{vector.message}"
    assert encode(vector.type, message) == vector.frame


@every_vector
def test_decodes_bytes_to_the_same_fields(vector: Vector) -> None:
    (frame,) = received(vector.frame)

    assert frame.type == vector.type
    assert MessageToDict(decode(frame), preserving_proto_field_name=True) == vector.fields


@every_vector
def test_takes_a_frame_cut_at_every_byte(vector: Vector) -> None:
    whole = received(vector.frame)

    for cut in range(len(vector.frame) + 1):
        assert received(vector.frame[:cut], vector.frame[cut:]) == whole


def test_takes_all_frames_byte_by_byte() -> None:
    stream = b"".join(vector.frame for vector in vectors())

    assert received(*(stream[at : at + 1] for at in range(len(stream)))) == received(stream)
    assert len(received(stream)) == len(vectors())


# ---- encoding ------------------------------------------------------------------------------


def test_a_frame_is_its_header_and_its_payload() -> None:
    frame = encode(FrameType.STREAM_READY, StreamReady(stream_id=127))

    assert frame == bytes.fromhex("2152 0000 00000002 087f")


def test_an_empty_message_makes_an_empty_payload() -> None:
    assert encode(FrameType.PING, Empty()) == header(kind=0x020)
    assert encode(FrameType.STREAM_ACCEPT, StreamAccept()) == header(kind=0x012)


def test_a_message_of_another_class_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="a HELLO frame does not carry OpenStream"):
        encode(FrameType.HELLO, OpenStream())


def test_a_payload_above_the_hard_limit_is_refused() -> None:
    framing = len(Hello(instance=bytes(MAX_PAYLOAD)).SerializeToString()) - MAX_PAYLOAD
    longest = Hello(instance=bytes(MAX_PAYLOAD - framing))

    assert len(encode(FrameType.HELLO, longest)) == HEADER_SIZE + MAX_PAYLOAD
    with pytest.raises(LocalProtocolError, match="too long"):
        encode(FrameType.HELLO, Hello(instance=longest.instance + b"x"))


# ---- decoding ------------------------------------------------------------------------------


def test_nothing_is_no_frame_and_a_clean_end() -> None:
    assert received() == []
    assert received(b"") == []


@pytest.mark.parametrize("version", [0, 2, 3, 4, 5, 6, 7])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"version {version}, not 1") as caught:
        received(header(version=version))

    assert caught.value.code is ErrorCode.PROTOCOL


@pytest.mark.parametrize("reserved", [1, 2, 3])
@pytest.mark.parametrize("flags", [1, 0x8000, 0xFFFF])
def test_reserved_bits_and_flags_are_ignored(reserved: int, flags: int) -> None:
    frames = received(header(reserved=reserved, flags=flags, kind=0x020))

    assert frames == [Frame(type=FrameType.PING, payload=b"")]


@pytest.mark.parametrize("kind", [0x000, 0x005, 0x006, 0x030, 0x100, 0x103, 0x7FF])
def test_unknown_types_are_delivered(kind: int) -> None:
    frames = received(header(kind=kind, length=3) + b"abc" + header(kind=0x021))

    assert frames == [
        Frame(type=kind, payload=b"abc"),
        Frame(type=FrameType.PONG, payload=b""),
    ]


@pytest.mark.parametrize("limit", [0, 10, RECEIVE_LIMIT, MAX_PAYLOAD])
def test_a_payload_at_the_limit_is_taken_and_one_above_is_refused(limit: int) -> None:
    assert received(header(length=limit) + bytes(limit), limit=limit) != []
    with pytest.raises(RemoteProtocolError, match=f"frame of {limit + 1} bytes, limit {limit}"):
        received(header(length=limit + 1), limit=limit)


def test_the_receive_limit_is_64_kib_unless_told() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(header(length=64 * 1024 + 1))

    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()


def test_no_limit_goes_above_the_hard_one() -> None:
    with pytest.raises(AssertionError):
        FrameDecoder(MAX_PAYLOAD + 1)


def test_a_refusal_is_final() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(header(version=2) + header(kind=0x020))

    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            decoder.next_frame()


def test_frames_before_a_broken_one_are_delivered() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(header(kind=0x020) + header(version=0))

    assert decoder.next_frame() == Frame(type=FrameType.PING, payload=b"")
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()


@pytest.mark.parametrize("cut", range(1, HEADER_SIZE + 4))
def test_an_end_inside_a_frame_is_an_error(cut: int) -> None:
    frame = header(length=4) + b"abcd"

    with pytest.raises(RemoteProtocolError, match="ended inside a frame"):
        received(frame[:cut])


def test_rest_is_what_follows_the_frames_taken() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(header(kind=0x012) + b"GET / HTTP/1.1")

    assert decoder.next_frame() == Frame(type=FrameType.STREAM_ACCEPT, payload=b"")
    assert decoder.rest() == b"GET / HTTP/1.1"
    assert decoder.rest() == b""
    decoder.end()


def test_takes_any_buffer_and_keeps_none_of_it() -> None:
    data = bytearray(header(length=1) + b"a")
    decoder = FrameDecoder()
    decoder.receive_data(memoryview(data))
    data[-1] = 0

    assert decoder.next_frame() == Frame(type=1, payload=b"a")


def test_a_long_stream_of_small_frames_is_held_no_longer_than_needed() -> None:
    decoder = FrameDecoder()
    decoder.receive_data(header(kind=0x020) * 100_000)

    assert sum(1 for _ in iter(decoder.next_frame, None)) == 100_000
    assert decoder.rest() == b""


# ---- fuzzing -------------------------------------------------------------------------------

plausible = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([vector.frame for vector in vectors()]),
        st.builds(
            lambda kind, payload: header(kind=kind, length=len(payload)) + payload,
            st.integers(0, 0x7FF),
            st.binary(max_size=30),
        ),
    ),
    max_size=6,
).map(b"".join)


def outcome(*chunks: bytes) -> tuple[list[Frame], str]:
    """What a stream decodes to, and the error it ends with."""
    decoder, frames = FrameDecoder(limit=256), []
    try:
        for chunk in chunks:
            decoder.receive_data(chunk)
            while frame := decoder.next_frame():
                frames.append(frame)
        decoder.end()
    except RemoteProtocolError as error:
        return frames, str(error)
    return frames, ""


@given(plausible, st.lists(st.integers(0, 200), max_size=8))
def test_how_the_input_is_cut_changes_nothing(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]

    assert outcome(*chunks) == outcome(stream)


@given(plausible)
def test_only_protocol_errors_come_out(stream: bytes) -> None:
    frames, _ = outcome(stream)

    for frame in frames:
        with suppress(RemoteProtocolError):
            decode(frame)


@given(st.sampled_from(vectors()), st.data())
def test_a_damaged_frame_is_decoded_or_refused(vector: Vector, data: st.DataObject) -> None:
    damaged = bytearray(vector.frame)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    for frame in outcome(bytes(damaged))[0]:
        with suppress(RemoteProtocolError):
            decode(frame)
