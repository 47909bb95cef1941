"""What an agent shows: its sessions, its services, its streams, and why it cannot work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from outrelay.agent.options import AgentOptions
from outrelay.lib.insight import Insight
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.values import Address, parse_address
from tests.agent.place import AGENT, OPTIONS, RELAY, SERVICE, Agent, Place
from tests.agent.tcp import HOST
from tests.support.asking import Answer, ask

pytestmark = pytest.mark.both_loops

SHOWN: AgentOptions = replace(OPTIONS, insight=Insight(debug_listen=(HOST, 0)))


async def address_of(place: Place) -> Address:
    line = await place.seen.wait("listening", service="debug")
    return parse_address(str(line["address"]))


async def get(place: Place, path: str) -> Answer:
    return await ask(await address_of(place), path)


async def status(place: Place) -> Any:
    return (await get(place, "/debug/status")).json()


@asynccontextmanager
async def offering(place: Place) -> AsyncIterator[Agent]:
    async with place.agent(expose={SERVICE: 9}, options=SHOWN) as agent:
        yield agent


async def test_without_a_relay_it_is_not_ready_and_says_why(place: Place) -> None:
    async with offering(place):
        ready = await get(place, "/readyz")

        assert ready.status == 503
        assert ready.text.startswith("no relay is connected")
        assert (await status(place))["sessions"] == []


async def test_it_is_ready_once_its_services_are_registered(place: Place) -> None:
    async with offering(place):
        link = await place.relay.accept()
        await place.seen.wait("connected")
        waiting = await get(place, "/readyz")
        assert (waiting.status, waiting.text) == (503, "not registered with the relay yet: db\n")

        assert await link.registered() == SERVICE
        await place.seen.wait("registered")
        assert (await get(place, "/readyz")).status == 200
        assert (await get(place, "/metrics")).text.count("outrelay_ready 1.0") == 1


async def test_it_shows_who_it_is_and_its_session(place: Place) -> None:
    async with offering(place):
        link = await place.relay.accept()
        assert await link.registered() == SERVICE
        await place.seen.wait("registered")
        shown = await status(place)

    assert (shown["component"], shown["identity"]) == ("agent", AGENT.uri)
    assert shown["relays"] == ["quic:127.0.0.1:7443"]
    assert shown["exposed"] == [
        {"service": SERVICE, "target": f"{HOST}:9", "registered": True, "refused": None}
    ]
    (session,) = shown["sessions"]
    assert (session["relay"], session["carrier"]) == (RELAY.uri, "memory")
    assert session["registered"] == [SERVICE]
    assert session["current"]
    assert not session["leaving"]


async def test_it_shows_the_streams_it_carries_and_where_applications_connect(
    place: Place,
) -> None:
    async with place.consumer(options=SHOWN) as (agent, link):
        shown = await status(place)
        (consumed,) = shown["consumed"]
        assert consumed["service"] == SERVICE
        with await agent.app() as app:
            opened = await link.spliced()
            await app.send(b"question")
            assert await opened.stream.read() == b"question"
            await place.seen.wait("stream opened")

            (stream,) = (await get(place, "/debug/streams")).json()["streams"]
            assert stream["name"] == f"{opened.stream_id:016x}/consumer"
            assert (stream["side"], stream["service"], stream["path"]) == (
                "consumer",
                SERVICE,
                "relayed",
            )
            assert stream["bytes_up"] == 8
            shown = await status(place)
            assert (shown["streams"], shown["bytes_up"]) == (1, 8)
            assert shown["sessions"][0]["streams"] == 1


async def test_an_agent_that_stops_is_not_ready(place: Place) -> None:
    async with place.consumer(options=SHOWN) as (agent, link):
        address = await address_of(place)
        with await agent.app():
            await link.spliced()
            await place.seen.wait("stream opened")
            agent.stop.set()
            await place.seen.wait("draining")

            assert (await ask(address, "/readyz")).text == "this agent is stopping\n"


async def test_why_a_service_is_not_registered_is_shown(place: Place) -> None:
    async with offering(place):
        link = await place.relay.accept()
        await link.frame()  # REGISTER
        nack = orp.StreamReject(code=403, reason="policy denied", service_name=SERVICE)
        await link.send(FrameType.REGISTER_NACK, nack)
        await place.seen.wait("registration refused", service=SERVICE)
        (exposed,) = (await status(place))["exposed"]
    assert not exposed["registered"]
    assert "policy denied" in exposed["refused"]
