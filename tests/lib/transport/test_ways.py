"""Which endpoints are tried together, and by whom each is dialled."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from outrelay.lib.errors import Refused
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.transport import dial as dialing
from outrelay.lib.transport.carrier import Address, Connection
from outrelay.lib.transport.memory import MemoryDialer, MemoryNetwork
from outrelay.lib.transport.ways import Carrier, Endpoint, Route, Ways, tiers
from tests.support.virtual_loop import elapsed

AGENT = Identity.parse("outrelay://acme/agent/4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11")
RELAY = Identity.parse("outrelay://local/relay/r1")

Q1, Q2 = (Endpoint(Carrier.QUIC, (f"192.0.2.{each}", 7443)) for each in (1, 2))
T1, T2 = (Endpoint(Carrier.TCP, (f"192.0.2.{each}", 443)) for each in (1, 2))


@pytest.mark.parametrize(
    ("known", "avoided", "order"),
    [
        (None, None, [[Q1, Q2], [T1, T2]]),
        (Q2, None, [[Q1, Q2], [T1, T2]]),
        (T2, None, [[Q1, Q2, T2], [T1]]),
        (None, Q1, [[Q2], [T1, T2], [Q1]]),
        (None, T1, [[Q1, Q2], [T2], [T1]]),
        (T1, T1, [[Q1, Q2], [T2], [T1]]),
        (Endpoint(Carrier.TCP, ("elsewhere", 443)), None, [[Q1, Q2], [T1, T2]]),
    ],
)
def test_quic_first_and_tcp_behind_it(
    known: Endpoint | None, avoided: Endpoint | None, order: list[list[Endpoint]]
) -> None:
    assert tiers([T1, Q1, Q2, T2, Q1], known=known, avoided=avoided) == order


def test_spare_ones_come_behind_all_others() -> None:
    assert tiers([T1, Q1], spare=[Q2, T1, T2]) == [[Q1], [T1], [Q2, T2]]
    assert tiers([Q1], spare=[Q2, T2], known=T2) == [[Q1, T2], [Q2]]
    assert tiers([Q1], spare=[T2], avoided=Q1) == [[T2], [Q1]]


def test_one_carrier_alone_needs_no_head_start() -> None:
    assert tiers([T1, T2]) == [[T1, T2]]
    assert tiers([Q1]) == [[Q1]]
    assert tiers([Q1], avoided=Q1) == [[Q1]]


def test_an_endpoint_says_how_it_is_spoken_to() -> None:
    assert str(T1) == "192.0.2.1:443 (tcp)"


class Recorder:
    """A dialer that notes whom it was asked for."""

    def __init__(self, dialer: MemoryDialer) -> None:
        self._dialer = dialer
        self.asked: list[Address] = []

    async def dial(
        self, address: Address, *, roles: Collection[Role], server_name: str = "localhost"
    ) -> Connection:
        self.asked.append(address)
        return await self._dialer.dial(address, roles=roles, server_name=server_name)


async def connect(ways: Ways, endpoint: Endpoint) -> Connection:
    return await ways.dial(endpoint, roles={Role.RELAY}, server_name="localhost", limit=5)


async def test_each_carrier_has_its_dialer() -> None:
    network = MemoryNetwork()
    for each in (Q1, T1):
        network.listen(each.address, RELAY)
    quic, tcp = Recorder(network.dialer(AGENT)), Recorder(network.dialer(AGENT))
    ways = Ways({Carrier.QUIC: quic, Carrier.TCP: tcp})
    for each in (Q1, T1):
        await connect(ways, each)
    assert (quic.asked, tcp.asked) == ([Q1.address], [T1.address])


async def test_a_carrier_without_dialer_leads_nowhere() -> None:
    network = MemoryNetwork()
    with pytest.raises(Refused, match=r"192\.0\.2\.1:443: tcp is not spoken here"):
        await connect(Ways({Carrier.QUIC: network.dialer(AGENT)}), T1)


async def test_only_tcp_takes_a_detour_and_its_names_are_not_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    real = dialing.resolve

    async def resolve(endpoint: Address) -> list[Address]:
        asked.append(endpoint[0])
        return await real(endpoint)

    monkeypatch.setattr(dialing, "resolve", resolve)
    network = MemoryNetwork()
    proxy = ("192.0.2.9", 3128)
    for address in (Q1.address, proxy):
        network.listen(address, RELAY)
    direct, around = network.dialer(AGENT), Recorder(network.dialer(AGENT))

    def detour(address: Address) -> Route | None:
        return Route(around, proxy) if address[0] == "relay.test" else None

    ways = Ways({Carrier.QUIC: direct, Carrier.TCP: direct}, detour=detour)
    await connect(ways, Endpoint(Carrier.TCP, ("relay.test", 443)))
    await connect(ways, Q1)
    assert around.asked == [proxy]
    assert asked == [proxy[0], Q1.address[0]]


async def test_addresses_of_tcp_are_tried_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def resolve(endpoint: Address) -> list[Address]:
        return [("192.0.2.1", endpoint[1]), ("192.0.2.2", endpoint[1])]

    monkeypatch.setattr(dialing, "resolve", resolve)
    network = MemoryNetwork()
    network.listen(("192.0.2.1", 443), RELAY)
    recorder = Recorder(network.dialer(AGENT))
    ways = Ways({Carrier.QUIC: recorder, Carrier.TCP: recorder})
    await connect(ways, Endpoint(Carrier.TCP, ("relay.test", 443)))
    assert recorder.asked == [("192.0.2.1", 443)]


@pytest.mark.virtual_time
async def test_families_of_tcp_take_turns_a_quarter_of_a_second_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    six = [("2001:db8::1", 443), ("2001:db8::2", 443)]
    four = ("192.0.2.1", 443)

    async def resolve(_: Address) -> list[Address]:
        return [*six, four]

    async def connect_to(address: Address, **_: object) -> Connection:
        if address in six:
            await asyncio.Event().wait()
        return await real(address, roles={Role.RELAY})

    monkeypatch.setattr(dialing, "resolve", resolve)
    network = MemoryNetwork()
    network.listen(four, RELAY)
    dialer = network.dialer(AGENT)
    real = dialer.dial
    monkeypatch.setattr(dialer, "dial", connect_to)
    recorder = Recorder(dialer)
    await connect(Ways({Carrier.TCP: recorder}), Endpoint(Carrier.TCP, ("relay.test", 443)))
    assert recorder.asked == [six[0], four]
    assert elapsed() == 0.25
