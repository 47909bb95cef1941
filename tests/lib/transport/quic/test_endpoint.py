"""The QUIC shell's own promises; the carrier's are in the contract suite."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from outrelay.lib.errors import Closed, ConfigError, Refused
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.quic import QuicEndpoint, endpoint
from outrelay.lib.transport.quic.endpoint import PING_IDLE
from outrelay.lib.transport.quic.engine import EngineOptions, Transmit
from outrelay.lib.transport.quic.udp import UdpSocket
from tests.lib.transport.carriers import LOOPBACK, PKI, Pair, join
from tests.lib.transport.streams import round_trips
from tests.support.hostile_quic import raw_client
from tests.support.impair import UdpPort
from tests.support.leap import leap
from tests.support.native import needs_native

RELAY = PKI.relay()


class Ends:
    """Endpoints that a test binds, closed when it ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.made: list[QuicEndpoint] = []
        self._stack = stack

    async def bind(self, credentials: Credentials = RELAY) -> QuicEndpoint:
        options = EngineOptions(
            credentials=credentials,
            trust=PKI.trust,
            accept_roles=frozenset({Role.AGENT, Role.RELAY}),
        )
        made = await QuicEndpoint.bind(
            LOOPBACK, credentials=credentials, trust=PKI.trust, options=options
        )
        self.made.append(made)
        self._stack.push_async_callback(made.close)
        return made

    async def pair(self) -> Pair:
        return await join(await self.bind(), await self.bind(PKI.agent()))


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async with AsyncExitStack() as stack:
        yield Ends(stack)


async def test_an_address_in_use_is_the_operators_to_change(ends: Ends) -> None:
    first = await ends.bind()
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{first.address[1]} \(UDP\): .*in use"):
        await QuicEndpoint.bind(first.address, credentials=RELAY, trust=PKI.trust)
    await first.close()
    again = await QuicEndpoint.bind(first.address, credentials=RELAY, trust=PKI.trust)
    assert again.address == first.address
    await again.close()


async def test_one_socket_dials_and_listens(ends: Ends) -> None:
    one, other = await ends.bind(), await ends.bind()
    there, back = await join(one, other), await join(other, one)
    assert there.far.peer_address == other.address
    assert back.far.peer_address == one.address
    await round_trips(await there.stream())
    await round_trips(await back.stream())


async def test_a_closed_endpoint_dials_nobody(ends: Ends) -> None:
    dialer = await ends.bind()
    silent = UdpPort(LOOPBACK, lambda data, sender: None)
    try:
        async with asyncio.TaskGroup() as group:
            dialling = group.create_task(dialling_closed(dialer, silent), name="dial")
            await asyncio.sleep(0)
            await dialer.close()
        assert dialling.done()
        await dialling_closed(dialer, silent)
    finally:
        silent.close()


async def dialling_closed(dialer: QuicEndpoint, to: UdpPort) -> None:
    with pytest.raises((Closed, Refused)):
        await dialer.dial(to.address, roles={Role.RELAY})


async def test_a_dial_cancelled_as_it_succeeds_leaves_no_connection(ends: Ends) -> None:
    listener, dialer = await ends.bind(), await ends.bind(PKI.agent())
    async with asyncio.TaskGroup() as group:
        dialling = group.create_task(dialer.dial(listener.address, roles={Role.RELAY}), name="d")
        far = await listener.accept()
        dialling.cancel()
        await asyncio.wait([dialling])
        if not dialling.cancelled():  # it had returned before
            dialling.result().close()
    assert (await far.wait_closed()).by_peer


@pytest.mark.parametrize("streams", [0, 2])
async def test_an_idle_connection_is_kept_alive(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, streams: int
) -> None:
    monkeypatch.setattr(endpoint, "TICK", 0.02)
    pair = await ends.pair()
    listener, dialer = ends.made
    for _ in range(streams):
        await pair.stream()
    pings = asyncio.Queue[int]()
    monkeypatch.setattr(dialer._engine, "ping", lambda _: pings.put_nowait(dialer._ticks))
    monkeypatch.setattr(listener._engine, "ping", lambda _: pytest.fail("it did not dial"))
    ticks = [await pings.get() for _ in range(4)]
    assert {later - tick for tick, later in pairwise(ticks)} == {1 if streams else PING_IDLE}


async def test_the_listener_does_not_keep_a_silent_dialler(ends: Ends) -> None:
    listener = await ends.bind()
    async with raw_client(listener.address, credentials=PKI.agent()):
        connection = await listener.accept()
        leap(11)
        closed = await connection.wait_closed()
    assert closed.lost
    assert not closed.by_peer


async def test_a_socket_that_takes_nothing_does_not_hold_up_the_end(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await ends.pair()
    dialer = next(each for each in ends.made if each.address == pair.near.local_address)
    monkeypatch.setattr(dialer._socket, "send", lambda transmit: False)
    pair.near.close()
    async with asyncio.timeout(5):
        await dialer.close()
        assert not (await pair.near.wait_closed()).by_peer


async def test_a_transfer_survives_a_socket_that_blocks_now_and_then(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await ends.pair()
    dialer = next(each for each in ends.made if each.address == pair.near.local_address)
    send, turn = dialer._socket.send, [0]

    def blocking_every_third(transmit: object) -> bool:
        turn[0] += 1
        return bool(turn[0] % 3) and send(transmit)  # type: ignore[arg-type]

    monkeypatch.setattr(dialer._socket, "send", blocking_every_third)
    await round_trips(await pair.stream(), count=50)
    assert turn[0] > 50


# --- whoever is said to be gone ----------------------------------------------------------


def kill(listener: QuicEndpoint) -> None:
    """As a process that is killed: its socket is gone, and no word of it."""
    listener._loop.remove_reader(listener._socket.fileno())
    listener._socket.close()
    listener._closed = True


@pytest.mark.both_loops
async def test_a_dial_to_where_nobody_listens_is_refused_at_once(ends: Ends) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(LOOPBACK)
        address = nobody.getsockname()
    listener, dialer = await ends.bind(), await ends.bind(PKI.agent())
    for _ in range(3):
        with pytest.raises(Refused, match="nobody listens there") as refusal:
            await dialer.dial(address, roles={Role.RELAY})
        assert not refusal.value.final
        assert not dialer._dials
        await round_trips(await (await join(listener, dialer)).stream())


@pytest.mark.both_loops
async def test_a_dial_beside_one_to_where_nobody_listens_succeeds(ends: Ends) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(LOOPBACK)
        address = nobody.getsockname()
    listener, dialer = await ends.bind(), await ends.bind(PKI.agent())
    async with asyncio.TaskGroup() as group:
        dials = dialer.dial(address, roles={Role.RELAY})
        refused = group.create_task(resulting(dials), name="nobody")
        pair = await join(listener, dialer)
    assert isinstance(refused.result(), Refused)
    await round_trips(await pair.stream())


async def resulting(work: Awaitable[object]) -> object:
    """What comes out of it, if only the reason why nothing does."""
    try:
        return await work
    except Refused as refused:
        return refused


@pytest.mark.both_loops
async def test_a_peer_that_was_killed_is_missed_at_the_next_packet(ends: Ends) -> None:
    pair = await ends.pair()
    near, _ = await pair.stream()
    kill(ends.made[0])
    await near.write(b"anybody there?")
    closed = await pair.near.wait_closed()
    assert closed.lost
    assert closed.reason == "nobody listens there any more"
    with pytest.raises(Closed, match="nobody listens"):
        await near.read()
    await round_trips(await (await join(await ends.bind(), ends.made[1])).stream())


@pytest.mark.both_loops
async def test_a_datagram_that_the_interface_does_not_take_ends_no_reading(ends: Ends) -> None:
    """The kernel tells of it where it tells of ICMP, though no call will fail for it again."""
    listener, dialer = await ends.bind(), await ends.bind(PKI.agent())
    pair = await join(listener, dialer)
    for _ in range(3):
        dialer._socket.send(Transmit(listener.address, [bytes(65_520)], 65_520))
        await round_trips(await pair.stream())


@pytest.mark.both_loops
async def test_a_forged_word_that_nobody_is_there_changes_nothing(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, dialer = await ends.bind(), await ends.bind(PKI.agent())
    pair = await join(listener, dialer)
    asked: list[int] = []
    ping = dialer._engine.ping

    def noted(number: int) -> None:
        asked.append(number)
        ping(number)

    monkeypatch.setattr(dialer._engine, "ping", noted)
    dialer._unheard(listener.address)
    dialer._flush_soon()
    assert asked == list(dialer._connections)  # at once: an idle peer says nothing by itself
    assert listener.address in dialer._doubts
    await round_trips(await pair.stream())
    assert not dialer._doubts
    listener._unheard(dialer.address)  # whoever only listens asks nobody
    assert not listener._doubts


@needs_native
async def test_what_is_marked_arrives_so_and_the_peer_says_so(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sender would take the path for one that bleaches, and stop marking."""
    pair = await ends.pair()
    codepoints: list[int] = []
    send = UdpSocket.send

    def record(sock: UdpSocket, transmit: Transmit) -> bool:
        codepoints.append(transmit.ecn)
        return send(sock, transmit)

    monkeypatch.setattr(UdpSocket, "send", record)
    for _ in range(3):
        await round_trips(await pair.stream())

    assert set(codepoints) == {2}
