"""The frames of yamux, version 0, and the notes that our own peers put between them.

A frame is a 12-byte big-endian header: version u8, kind u8, flags u16, stream id u32,
length u32; behind a data frame's header follow ``length`` bytes.

Words: a *note* says with which code a stream, or the session, ends; yamux knows only that
it does. It is a STREAM_ENDED frame of ORP in a data frame on stream 0, which is no stream:
peers that know nothing of notes drop what comes for streams they do not have.

Source: protocol.md sections 1, 3 and 9; docs/decisions 0004.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from outrelay.lib.errors import ErrorCode, RemoteProtocolError
from outrelay.lib.orp.frame import FrameDecoder, encode
from outrelay.lib.orp.types import FrameType, decode
from outrelay.lib.orp.v1 import orp_pb2 as orp

HEADER: Final = Struct(">BBHII")
HEADER_SIZE: Final = HEADER.size

# Plain integers: enumerations cost a microsecond where frames are parsed.
DATA: Final = 0
UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

SESSION: Final = 0
"""The stream id of frames that are about no stream."""

NORMAL, PROTOCOL_ERROR, INTERNAL_ERROR = 0, 1, 2
"""Why a peer goes away."""

NOTE_MAX: Final = 2048
"""Bytes of a note; a reason for people is cut to fit."""

REASON_MAX: Final = 1024

_GOING: Final = {
    ErrorCode.PROTOCOL: PROTOCOL_ERROR,
    ErrorCode.INTERNAL: INTERNAL_ERROR,
}


class Note(NamedTuple):
    """How a stream ends, or the session.

    Args:
        stream: yamux's id; 0 is the session.
        code: Why.
        reason: The same for people.
        direction: What of the stream ends, seen from the sender.
    """

    stream: int
    code: ErrorCode
    reason: str = ""
    direction: orp.EndedDirection.ValueType = orp.BOTH


def header(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The 12 bytes of a frame's header."""
    return HEADER.pack(0, kind, flags, stream, length)


def note(said: Note) -> bytes:
    """The frame of a note."""
    reason = said.reason.encode()[:REASON_MAX].decode(errors="ignore")
    message = orp.StreamEnded(
        stream_id=said.stream, code=said.code, reason=reason, direction=said.direction
    )
    payload = encode(FrameType.STREAM_ENDED, message)
    return header(DATA, 0, SESSION, len(payload)) + payload


def parse_note(payload: bytes) -> Note:
    """What a note says.

    Args:
        payload: All that came behind the header of a data frame on stream 0.

    Raises:
        RemoteProtocolError: It is no note.
    """
    decoder = FrameDecoder(NOTE_MAX)
    decoder.receive_data(payload)
    frame = decoder.next_frame()
    if frame is None or frame.type != FrameType.STREAM_ENDED:
        raise RemoteProtocolError("data on stream 0 is no note")
    decoder.end()
    message = decode(frame)
    assert isinstance(message, orp.StreamEnded)
    code = ErrorCode.of(message.code)
    return Note(message.stream_id, code, message.reason, message.direction)


def farewell(code: ErrorCode, reason: str) -> bytes:
    """The frames that end a session: a note, and what peers without notes understand."""
    going = _GOING.get(code, NORMAL)
    return note(Note(SESSION, code, reason)) + header(GO_AWAY, 0, SESSION, going)
