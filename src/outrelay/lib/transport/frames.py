"""Frames on a carrier's streams: the control stream, and the head of a data stream.

Invariants: a cancelled read loses nothing; frames of several senders do not mix, each
waits for the one before it.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from google.protobuf.message import Message

from outrelay.lib.errors import RemoteProtocolError
from outrelay.lib.orp.frame import RECEIVE_LIMIT, FrameDecoder, encode
from outrelay.lib.orp.types import Frame, FrameType, decode
from outrelay.lib.transport.carrier import Stream

MessageT = TypeVar("MessageT", bound=Message)


def message_of(frame: Frame, message: type[MessageT]) -> MessageT:
    """What a frame carries, when the class of that is known.

    Args:
        frame: Of a type that carries a ``message``.
        message: The class.

    Raises:
        RemoteProtocolError: The payload is no such message.
    """
    decoded = decode(frame)
    assert isinstance(decoded, message)
    return decoded


class FrameReader:
    """Takes frames from a stream.

    Args:
        stream: Where they come from; nobody else reads it meanwhile.
        limit: The longest payload to accept, bytes.
    """

    def __init__(self, stream: Stream, limit: int = RECEIVE_LIMIT) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(limit)

    async def next_frame(self) -> Frame | None:
        """The next frame, or None when the stream has ended after the last one.

        Raises:
            RemoteProtocolError: What came is no frame, or the stream ended inside one.
            Reset: The peer reset its direction.
            Closed: The connection is gone.
        """
        while (frame := self._decoder.next_frame()) is None:
            data = await self._stream.read()
            if not data:
                self._decoder.end()
                return None
            self._decoder.receive_data(data)
        return frame

    async def expect(self, kind: FrameType, message: type[MessageT]) -> MessageT:
        """The message of the next frame, which must be a ``kind``.

        Args:
            kind: The one type the protocol allows here.
            message: The class of its message.

        Raises:
            RemoteProtocolError: It is another frame, or none.
            Reset: The peer reset its direction.
            Closed: The connection is gone.
        """
        frame = await self.next_frame()
        if frame is None or frame.type != kind:
            got = "the stream's end" if frame is None else frame.name
            raise RemoteProtocolError(f"expected {kind.name}, got {got}")
        return message_of(frame, message)

    def rest(self) -> bytes:
        """Take the bytes behind the frames read so far, of a stream that turns raw."""
        return self._decoder.rest()


class FrameWriter:
    """Puts frames of any number of tasks on a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._turn = asyncio.Lock()

    async def send(self, kind: FrameType, message: Message) -> None:
        """Write one frame, as soon as those before it are written.

        Raises:
            Reset: The peer stopped reading.
            Closed: The connection is gone.
        """
        frame = encode(kind, message)
        async with self._turn:
            await self._stream.write(frame)
