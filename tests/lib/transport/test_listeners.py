"""What listeners of both carriers do with those who are right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest

from outrelay.lib.errors import ErrorCode, LocalProtocolError, Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.refusal import Cause
from tests.lib.transport.carriers import PKI, Pair, join
from tests.lib.transport.grounds import GROUNDS, Ground
from tests.lib.transport.streams import cancel, round_trips
from tests.support.native import over_engines

pytestmark = pytest.mark.both_loops


@pytest.fixture(params=over_engines(GROUNDS))
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    async with AsyncExitStack() as stack:
        yield GROUNDS[request.param](stack)


async def test_one_task_accepts(ground: Ground) -> None:
    listener = await ground.listen()
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(listener.accept(), name="accept")
        await asyncio.sleep(0)
        with pytest.raises(LocalProtocolError):
            await listener.accept()
        await cancel(accepting)


async def test_connections_that_nobody_accepts_are_limited(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ground.bounds, "BACKLOG", 2)
    listener, dialer = await ground.listen(), await ground.dialer()
    kept = [await dialer.dial(listener.address, roles={Role.RELAY}) for _ in range(2)]
    with pytest.raises(Refused, match="too many connections wait") as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert (refusal.value.final, refusal.value.cause) == (False, Cause.PEER)
    await round_trips(await Pair(near=kept[0], far=await listener.accept()).stream())


class Calendar:
    """Stands for the module ``time``; its date passes when a test says so."""

    monotonic = staticmethod(time.monotonic)

    def __init__(self, now: float) -> None:
        self.now = now
        self._looks = 0
        self._looked = asyncio.Event()

    def time(self) -> float:
        self._looks += 1
        self._looked.set()
        return self.now

    async def looked_at(self, times: int) -> None:
        """Return after so many more looks."""
        enough = self._looks + times
        while self._looks < enough:
            self._looked.clear()
            await self._looked.wait()


async def test_a_connection_ends_with_the_peers_certificate(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ground.calendar, "TICK", 0.02)
    agent = PKI.agent(lifetime=timedelta(hours=1))  # the relay's lasts longer
    calendar = Calendar(agent.expires - 1)
    monkeypatch.setattr(ground.calendar, "time", calendar)
    pair = await join(await ground.listen(), await ground.dialer(agent))
    await calendar.looked_at(4)
    await round_trips(await pair.stream())
    calendar.now = agent.expires
    closed = await pair.far.wait_closed()
    assert pair.far.peer_expires == agent.expires
    assert (closed.code, closed.by_peer) == (ErrorCode.DENIED, False)
    assert (await pair.near.wait_closed()).by_peer
