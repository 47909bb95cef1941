"""Bytes to frames and back, incrementally and without input or output.

A frame is a header of 8 bytes, big-endian, and a payload:

    bits 0-2   version (1)         ┐
    bits 3-4   reserved, 0         ├ 16 bits
    bits 5-15  type (11 bits)      ┘
    16 bits    flags, 0 on send, ignored on receive
    32 bits    payload length, at most 2^24

Invariants: a decoder takes input cut anywhere; it refuses a length before it waits for
those bytes, so it never holds more than its limit plus what one ``receive_data`` brought;
once it has refused its input it stays where it is and refuses again.

Source: protocol.md section 2.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from google.protobuf.message import Message

from outrelay.lib.errors import LocalProtocolError, RemoteProtocolError
from outrelay.lib.orp.types import MESSAGES, Frame, FrameType

__all__ = [
    "HEADER_SIZE",
    "MAX_PAYLOAD",
    "RECEIVE_LIMIT",
    "VERSION",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "encode",
]

VERSION: Final = 1
MAX_PAYLOAD: Final = 1 << 24
"""The longest payload any frame may have, bytes."""
RECEIVE_LIMIT: Final = 64 * 1024
"""The longest payload we take from a peer, bytes."""

_HEADER: Final = Struct("!HHI")
HEADER_SIZE: Final = _HEADER.size
_VERSION_SHIFT: Final = 13
_TYPE_MASK: Final = 0x7FF


def encode(frame_type: FrameType, message: Message) -> bytes:
    """The bytes of a frame.

    Args:
        frame_type: What the frame is.
        message: What it carries, of the class that ``MESSAGES`` has for the type.

    Raises:
        LocalProtocolError: The message is of another class, or too long for any frame.
    """
    if not isinstance(message, MESSAGES[frame_type]):
        raise LocalProtocolError(
            f"a {frame_type.name} frame does not carry {message.DESCRIPTOR.name}"
        )
    payload = message.SerializeToString()
    if len(payload) > MAX_PAYLOAD:
        raise LocalProtocolError(f"a {frame_type.name} frame of {len(payload)} bytes is too long")
    return _HEADER.pack(VERSION << _VERSION_SHIFT | frame_type, 0, len(payload)) + payload


class FrameDecoder:
    """Cuts what one direction of one stream brings into frames.

    Give it bytes as they come and take frames until there is none. On a data stream, whose
    bytes turn raw after the first frames, ``rest`` hands over what follows them.

    Args:
        limit: The longest payload to accept, bytes, at most MAX_PAYLOAD.
    """

    def __init__(self, limit: int = RECEIVE_LIMIT) -> None:
        assert 0 <= limit <= MAX_PAYLOAD
        self._limit = limit
        self._buffer = bytearray()

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Append what the stream brought."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next frame, or None until more bytes complete it.

        Raises:
            RemoteProtocolError: The bytes are of another version, or announce a payload
                above the limit.
        """
        if len(self._buffer) < HEADER_SIZE:
            return None
        word, _flags, length = _HEADER.unpack_from(self._buffer)
        if word >> _VERSION_SHIFT != VERSION:
            raise RemoteProtocolError(f"frame of version {word >> _VERSION_SHIFT}, not {VERSION}")
        if length > self._limit:
            raise RemoteProtocolError(f"frame of {length} bytes, limit {self._limit}")
        end = HEADER_SIZE + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER_SIZE:end])
        del self._buffer[:end]  # moves the array's start, not its bytes
        return Frame(type=word & _TYPE_MASK, payload=payload)

    def rest(self) -> bytes:
        """Take the bytes behind the frames taken so far."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def end(self) -> None:
        """The stream has ended; call it once ``next_frame`` has returned None.

        Raises:
            RemoteProtocolError: It ended inside a frame.
        """
        if self._buffer:
            raise RemoteProtocolError("stream ended inside a frame")
