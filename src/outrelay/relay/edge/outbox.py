"""Control frames on their way to an agent."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.transport.carrier import Connection, Stream


class Outbox:
    """Control frames on their way to one agent.

    ``send`` never waits, so that an agent that does not read delays nobody else: when it
    leaves more than ``limit`` bytes lying, its connection is closed.

    Args:
        connection: The agent's.
        stream: Its control stream; only ``run`` writes it.
        limit: Bytes that may wait.
    """

    def __init__(self, connection: Connection, stream: Stream, limit: int) -> None:
        self._connection = connection
        self._stream = stream
        self._limit = limit
        self._waiting: list[bytes] = []
        self._size = 0
        self._filled = asyncio.Event()

    def send(self, type: FrameType, message: Message) -> None:  # noqa: A002 - the wire's word
        """Queue a frame; it is lost when the connection ends first."""
        frame = encode(type, message)
        if self._size + len(frame) > self._limit:
            self._connection.close(ErrorCode.LIMIT, "control frames are not read")
            return
        self._waiting.append(frame)
        self._size += len(frame)
        self._filled.set()

    async def run(self) -> None:
        """Write what is queued, for ever.

        Raises:
            Reset: The agent stopped reading its control stream.
            Closed: The connection is gone.
        """
        while True:
            await self._filled.wait()
            self._filled.clear()
            data = b"".join(self._waiting)
            self._waiting.clear()
            await self._stream.write(data)
            self._size -= len(data)
