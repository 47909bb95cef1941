"""Peers with a good certificate that break QUIC's rules: their connection ends, no other.

The limits are ours (engine.py) and raised as readers read; a peer that ignores them must
not be able to fill our memory.
"""

from __future__ import annotations

import pytest

from outrelay.lib.errors import ErrorCode
from tests.lib.transport.carriers import PKI, QuicHarness, join
from tests.lib.transport.streams import round_trips
from tests.support.hostile_quic import CRIMES, raw_client


@pytest.mark.parametrize("crime", CRIMES)
async def test_a_peer_that_breaks_the_rules(quic: QuicHarness, crime: str) -> None:
    commit, punishment = CRIMES[crime]
    listener = await quic.listen()
    good = await join(listener, await quic.dialer())
    async with raw_client(listener.address, credentials=PKI.agent()) as client:
        connection = await listener.accept()
        commit(client.core)
        client.pump()
        assert await client.ended == punishment
        closed = await connection.wait_closed()
    assert closed.code is ErrorCode.PROTOCOL
    assert not closed.by_peer
    assert not closed.lost
    await round_trips(await good.stream())
