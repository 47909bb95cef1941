"""What an agent dials first, and what it remembers of the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from outrelay.agent.session import dialling
from outrelay.agent.session.dialling import FIRST, MOST, Dialling, Link
from outrelay.agent.session.proof import Proof
from outrelay.lib.errors import Refused
from outrelay.lib.transport.dial import Attempt
from outrelay.lib.transport.memory import EXPIRES
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.ways import Carrier, Endpoint
from tests.agent.place import OPTIONS, RELAY, Place

Q1, Q2, Q3 = (Endpoint(Carrier.QUIC, (f"127.0.0.{each}", 7443)) for each in (1, 2, 3))
T1, T2 = (Endpoint(Carrier.TCP, (f"127.0.0.{each}", 443)) for each in (1, 2))
PROOF = Proof(EXPIRES)
BOTH = replace(OPTIONS, relays=(Q1.address, Q2.address), relays_tcp=(T1.address, T2.address))


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The network the host is in."""
    here = ["home"]
    monkeypatch.setattr(dialling, "fingerprint", lambda: here[0])
    return here


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[list[list[Endpoint]]]:
    """What was raced, by tiers; every race is lost."""
    raced: list[list[list[Endpoint]]] = []

    async def race(tiers: Sequence[Sequence[Attempt[Link]]], **_: float) -> Link:
        raced.append([[each.args[0] for each in tier] for tier in tiers])  # type: ignore[attr-defined]
        raise Refused("all", "no answer")

    monkeypatch.setattr(dialling, "race", race)
    return raced


async def lose(dialling: Dialling) -> None:
    with pytest.raises(Refused):
        await dialling.any_relay()


async def made(place: Place, endpoint: Endpoint) -> Link:
    """A connection to a relay that listens at ``endpoint``."""
    place.network.forget(endpoint.address)
    place.network.listen(endpoint.address, RELAY)
    return await Dialling(OPTIONS, place.ways(), PROOF)._dial(endpoint)


async def test_quic_first(place: Place, orders: list[list[list[Endpoint]]]) -> None:
    await lose(Dialling(BOTH, place.ways(), PROOF))
    assert orders == [[[Q1, Q2], [T1, T2]]]


async def test_what_worked_here_needs_no_head_start_of_others(
    place: Place, tmp_path: Path, orders: list[list[list[Endpoint]]], home: list[str]
) -> None:
    options = replace(BOTH, state_dir=tmp_path)
    Dialling(options, place.ways(), PROOF).has_worked(await made(place, T2), ())
    again = Dialling(options, place.ways(), PROOF)
    await lose(again)
    home[0] = "office"
    await lose(again)
    assert orders == [[[Q1, Q2, T2], [T1]], [[Q1, Q2], [T1, T2]]]


async def test_what_a_relay_tells_of_is_kept_for_need(
    place: Place, orders: list[list[list[Endpoint]]]
) -> None:
    link = await made(place, T1)
    dialling = Dialling(BOTH, place.ways(), PROOF)
    dialling.has_worked(link, (Q3, Q1))
    await lose(dialling)
    dialling.has_worked(link, ())  # a plain relay tells nothing: the others may still be there
    dialling.avoided = Q1
    await lose(dialling)
    assert orders == [[[Q1, Q2, T1], [T2], [Q3]], [[Q2, T1], [T2], [Q3], [Q1]]]


@pytest.mark.parametrize(
    ("lost", "order"),
    [
        (Q1, [[[[Q1], [Q2]]], [T1, T2]]),
        (Q2, [[[[Q2], [Q1]]], [T1, T2]]),
        (T2, [[[[T2], [Q1], [Q2]]], [T1]]),
    ],
)
async def test_whoever_lost_streams_returns_and_then_goes_round(
    place: Place, orders: list[list[list[Endpoint]]], lost: Endpoint, order: object
) -> None:
    dialling, link = Dialling(BOTH, place.ways(), PROOF), await made(place, lost)
    dialling.has_lost(link)
    await lose(dialling)
    assert orders == [order]
    dialling.has_worked(link, ())
    dialling.has_lost(link)
    dialling.has_left(link, ())  # it is not to be returned to
    await lose(dialling)
    assert lost in orders[1][-1]


async def test_the_one_that_was_lost_has_little_time_to_itself(place: Place) -> None:
    dialling = Dialling(BOTH, place.ways(), PROOF)
    dialling.has_lost(await made(place, Q1))
    place.network.forget(Q1.address)
    place.network.listen(Q2.address, RELAY)
    assert (await dialling.any_relay()).endpoint == Q2


def test_a_relay_that_comes_back_is_dialled_anew_while_streams_live(place: Place) -> None:
    dialling = Dialling(BOTH, place.ways(), PROOF)
    for is_busy, patience in ((True, FIRST), (False, 2 * FIRST), (False, MOST), (True, FIRST)):
        dialling.has_failed(is_busy=is_busy)
        assert dialling._patience == patience


async def test_only_tcp_can_be_bettered_and_only_by_quic(place: Place) -> None:
    over_tcp, over_quic = await made(place, T1), await made(place, Q2)
    assert Dialling(BOTH, place.ways(), PROOF).can_climb(over_tcp)
    assert not Dialling(BOTH, place.ways(), PROOF).can_climb(over_quic)
    tcp_alone = replace(OPTIONS, relays=(), relays_tcp=(T1.address,))
    assert not Dialling(tcp_alone, place.ways(), PROOF).can_climb(over_tcp)


async def test_every_endpoint_that_gives_no_connection_is_told(place: Place) -> None:
    place.network.forget(Q1.address)
    told: list[tuple[Endpoint, str]] = []
    dialling = Dialling(
        BOTH, place.ways(), PROOF, lambda endpoint, refused: told.append((endpoint, refused.cause))
    )
    await lose(dialling)
    assert told == [(each, Cause.UNREACHABLE) for each in (Q1, Q2, T1, T2)]


async def test_climbing_dials_quic_alone(place: Place, orders: list[list[list[Endpoint]]]) -> None:
    with pytest.raises(Refused):
        await Dialling(BOTH, place.ways(), PROOF).over_quic()
    assert orders == [[[Q1, Q2]]]
