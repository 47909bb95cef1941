"""The listener's bounds: strangers, their sources, files, and connections nobody accepts."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from operator import sub

import pytest

from outrelay.lib.errors import ConfigError, Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.refusal import Cause, Refusal
from outrelay.lib.transport.tcp import connections, opening
from outrelay.lib.transport.tcp import listener as listening
from outrelay.lib.transport.tcp.listener import TcpListener
from outrelay.lib.transport.tcp.tls import TlsContext
from tests.lib.transport.carriers import LOOPBACK, PKI, join
from tests.lib.transport.grounds import TcpGround
from tests.support.hostile_tcp import client_hello
from tests.support.turns import until
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def ground(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TcpGround]:
    monkeypatch.setattr(opening, "LINGER", 0.2)
    async with AsyncExitStack() as stack:
        yield TcpGround(stack)


class Strangers:
    """Connections that say nothing unless told to."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    def come(self, address: Address, count: int = 1) -> list[socket.socket]:
        made = [socket.create_connection(address) for _ in range(count)]
        for sock in made:
            self._stack.enter_context(sock)
        return made


@pytest.fixture
async def strangers() -> AsyncIterator[Strangers]:
    async with AsyncExitStack() as stack:
        yield Strangers(stack)


async def test_an_address_in_use_is_the_operators_to_change(ground: TcpGround) -> None:
    first = await ground.listen()
    port = first.address[1]
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} \(TCP\): .*in use"):
        await TcpListener.bind(first.address, credentials=PKI.relay(), trust=PKI.trust)
    await first.close()
    again = await TcpListener.bind(first.address, credentials=PKI.relay(), trust=PKI.trust)
    assert again.address == first.address
    await again.close()
    await again.close()


async def test_when_all_places_are_taken_who_comes_waits(
    ground: TcpGround, strangers: Strangers
) -> None:
    listener = await ground.listen(handshakes_max=3)
    waiting = strangers.come(listener.address, 4)  # all in the kernel's queue before we look
    await until(lambda: ground.under_way(listener) > 0)
    assert ground.under_way(listener) == 3
    for sock in waiting:
        sock.close()
    await ground.check_serves(listener)


async def test_a_source_has_its_share_and_no_more(ground: TcpGround, strangers: Strangers) -> None:
    listener = await ground.listen(source_handshakes=2)
    silent = strangers.come(listener.address, 5)
    await ground.until_refused(3)
    assert {each.cause for each in ground.refusals} == {Cause.SOURCE_LIMIT}
    assert ground.under_way(listener) == 2
    for sock in silent:
        sock.close()
    await ground.until_forgotten(listener, but=0)
    await ground.check_serves(listener)


@pytest.mark.virtual_time
@pytest.mark.parametrize("rest", [0.25, 3600.0], ids=["drips", "falls silent"])
async def test_a_stranger_has_ten_seconds_whatever_it_says(
    strangers: Strangers, rest: float
) -> None:
    refused: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
    listener = await TcpListener.bind(
        LOOPBACK, credentials=PKI.relay(), trust=PKI.trust, on_refused=refused.set_result
    )
    [sock] = strangers.come(listener.address)

    async def drip() -> None:
        for byte in client_hello():
            sock.send(bytes([byte]))
            await asyncio.sleep(rest)

    async with beside(drip(), name="drip"):
        assert (await refused).cause is Cause.TIMEOUT
    assert elapsed() == 10.0
    await listener.close()


async def test_without_files_nobody_is_accepted_for_a_while(
    ground: TcpGround, strangers: Strangers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "REST", 0.05)
    listener = await ground.listen()
    tries: list[float] = []
    accept = listener._socket.accept

    class Counted:
        fileno = listener._socket.fileno
        close = listener._socket.close

        def accept(self) -> tuple[socket.socket, Address]:
            tries.append(listener._loop.time())
            return accept()

    listener._loop.remove_reader(listener._socket)
    listener._socket = Counted()  # type: ignore[assignment]
    listener._resume()
    sock = socket.socket()
    sock.setblocking(False)
    with sock, exhausted():
        sock.connect_ex(listener.address)
        while len(tries) < 4:  # noqa: ASYNC110 - nothing tells of a try
            await asyncio.sleep(0.01)
        assert all(rest > 0.04 for rest in map(sub, tries[1:], tries))  # no busy loop
        assert ground.under_way(listener) == 0
    await ground.check_serves(listener)


class exhausted:  # noqa: N801 - reads as a statement
    """A process that may open no more files."""

    def __enter__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as free:
            lowest = free.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


async def test_a_client_that_does_not_take_part_is_not_accepted(
    ground: TcpGround, strangers: Strangers
) -> None:
    listener = await ground.listen()
    [sock] = strangers.come(listener.address)
    context = TlsContext(credentials=PKI.agent(), trust=PKI.trust, server=False)
    layer = context.layer({Role.RELAY})
    while not layer.advance():
        sock.sendall(layer.take())
        layer.receive(await asyncio.to_thread(sock.recv, 1 << 16))
    ground.allow(listener, 0)
    sock.sendall(layer.take())  # verified, and silent from now on
    await ground.until_refused()
    assert ground.refusals[0].cause is Cause.TIMEOUT
    assert not listener._accepted
    await ground.until_forgotten(listener, but=0)


async def test_a_listener_that_closes_drops_strangers_at_once(
    ground: TcpGround, strangers: Strangers
) -> None:
    listener = await ground.listen()
    [silent] = strangers.come(listener.address)
    await until(lambda: ground.under_way(listener) == 1)
    await listener.close()
    assert await asyncio.to_thread(silent.recv, 1) == b""
    assert ground.under_way(listener) == 0
    assert ground.refusals == []


async def test_a_peer_that_does_not_leave_does_not_hold_up_the_close(
    ground: TcpGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FAREWELL", 0.05)
    pair = await join(listener := await ground.listen(), dialer := await ground.dialer())
    near = dialer._loop
    link = pair.near._link  # type: ignore[attr-defined]
    near.remove_reader(link._socket)  # it hears of nothing
    await listener.close()
    assert ground.under_way(listener) == 0


async def test_a_dialler_refused_for_its_role_hears_it(ground: TcpGround) -> None:
    listener = await ground.listen()
    dialer = await ground.dialer(PKI.operator())
    with pytest.raises(Refused, match="expected the role agent or relay") as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert refusal.value.final
