"""Headers and notes, and what is no note."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.errors import ErrorCode, RemoteProtocolError
from outrelay.lib.orp.frame import encode
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.tcp.yamux_frames import (
    DATA,
    GO_AWAY,
    HEADER_SIZE,
    INTERNAL_ERROR,
    NORMAL,
    NOTE_MAX,
    PROTOCOL_ERROR,
    Note,
    farewell,
    header,
    note,
    parse_note,
)
from tests.support.yamux_peer import Frame, frames_in


def test_a_header_is_twelve_bytes() -> None:
    assert header(1, 4, 0x01020304, 0xFFFFFFFF) == bytes.fromhex("00010004 01020304 ffffffff")


@given(
    st.builds(
        Note,
        stream=st.integers(0, 2**32 - 1),
        code=st.sampled_from(ErrorCode),
        reason=st.text(max_size=40),
        direction=st.sampled_from([orp.BOTH, orp.SENT, orp.RECEIVED]),
    )
)
def test_a_note_says_what_was_meant(said: Note) -> None:
    (frame,) = frames_in(note(said))
    assert frame[:3] == (DATA, 0, 0)
    assert parse_note(frame.payload) == said


@pytest.mark.parametrize("letter", ["x", "ü", "語"])
def test_a_long_reason_is_cut_between_letters(letter: str) -> None:
    data = note(Note(1, ErrorCode.LIMIT, letter * 5000))
    assert len(data) <= HEADER_SIZE + NOTE_MAX
    reason = parse_note(data[HEADER_SIZE:]).reason
    assert reason
    assert set(reason) == {letter}


def test_a_code_that_is_not_ours_counts_as_cancelled() -> None:
    ended = orp.StreamEnded(stream_id=3, code=4711)
    payload = encode(FrameType.STREAM_ENDED, ended)
    assert parse_note(payload) == Note(3, ErrorCode.CANCELLED)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x27",
        encode(FrameType.STREAM_ENDED, orp.StreamEnded(reason="cut"))[:-1],
        encode(FrameType.STREAM_ENDED, orp.StreamEnded(code=1)) + b"more",
        encode(FrameType.GOAWAY, orp.Goaway()),
        b"\x27\x02\0\0\0\0\0\2\xff\xff",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_what_is_no_note(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_note(payload)


@pytest.mark.parametrize(
    ("code", "going"),
    [
        (ErrorCode.NONE, NORMAL),
        (ErrorCode.DRAIN, NORMAL),
        (ErrorCode.REPLACED, NORMAL),
        (ErrorCode.PROTOCOL, PROTOCOL_ERROR),
        (ErrorCode.INTERNAL, INTERNAL_ERROR),
    ],
)
def test_a_farewell_is_understood_with_and_without_notes(code: ErrorCode, going: int) -> None:
    said, gone = frames_in(farewell(code, "why"))
    assert parse_note(said.payload) == Note(0, code, "why")
    assert gone == Frame(GO_AWAY, 0, 0, going)
