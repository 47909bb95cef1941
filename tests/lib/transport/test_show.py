"""Another certificate for handshakes to come; connections that exist keep theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.tcp.dialer import TcpDialer
from tests.lib.transport.carriers import (
    AGENT,
    PKI,
    RELAY,
    Harness,
    MemoryHarness,
    QuicHarness,
    TcpHarness,
    join,
)
from tests.lib.transport.streams import round_trips

pytestmark = pytest.mark.both_loops

NEXT = timedelta(hours=3)


@pytest.fixture(params=[MemoryHarness, QuicHarness, TcpHarness])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    harness: Harness = request.param()
    yield harness
    await harness.close()


async def test_a_listener_shows_another(harness: Harness) -> None:
    listener, dialer = await harness.listen(), await harness.dialer()
    before = await join(listener, dialer)
    renewed = PKI.issue(RELAY, lifetime=NEXT)
    listener.show(renewed)
    after = await join(listener, dialer)
    assert before.near.peer_expires != after.near.peer_expires == renewed.expires
    for each in (before, after):
        await round_trips(await each.stream())


async def test_a_dialer_shows_another(harness: Harness) -> None:
    listener, dialer = await harness.listen(), await harness.dialer()
    if not isinstance(dialer, QuicEndpoint | TcpDialer):
        pytest.skip("the carrier of tests has no certificates")
    before = await join(listener, dialer)
    renewed = PKI.issue(AGENT, lifetime=NEXT)
    dialer.show(renewed)
    after = await join(listener, dialer)
    assert before.far.peer_expires != after.far.peer_expires == renewed.expires
    for each in (before, after):
        await round_trips(await each.stream())
