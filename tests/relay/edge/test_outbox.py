"""The outbox: of checkpoints only the newest waits, and not too many of them."""

from __future__ import annotations

from typing import cast

import pytest

from outrelay.lib.orp.frame import FrameDecoder
from outrelay.lib.orp.types import decode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Connection, Stream
from outrelay.relay.edge import outbox as room
from outrelay.relay.edge.outbox import Outbox
from tests.support.turns import until


class Written:
    """A stream that takes everything."""

    def __init__(self) -> None:
        self._frames = FrameDecoder()
        self.checkpoints: list[tuple[int, int]] = []
        """Ids and positions."""

    async def write(self, data: bytes) -> None:
        self._frames.receive_data(data)
        while frame := self._frames.next_frame():
            message = decode(frame)
            assert isinstance(message, orp.StreamCheckpoint)
            self.checkpoints.append((message.stream_id, message.my_position))


async def test_only_the_newest_checkpoint_of_each_stream_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "MOST_CHECKPOINTS", 2)
    written = Written()
    outbox = Outbox(cast(Connection, None), cast(Stream, written), 1000)
    for stream_id, position in ((1, 1), (2, 1), (1, 2), (3, 1), (2, 5)):
        outbox.post(orp.StreamCheckpoint(stream_id=stream_id, my_position=position))
    async with beside(outbox.run(), name="outbox"):
        await until(lambda: written.checkpoints == [(1, 2), (2, 5)])
        outbox.post(orp.StreamCheckpoint(stream_id=3, my_position=1))
        await until(lambda: written.checkpoints[2:] == [(3, 1)])
