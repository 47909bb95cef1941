"""Certificates that are renewed on disk, while streams run."""

from __future__ import annotations

import signal
from datetime import timedelta

import pytest

from outrelay.lib.identity.certs import load_credentials
from tests.integration.attackers import Mallories
from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import calling, echo, ping
from tests.integration.test_insight import numbers
from tests.integration.test_resume import transfers_during
from tests.integration.world import APP, CONSUMER, PROVIDER, World
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES

RENEWED = "certificate renewed"
NOT_AFTER = "outrelay_certificate_not_after_timestamp_seconds"


def renew(world: World, holder: str, lifetime: timedelta = timedelta(hours=2)) -> float:
    """Put the holder's next certificate where its last one is; when it ends."""
    before = load_credentials(world.pki / f"{holder}.pem", world.pki / f"{holder}.key")
    return world.issue(before.identity, lifetime=lifetime, name=holder).expires


async def test_transfers_go_on_when_agents_renew(own_world: World) -> None:
    """One after the other, each told to look; a bad file in between changes nothing."""
    world = own_world

    async def fault() -> None:
        for holder, agent in ((CONSUMER, world.consumer), (PROVIDER, world.provider)):
            renew(world, holder, timedelta(seconds=-1))
            agent.send_signal(signal.SIGHUP)
            await agent.event("new certificate not used")
            mark = agent.mark()
            renew(world, holder)
            agent.send_signal(signal.SIGHUP)
            await agent.event(RENEWED)
            await agent.event("connected", since=mark)
            await agent.event("stream resumed", since=mark)

    await transfers_during(world, fault)
    assert not world.consumer.seen("disconnected")
    assert not world.provider.seen("disconnected")


async def test_agents_notice_their_new_certificates_themselves(own_world: World) -> None:
    """Nobody tells them to look. Their old connections end, the stream does not."""
    world = own_world
    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
        mark = world.relay.mark()
        for holder, agent in ((CONSUMER, world.consumer), (PROVIDER, world.provider)):
            renew(world, holder)
            await agent.event("stream resumed", timeout=PATIENCE)
            identity = (await agent.event(RENEWED))["identity"]
            await world.relay.event("agent gone", since=mark, agent=identity)
            await ping(*call)


async def test_a_relay_shows_its_new_certificate_to_who_comes_in(own_world: World) -> None:
    """Those who are there stay; its line to the controller is made anew."""
    world = own_world
    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
        ends = renew(world, "relay")
        world.relay.send_signal(signal.SIGHUP)
        await world.relay.event(RENEWED)
        await world.relay.event("controller is back")
        async with Mallories(world).mallory(*FEATURES) as agent:
            assert agent.connection.peer_expires == ends
        await ping(*call)
        async with calling(world.at[APP]) as another:
            await ping(*another)
    for each in (world.consumer, world.provider):
        assert not each.seen("disconnected")


async def test_a_controller_shows_its_new_certificate_without_a_restart(own_world: World) -> None:
    """Nobody tells it to look. The relay's line to it stays, its number follows."""
    world = own_world
    mark = world.controller.mark()
    ends = renew(world, "controller")
    await world.controller.event(RENEWED, since=mark, timeout=PATIENCE)
    number = (await numbers(world.controller))[NOT_AFTER, ()]
    assert number == ends
    assert not world.relay.seen("controller is away")
    renew(world, "relay")
    world.relay.send_signal(signal.SIGHUP)  # has its line made anew
    await world.relay.event("controller is back")
    async with world.backend.serving(echo), calling(world.at[APP]) as call:
        await ping(*call)
