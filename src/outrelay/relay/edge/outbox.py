"""Control frames on their way to an agent."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from outrelay.lib.errors import ErrorCode
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Connection, Stream

MOST_CHECKPOINTS = 16 * 1024
"""Streams whose checkpoints may wait. One that is dropped above is said again by its sender."""


class Outbox:
    """Control frames on their way to one agent.

    ``send`` never waits, so that an agent that does not read delays nobody else: when it
    leaves more than ``limit`` bytes lying, its connection is closed. Of checkpoints only the
    newest of each stream waits.

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
        self._checkpoints: dict[int, orp.StreamCheckpoint] = {}
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

    def post(self, checkpoint: orp.StreamCheckpoint) -> None:
        """Queue a stream's checkpoint in place of an older one."""
        if len(self._checkpoints) < MOST_CHECKPOINTS or checkpoint.stream_id in self._checkpoints:
            self._checkpoints[checkpoint.stream_id] = checkpoint
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
            frames, self._waiting = self._waiting, []
            checkpoints, self._checkpoints = self._checkpoints, {}
            queued = sum(map(len, frames))
            frames += (encode(FrameType.STREAM_CHECKPOINT, one) for one in checkpoints.values())
            await self._stream.write(b"".join(frames))
            self._size -= queued
