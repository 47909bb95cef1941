"""What operators are told of the agents that are connected, and of the relay."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry

from outrelay import __version__
from outrelay.lib.control.v1 import fleet_pb2 as fleet
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.metrics import StreamMetrics
from outrelay.lib.transport.memory import EXPIRES
from outrelay.relay import inventory as module
from outrelay.relay.inventory import Inventory
from tests.relay.rooms import Rooms, call, relay_rooms
from tests.support.peers import AGENT_A, AGENT_B, FEATURES

STRANGER = Identity.parse("outrelay://globex/agent/00000000-0000-4000-8000-0000000000cc")


def inventory(relay: Rooms) -> Inventory:
    return Inventory(relay.roster, relay.pairs)


async def test_an_agent_is_told_with_all_there_is_to_know() -> None:
    async with relay_rooms() as relay:
        provider = await relay.provider()
        await call(relay, provider=provider)
        await call(relay, provider=provider, stream_id=8)
        consumers = {AGENT_A.uri: [1, 0], AGENT_B.uri: [0, 2]}
        told = list(inventory(relay).agents("acme", 10))

        (served,) = (each for each in told if each.agent_uri == AGENT_B.uri)
        assert (served.tenant, served.carrier) == ("acme", "memory")
        assert list(served.services) == ["echo"]
        assert served.services_count == 1
        assert served.address.startswith("127.0.0.1:")
        assert served.since_unix_ms > 0
        assert served.certificate_not_after_unix_ms == int(EXPIRES * 1000)
        assert {"goaway/1", "resume/2"} <= set(served.features) <= set(FEATURES)
        # Each call made a consumer of its own.
        calls = sorted((each.agent_uri, each.consuming, each.serving) for each in told)
        assert calls == sorted(
            [(AGENT_A.uri, *consumers[AGENT_A.uri])] * 2 + [(AGENT_B.uri, *consumers[AGENT_B.uri])]
        )


async def test_a_tenant_is_told_of_its_own_and_no_more_than_it_asked_for() -> None:
    async with relay_rooms() as relay:
        await relay.agent(AGENT_A)
        await relay.agent(STRANGER)
        told = inventory(relay)
        assert [each.agent_uri for each in told.agents("globex", 10)] == [STRANGER.uri]
        assert len(list(told.agents("", 10))) == 2
        assert len(list(told.agents("", 1))) == 1
        assert told.status("globex").agents == 1
        assert told.status("").agents == 2


async def test_of_many_services_the_first_are_named() -> None:
    async with relay_rooms() as relay:
        peer = await relay.agent(AGENT_A, *FEATURES)
        names = [f"s{number:02}" for number in range(20)]
        for name in names:
            await peer.register(name)
        (told,) = inventory(relay).agents("acme", 10)
        assert list(told.services) == names[: module.MOST_SERVICES]
        assert told.services_count == 20


async def test_streams_and_bytes_are_of_who_may_know() -> None:
    numbers = CollectorRegistry()
    metrics = StreamMetrics(numbers)
    metrics.bytes_up.inc(7)
    metrics.bytes_down.inc(9)
    about = partial(module.about, lambda: 2.5, 1000, numbers)
    async with relay_rooms() as relay:
        await call(relay)
        told = Inventory(relay.roster, relay.pairs, about)
        assert told.status("") == fleet.RelayStatus(
            version=__version__,
            started_unix_ms=1000,
            certificate_not_after_unix_ms=2500,
            agents=2,
            streams=1,
            bytes_up=7,
            bytes_down=9,
        )
        theirs = told.status("globex")
        assert (theirs.agents, theirs.streams, theirs.bytes_up, theirs.bytes_down) == (0, 0, 0, 0)
