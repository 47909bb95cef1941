"""What the doctor makes of what relays see of one socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.empty_pb2 import Empty

from outrelay.agent.doctor import nat
from outrelay.agent.doctor.findings import Mark
from outrelay.agent.doctor.nat import Vantage, judge, observe
from outrelay.agent.session.greeting import greet, hello_of
from outrelay.lib.identity.uri import Role
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic import QuicEndpoint
from tests.agent.place import AGENT, Place
from tests.support.pki import TestPki
from tests.support.relay_peer import Link, RelayPeer

PKI = TestPki()
LOCAL = ("10.0.0.2", 4000)
OUTSIDE = ("203.0.113.1", 5000)
R1, R2 = ("198.51.100.1", 7443), ("198.51.100.2", 7443)


def vantage(relay: Address = R1, observed: Address = OUTSIDE, local: Address = LOCAL) -> Vantage:
    return Vantage(relay=relay, local=local, observed=observed)


def test_without_a_nat_relays_see_what_is_here() -> None:
    (finding,) = judge([vantage(observed=LOCAL), vantage(R2, observed=LOCAL)])
    assert (finding.subject, finding.mark) == ("NAT (IPv4)", Mark.OK)
    assert finding.text == "none: relays see this host as it is"


def test_one_relay_cannot_tell_which_kind_it_is() -> None:
    (finding,) = judge([vantage(), vantage()])
    assert finding.text == "there is one: 10.0.0.2:4000 is seen as 203.0.113.1:5000"
    assert (finding.mark, finding.advice) == (Mark.OK, nat.ONE_VANTAGE)


def test_one_mapping_for_all_is_endpoint_independent() -> None:
    (finding,) = judge([vantage(), vantage(R2)])
    assert finding.mark is Mark.OK
    assert finding.text.startswith("endpoint-independent: 10.0.0.2:4000 is seen as 203.0.113.1:5")
    assert not finding.advice


def test_a_mapping_for_each_is_symmetric_and_worth_a_word() -> None:
    (finding,) = judge([vantage(), vantage(R2, ("203.0.113.1", 5001))])
    assert (finding.mark, finding.advice) == (Mark.WARN, nat.SYMMETRIC)
    assert finding.text.endswith("is seen as 203.0.113.1:5000, 203.0.113.1:5001")


def test_each_family_is_judged_by_itself() -> None:
    v6 = vantage(("2001:db8::1", 7443), ("2001:db8::2", 4000), ("2001:db8::2", 4000))
    first, second = judge([v6, vantage()])
    assert (first.subject, second.subject) == ("NAT (IPv4)", "NAT (IPv6)")
    assert second.text.startswith("none")
    assert judge([]) == []


@pytest.fixture
async def endpoints() -> AsyncIterator[tuple[QuicEndpoint, RelayPeer]]:
    """The doctor's endpoint, everywhere as an agent's is, and a relay to dial."""
    listener = await QuicEndpoint.bind(("127.0.0.1", 0), credentials=PKI.relay(), trust=PKI.trust)
    dialer = await QuicEndpoint.bind(("::", 0), credentials=PKI.agent(), trust=PKI.trust)
    yield dialer, RelayPeer(listener)
    await asyncio.gather(listener.close(), dialer.close())


async def answer(link: Link, told: orp.ObservedAddrResp | None) -> None:
    """What a relay does that tells so; None: it does not know the question."""
    while frame := await link.frame():
        if frame.type == FrameType.OBSERVED_ADDR_QUERY and told:
            await link.send(FrameType.OBSERVED_ADDR_RESP, told)
        elif frame.type == FrameType.PING:
            await link.send(FrameType.PONG, Empty())


async def observed(
    dialer: QuicEndpoint, peer: RelayPeer, told: orp.ObservedAddrResp | None
) -> Vantage | None:
    async with beside(peer.accept(), name="relay") as accepting:
        connection = await dialer.dial(peer.listener.address, roles={Role.RELAY})
        greeting = await greet(connection, hello_of(AGENT), 5.0)
        async with beside(answer(await accepting, told), name="relay answers"):
            seen = await observe(connection, greeting)
    connection.close()
    return seen


async def test_a_relay_tells_where_our_packets_come_from(
    endpoints: tuple[QuicEndpoint, RelayPeer],
) -> None:
    dialer, peer = endpoints
    told = orp.ObservedAddrResp(request_id=1, ip="203.0.113.1", port=5000)
    seen = await observed(dialer, peer, told)
    assert seen == Vantage(
        relay=peer.listener.address,
        local=("127.0.0.1", dialer.address[1]),
        observed=("203.0.113.1", 5000),
    )


@pytest.mark.parametrize("told", [None, orp.ObservedAddrResp(ip="garbage")])
async def test_one_that_does_not_tell_is_no_vantage(
    endpoints: tuple[QuicEndpoint, RelayPeer], told: orp.ObservedAddrResp | None
) -> None:
    assert await observed(*endpoints, told) is None


async def test_over_another_carrier_nobody_is_asked(place: Place) -> None:
    async with beside(place.relay.accept(), name="relay") as accepting:
        dialer = place.network.dialer(AGENT)
        connection = await dialer.dial(("127.0.0.1", 7443), roles={Role.RELAY})
        greeting = await greet(connection, hello_of(AGENT), 5.0)
        await accepting
    assert await observe(connection, greeting) is None
    connection.close()
