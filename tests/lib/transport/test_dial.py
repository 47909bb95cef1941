"""Racing addresses and endpoints, and the delays between tries."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection
from functools import partial
from typing import NoReturn

import pytest

from outrelay.lib.errors import Refused
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.transport import dial as dialing
from outrelay.lib.transport.carrier import Address, Connection
from outrelay.lib.transport.dial import Attempt, Backoff, dial, in_turn, race, resolve
from outrelay.lib.transport.memory import MemoryConnection, MemoryNetwork
from outrelay.lib.transport.refusal import Cause
from tests.support.virtual_loop import elapsed

AGENT = Identity.parse("outrelay://acme/agent/4a9c3f52-6d0e-4c0b-9a57-0d1f3b7e2c11")
RELAY = Identity.parse("outrelay://local/relay/r1")


class Place:
    """A network with one relay, and attempts of every kind at it."""

    def __init__(self) -> None:
        network = MemoryNetwork()
        self.listener = network.listen(("127.0.0.1", 7443), RELAY)
        self.dialer = network.dialer(AGENT)
        self.made: list[MemoryConnection] = []

    async def connect(self) -> Connection:
        made = await self.dialer.dial(self.listener.address, roles={Role.RELAY})
        self.made.append(made)
        return made

    def after(self, event: asyncio.Event) -> Attempt[Connection]:
        async def attempt() -> Connection:
            await event.wait()
            return await self.connect()

        return attempt

    @property
    def open(self) -> list[MemoryConnection]:
        return [each for each in self.made if not each.ended]


def refused(
    peer: str = "a:1", reason: str = "nobody answered", *, final: bool = False
) -> Attempt[Connection]:
    async def attempt() -> Connection:
        raise Refused(peer, reason, final=final)

    return attempt


async def never() -> Connection:
    await asyncio.Event().wait()
    raise AssertionError


async def test_the_first_to_connect_wins_and_the_others_are_given_up() -> None:
    place = Place()
    tier: list[Attempt[Connection]] = [never, refused(), place.connect]
    assert await race([tier]) is place.made[0]
    assert place.open == place.made


async def test_connections_made_at_the_same_time_are_closed_but_one() -> None:
    place = Place()
    winner = await race([[place.connect, place.connect, place.connect]])
    assert len(place.made) == 3
    assert place.open == [winner]


async def test_a_cancelled_race_leaves_no_connection() -> None:
    place = Place()
    made = asyncio.Event()

    async def connect() -> Connection:
        connection = await place.connect()
        made.set()
        return connection

    async with asyncio.TaskGroup() as group:
        racing = group.create_task(race([[connect, never]]))
        await made.wait()
        racing.cancel()
    assert place.made
    assert place.open == []


async def test_a_race_cancelled_after_it_was_won_leaves_no_connection() -> None:
    place = Place()
    given_up = asyncio.Event()

    async def reluctant() -> Connection:
        try:
            return await never()
        finally:
            given_up.set()
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        racing = group.create_task(race([[place.connect, reluctant]]))
        await given_up.wait()
        racing.cancel()
    assert place.made
    assert place.open == []


async def test_a_later_tier_joins_after_the_head_start() -> None:
    place = Place()
    tiers: list[list[Attempt[Connection]]] = [[never], [place.connect]]
    assert await race(tiers, head_start=0.01) is place.made[0]


@pytest.mark.virtual_time
async def test_the_head_start_is_a_second() -> None:
    place = Place()
    tiers: list[list[Attempt[Connection]]] = [[never], [place.connect]]
    assert await race(tiers) is place.made[0]
    assert elapsed() == 1.0


async def test_a_later_tier_joins_at_once_when_all_before_failed() -> None:
    place = Place()
    tiers: list[list[Attempt[Connection]]] = [[refused()], [place.connect]]
    assert await race(tiers, head_start=3600) is place.made[0]


async def test_an_earlier_tier_may_win_after_a_later_one_failed() -> None:
    place = Place()
    failed = asyncio.Event()

    async def fail() -> Connection:
        failed.set()
        raise Refused("b:2", "no")

    tiers: list[list[Attempt[Connection]]] = [[place.after(failed)], [fail]]
    assert await race(tiers, head_start=0.01) is place.made[0]


async def test_one_refusal_is_raised_as_it_is() -> None:
    with pytest.raises(Refused) as refusal:
        await race([[refused("a:1", "wrong certificate", final=True)]])
    assert str(refusal.value) == "a:1: wrong certificate"
    assert refusal.value.final


@pytest.mark.parametrize(("second_final", "final"), [(True, True), (False, False)])
async def test_several_refusals_are_told_in_one(second_final: bool, final: bool) -> None:
    with pytest.raises(Refused) as refusal:
        await race([[refused("a:1", "x", final=True), refused("b:2", "y", final=second_final)]])
    assert str(refusal.value) == "a:1, b:2: x; y"
    assert refusal.value.final is final


async def test_of_several_refusals_the_first_says_why_and_one_for_good_before_others() -> None:
    async def refuse(cause: Cause, *, final: bool = False) -> Connection:
        raise Refused("a:1", cause, cause=cause, final=final)

    certificate = partial(refuse, Cause.CERTIFICATE, final=True)
    others = [partial(refuse, each) for each in (Cause.TIMEOUT, Cause.NAME)]
    for attempts, cause in ((others, Cause.TIMEOUT), ([*others, certificate], Cause.CERTIFICATE)):
        with pytest.raises(Refused) as refusal:
            await race([attempts], one_peer=True)
        assert refusal.value.cause is cause


async def test_one_peer_and_one_reason_are_told_once() -> None:
    with pytest.raises(Refused, match=r"^a:1, b:2: nobody answered$"):
        await race([[refused("a:1"), refused("b:2"), refused("a:1")]])


class Names:
    """A dialer by host: some connect, some refuse for good, the others never answer."""

    def __init__(self, place: Place, *, connect: str = "", refuse: str = "") -> None:
        self.place, self.connect, self.refuse = place, connect, refuse
        self.asked: list[str] = []

    async def dial(
        self, address: Address, *, roles: Collection[Role], server_name: str = "localhost"
    ) -> Connection:
        assert (roles, server_name) == ({Role.RELAY}, "relay.test")
        self.asked.append(address[0])
        if address[0] == self.connect:
            return await self.place.connect()
        if address[0] == self.refuse:
            raise Refused(f"{address[0]}:{address[1]}", "wrong certificate", final=True)
        return await never()


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(endpoint: Address) -> list[Address]:
        return [("192.0.2.1", endpoint[1]), ("192.0.2.2", endpoint[1])]

    monkeypatch.setattr(dialing, "resolve", resolve)


async def dial_name(dialer: Names, limit: float = 60, stagger: float = 0) -> Connection:
    return await dial(
        dialer,
        ("relay", 7443),
        roles={Role.RELAY},
        server_name="relay.test",
        limit=limit,
        stagger=stagger,
    )


@pytest.mark.usefixtures("two_addresses")
async def test_all_addresses_of_a_name_are_dialled() -> None:
    place = Place()
    dialer = Names(place, connect="192.0.2.2", refuse="192.0.2.1")
    assert await dial_name(dialer) is place.made[0]
    assert dialer.asked == ["192.0.2.1", "192.0.2.2"]


@pytest.mark.usefixtures("two_addresses")
async def test_an_address_that_refuses_for_good_speaks_for_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialing, "FINAL_PATIENCE", 0.01)
    with pytest.raises(Refused) as refusal:
        await dial_name(Names(Place(), refuse="192.0.2.1"))
    assert str(refusal.value) == "192.0.2.1:7443: wrong certificate"
    assert refusal.value.final


@pytest.mark.usefixtures("two_addresses")
async def test_an_address_has_a_limit_to_answer() -> None:
    with pytest.raises(Refused, match=r"no answer within 0\.01 s") as refusal:
        await dial_name(Names(Place()), limit=0.01)
    assert (refusal.value.final, refusal.value.cause) == (False, Cause.TIMEOUT)


@pytest.mark.usefixtures("two_addresses")
async def test_addresses_may_be_dialled_one_after_the_other() -> None:
    place = Place()
    dialer = Names(place, connect="192.0.2.1")
    assert await dial_name(dialer, stagger=3600) is place.made[0]
    assert dialer.asked == ["192.0.2.1"]


@pytest.mark.usefixtures("two_addresses")
async def test_an_address_that_does_not_answer_holds_up_the_next_one_shortly() -> None:
    place = Place()
    dialer = Names(place, connect="192.0.2.2")
    assert await dial_name(dialer, stagger=0.01) is place.made[0]
    assert dialer.asked == ["192.0.2.1", "192.0.2.2"]


def test_families_take_turns() -> None:
    six, four = [("2001:db8::1", 1), ("2001:db8::2", 1), ("2001:db8::3", 1)], [("192.0.2.1", 1)]
    assert in_turn([*six, *four]) == [six[0], four[0], six[1], six[2]]
    assert in_turn([*four, *six]) == [four[0], *six]
    assert in_turn(six) == six


async def test_a_numeric_host_needs_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", never)
    assert await resolve(("::1", 7443)) == [("::1", 7443)]
    assert await resolve(("127.0.0.1", 7443)) == [("127.0.0.1", 7443)]


def without_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(socket.socket):
        def connect_ex(self, _: object) -> int:
            return errno.ENETUNREACH

    monkeypatch.setattr(socket, "socket", Nowhere)


def with_nothing_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> NoReturn:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", nothing)


@pytest.mark.parametrize("lacks", [without_ipv4, with_nothing_of_ipv4])
async def test_an_ipv4_address_is_translated_where_there_is_no_ipv4(
    monkeypatch: pytest.MonkeyPatch, lacks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    lacks(monkeypatch)
    asked: list[object] = []

    async def getaddrinfo(name: str, *_: object, **options: object) -> object:
        asked.append((name, options["family"]))
        return [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("64:ff9b::c000:aa", 0, 0, 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await resolve(("198.51.100.7", 7443)) == [
        ("64:ff9b::c633:6407", 7443),
        ("198.51.100.7", 7443),
    ]
    assert asked == [("ipv4only.arpa", socket.AF_INET6)]


async def test_where_nothing_translates_an_address_stays_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_ipv4(monkeypatch)

    def fail() -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolving(fail))
    assert await resolve(("198.51.100.7", 7443)) == [("198.51.100.7", 7443)]


def resolving(answer: Callable[[], object]) -> Callable[..., object]:
    async def getaddrinfo(*_: object, **__: object) -> object:
        return answer()

    return getaddrinfo


async def test_a_name_has_each_of_its_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("2001:db8::1", 7443, 0, 0)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 7443)),
        (socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.1", 7443)),
    ]
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", resolving(lambda: found))
    assert await resolve(("relay.test", 7443)) == [("2001:db8::1", 7443), ("192.0.2.1", 7443)]


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
async def test_a_name_without_address_may_have_one_later(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> NoReturn:
        raise error

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", resolving(fail))
    with pytest.raises(Refused, match="the name has no address: ") as refusal:
        await resolve(("relay.test", 7443))
    assert (refusal.value.final, refusal.value.cause) == (False, Cause.NAME)


def most(_: float, bound: float) -> float:
    return bound


def test_delays_double_up_to_what_is_allowed() -> None:
    backoff = Backoff(uniform=most)
    assert [backoff.delay(0.5) for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert [backoff.delay(3) for _ in range(3)] == [1.0, 2.0, 3.0]
    assert backoff.delay(0.5) == 0.5
    backoff.reset()
    assert backoff.delay(30) == 0.1


def test_the_first_retry_may_be_immediate() -> None:
    backoff = Backoff(immediate=True, uniform=most)
    assert [backoff.delay(30) for _ in range(3)] == [0.0, 0.1, 0.2]
    backoff.reset()
    assert backoff.delay(30) == 0.0


def test_delays_are_drawn_from_the_whole_range() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    assert Backoff(uniform=uniform).delay(30) == 0.0
    assert asked == [(0.0, 0.1)]
