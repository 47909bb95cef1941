"""Which relay is used, when it is dialled again, and when the agent gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import replace

import pytest

from outrelay.agent import hints
from outrelay.agent.session import uplink
from outrelay.lib.errors import ErrorCode, Refused
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.insight import Insight
from outrelay.lib.transport.carrier import Address, Connection, Dialer
from outrelay.lib.transport.dial import Backoff
from outrelay.lib.transport.memory import MemoryConnection
from outrelay.lib.values import parse_address
from tests.agent.place import AGENT, OPTIONS, SERVICE, Place
from tests.agent.tcp import HOST
from tests.support.asking import ask
from tests.support.ports import unused_port
from tests.support.relay_peer import Link
from tests.support.turns import everybody_waits
from tests.support.virtual_loop import elapsed

FIRST, SECOND = ("127.0.0.1", 7443), ("127.0.0.2", 7443)
BOTH = replace(OPTIONS, relays=(FIRST, SECOND))
SECOND_RELAY = Identity.parse("outrelay://local/relay/r2")


class Recorder:
    """A dialer that remembers whom it was asked for, and refuses for good where told to."""

    def __init__(self, dialer: Dialer, *, wrong: Collection[str] = ()) -> None:
        self._dialer = dialer
        self.wrong = wrong
        self.asked: list[tuple[Address, str]] = []

    async def dial(
        self, address: Address, *, roles: Collection[Role], server_name: str = "localhost"
    ) -> Connection:
        assert set(roles) == {Role.RELAY}
        self.asked.append((address, server_name))
        if address[0] in self.wrong:
            raise Refused(f"{address[0]}:{address[1]}", "its certificate is wrong", final=True)
        return await self._dialer.dial(address, roles=roles, server_name=server_name)


@pytest.fixture
def dialer(place: Place) -> Recorder:
    return Recorder(place.network.dialer(AGENT))


async def test_the_server_name_is_asked_for(place: Place, dialer: Recorder) -> None:
    async with place.agent(options=replace(OPTIONS, server_name=""), dialer=dialer):
        await place.relay.accept()
    assert dialer.asked == [(FIRST, "")]


async def test_any_relay_of_the_list_will_do(place: Place, dialer: Recorder) -> None:
    dialer.wrong = ["127.0.0.1"]
    second = place.relay_at("127.0.0.2", SECOND_RELAY)
    async with place.agent(options=BOTH, dialer=dialer):
        await second.accept()
        line = await place.seen.wait("connected")
        assert (line["relay"], line["address"]) == (SECOND_RELAY, "127.0.0.2:7443")


async def test_only_one_relay_gets_hello(place: Place) -> None:
    second = place.relay_at("127.0.0.2", SECOND_RELAY)
    async with place.agent(options=BOTH):
        one, two = await place.relay.listener.accept(), await second.listener.accept()
        ends = [asyncio.get_running_loop().create_task(each.wait_closed()) for each in (one, two)]
        closed, connected = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert (len(closed), len(connected)) == (1, 1)
        for each in connected:
            each.cancel()


async def test_relays_that_do_not_answer_are_tried_for_ever(place: Place, dialer: Recorder) -> None:
    await place.relay.listener.close()
    async with place.agent(dialer=dialer):
        line = await place.seen.wait("no relay connected", count=3)
        assert line["error"] == "127.0.0.1:7443: nobody answered"
        relay = place.relay_at("127.0.0.1")
        await relay.accept()
        await place.seen.wait("connected")


async def test_a_relay_that_refuses_for_good_ends_an_agent_that_has_just_started(
    place: Place, dialer: Recorder
) -> None:
    dialer.wrong = ["127.0.0.1", "127.0.0.2"]
    async with place.agent(options=BOTH, dialer=dialer) as agent:
        with pytest.raises(Refused, match=r"its certificate is wrong; .* need one CA"):
            await agent.ended()


async def test_who_is_refused_with_an_expired_certificate_needs_another(
    place: Place, dialer: Recorder
) -> None:
    async with place.agent(dialer=dialer, expires=time.time() - 1):
        link = await place.relay.accept()
        await place.seen.wait("connected")
        dialer.wrong = ["127.0.0.1"]
        link.connection.close(ErrorCode.DENIED, "the certificate has ended")
        line = await place.seen.wait("refused by the relay")
        assert line["hint"] == hints.FOR_EXPIRED


async def test_while_one_relay_may_still_come_the_agent_stays(
    place: Place, dialer: Recorder
) -> None:
    dialer.wrong = ["127.0.0.1"]
    async with place.agent(options=BOTH, dialer=dialer):
        await place.seen.wait("no relay connected", count=2)


async def test_an_agent_that_was_connected_outlives_a_refusal(
    place: Place, dialer: Recorder
) -> None:
    async with place.agent(dialer=dialer):
        link = await place.relay.accept()
        await place.seen.wait("connected")
        dialer.wrong = ["127.0.0.1"]
        link.connection.close()
        line = await place.seen.wait("refused by the relay", count=2)
        assert line["hint"] == hints.FOR_RELAY
        dialer.wrong = []
        await place.relay.accept()


async def test_a_replaced_agent_does_not_dial_again(place: Place, dialer: Recorder) -> None:
    async with place.agent(dialer=dialer) as agent:
        link = await place.relay.accept()
        await place.seen.wait("connected")
        link.connection.close(ErrorCode.REPLACED)
        with pytest.raises(Refused, match="taken its place at the relay; stop one of them"):
            await agent.ended()
    assert len(dialer.asked) == 1


async def test_a_relay_that_fails_hello_lets_the_others_go_first(
    place: Place, dialer: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.agent(options=BOTH, dialer=dialer):
        link = await place.relay.connected()
        second = place.relay_at("127.0.0.2", SECOND_RELAY)
        dialer.asked.clear()
        link.connection.close(ErrorCode.LIMIT, "full")
        await second.accept()
        await place.seen.wait("connected", relay=SECOND_RELAY)
    assert dialer.asked == [(SECOND, "localhost")]


async def test_what_gives_no_connection_is_counted_by_carrier_and_reason(place: Place) -> None:
    """One relay is not there; the other one lets us in, and closes before it answers HELLO."""
    place.network.forget(SECOND)
    shown = replace(BOTH, insight=Insight(debug_listen=(HOST, 0)))
    async with place.agent(options=shown):
        link = await place.relay.connected()
        link.connection.close(ErrorCode.LIMIT, "full")
        await place.relay.accept()
        await place.seen.wait("connected")
        line = await place.seen.wait("listening", service="debug")
        metrics = (await ask(parse_address(str(line["address"])), "/metrics")).text
    name = 'outrelay_uplink_refusals_total{carrier="quic",reason='
    counted = dict(each.rsplit(" ", 1) for each in metrics.splitlines() if each.startswith(name))
    assert set(counted) == {f'{name}"hello"}}', f'{name}"unreachable"}}'}
    assert counted[f'{name}"hello"}}'] == "1.0"


async def test_streams_alive_shorten_the_wait_for_the_next_try(
    place: Place, dialer: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[float] = []

    def delay(self: object, most: float) -> float:
        bounds.append(most)
        return 0.0

    monkeypatch.setattr(Backoff, "delay", delay)
    await place.relay.listener.close()
    async with place.agent(consume=[SERVICE], dialer=dialer) as agent:
        await place.seen.wait("no relay connected")
        assert set(bounds) == {uplink.RETRY_IDLE}
        with await agent.app():
            while uplink.RETRY_BUSY not in bounds:
                await place.seen.wait("no relay connected", count=len(bounds) + 1)


async def test_a_steady_session_makes_the_next_try_immediate(
    place: Place, dialer: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "STEADY", 0.0)
    delays: list[float] = []
    real = Backoff.delay

    def delay(self: Backoff, most: float) -> float:
        delays.append(real(self, most))
        return 0.0

    monkeypatch.setattr(Backoff, "delay", delay)
    async with place.agent(dialer=dialer):
        for _ in range(3):
            link = await place.relay.accept()
            await place.seen.wait("connected", count=len(delays))
            link.connection.close()
        await place.relay.accept()
    assert delays == [0.0] * 4


def sever(link: Link) -> None:
    """Lose the path of a connection: nobody closes it."""
    assert isinstance(link.connection, MemoryConnection)
    link.connection.sever()


@pytest.mark.virtual_time
async def test_a_plain_relay_that_was_lost_is_connected_once_more(
    place: Place, dialer: Recorder
) -> None:
    async with place.agent(expose={SERVICE: unused_port()}, dialer=dialer):
        link = await place.relay.accept(())
        await link.registered()
        await place.seen.wait("registered")
        sever(link)
        await place.seen.wait("disconnected")
        lost = elapsed()
        second = await place.relay.accept(())
        await second.registered()
        assert (await second.connection.wait_closed()).by_peer
        assert elapsed() - lost == pytest.approx(12.0)
        third = await place.relay.accept(())
        await third.registered()
        await place.seen.wait("connected", count=3)


async def test_a_plain_relay_that_was_lost_is_avoided(place: Place, dialer: Recorder) -> None:
    async with place.agent(expose={SERVICE: unused_port()}, options=BOTH, dialer=dialer):
        link = await place.relay.accept(())
        await place.seen.wait("connected")
        second = place.relay_at("127.0.0.2", SECOND_RELAY)
        dialer.asked.clear()
        sever(link)
        await second.accept(())
        await place.seen.wait("connected", relay=SECOND_RELAY)
    assert dialer.asked == [(SECOND, "localhost")]


async def test_a_relay_of_ours_that_was_lost_is_connected_once(
    place: Place, dialer: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uplink, "PLAIN_FORGETS", 0.0)
    async with place.agent(expose={SERVICE: unused_port()}, dialer=dialer):
        sever(await place.relay.accept())
        await (await place.relay.accept()).registered()
        await place.seen.wait("registered")
        await everybody_waits()
    assert len(dialer.asked) == 2
