"""Dialling over TCP: what is met instead of a relay, dials given up, and proxies."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing

import pytest

from outrelay.lib.errors import ErrorCode, Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.dial import dial
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.tcp import dialer as dialling
from outrelay.lib.transport.tcp import opening
from outrelay.lib.transport.tcp.dialer import TcpDialer, Tunnel
from outrelay.lib.transport.tcp.proxy import Proxy, parse_proxy
from tests.lib.transport.carriers import LOOPBACK, PKI, join
from tests.lib.transport.grounds import HURRIED, TcpGround
from tests.lib.transport.streams import cancel, round_trips
from tests.support.hostile_tcp import answering, raw_server
from tests.support.http_proxy import HttpProxy
from tests.support.serving import serving, splice
from tests.support.turns import until
from tests.support.virtual_loop import elapsed

pytestmark = pytest.mark.both_loops


@pytest.fixture
async def ground(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TcpGround]:
    monkeypatch.setattr(opening, "LINGER", 0.2)
    async with AsyncExitStack() as stack:
        yield TcpGround(stack)


# --- no relay ------------------------------------------------------------------------------

ANSWERS: dict[str, bytes | None] = {
    "nothing": b"",
    "noise": bytes(range(1, 200)),
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "an end": None,
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("at_once", [False, True], ids=["asked", "unasked"])
async def test_a_dial_that_meets_no_relay_is_refused(
    ground: TcpGround, answer: str, *, at_once: bool
) -> None:
    dialer = await ground.dialer(timeout=HURRIED)
    async with answering(ANSWERS[answer], at_once=at_once) as address:
        with pytest.raises(Refused) as refusal:
            await dialer.dial(address, roles={Role.RELAY})
    assert refusal.value.reason
    assert not refusal.value.final
    await ground.until_forgotten(dialer, but=0)
    await ground.check_dials(dialer)


async def test_a_relay_that_lets_us_in_and_then_leaves_is_none(ground: TcpGround) -> None:
    """So does one that judges our certificate late, and says nothing about it."""
    dialer = await ground.dialer()
    async with raw_server(PKI.relay(), PKI.trust, leaves=True) as server:
        with pytest.raises(Refused) as refusal:
            await dialer.dial(server.address, roles={Role.RELAY})
    assert "closed by peer" in refusal.value.reason
    assert (refusal.value.final, refusal.value.cause) == (False, Cause.PEER)


async def test_nobody_listens(ground: TcpGround) -> None:
    dialer = await ground.dialer()
    with closing(socket.socket()) as free:
        free.bind(LOOPBACK)
        address: Address = free.getsockname()
        with pytest.raises(Refused) as refusal:
            await dialer.dial(address, roles={Role.RELAY})
    assert str(refusal.value) == f"127.0.0.1:{address[1]}: Connection refused"
    assert refusal.value.cause is Cause.UNREACHABLE


@pytest.mark.virtual_time
async def test_who_does_not_answer_has_ten_seconds() -> None:
    dialer = TcpDialer(credentials=PKI.agent(), trust=PKI.trust)
    with socket.create_server(LOOPBACK) as silent:
        assert "not over in time" in await refused(dialer, silent.getsockname())
    assert elapsed() == 10.0
    await dialer.close()


async def test_a_closed_dialler_dials_nobody(ground: TcpGround) -> None:
    dialer = await ground.dialer()
    with socket.create_server(LOOPBACK) as silent:
        async with asyncio.TaskGroup() as group:
            dialling = group.create_task(refused(dialer, silent.getsockname()))
            await asyncio.sleep(0)
            await dialer.close()
        assert "the dialler is closed" in dialling.result()
        assert "the dialler is closed" in await refused(dialer, silent.getsockname())


async def refused(dialer: TcpDialer, address: Address) -> str:
    with pytest.raises(Refused) as refusal:
        await dialer.dial(address, roles={Role.RELAY})
    return refusal.value.reason


async def test_no_socket_is_to_be_had(ground: TcpGround, monkeypatch: pytest.MonkeyPatch) -> None:
    dialer = await ground.dialer()

    def no_socket(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", no_socket)
        assert await refused(dialer, ("127.0.0.1", 1)) == "Too many open files"


# --- given up ------------------------------------------------------------------------------


async def test_a_handshake_that_was_begun_is_finished_when_nobody_waits(
    ground: TcpGround,
) -> None:
    listener, dialer = await ground.listen(), await ground.dialer()
    accepted, go_on = asyncio.Event(), asyncio.Event()

    async def hold(sock: socket.socket) -> None:
        accepted.set()
        await go_on.wait()
        with socket.create_connection(listener.address) as far:
            far.setblocking(False)
            await splice(sock, far)

    async with serving(hold) as address, asyncio.TaskGroup() as group:
        dialling = group.create_task(dialer.dial(address, roles={Role.RELAY}))
        await accepted.wait()
        await cancel(dialling)
        assert ground.under_way(dialer) == 1
        go_on.set()
        await ground.until_forgotten(dialer, but=0)
        await ground.until_forgotten(listener, but=0)
    assert ground.refusals == []  # it was finished, and closed with a word


async def test_a_handshake_that_was_begun_is_finished_before_the_dialler_is_closed(
    ground: TcpGround,
) -> None:
    listener, dialer = await ground.listen(), await ground.dialer()
    go_on = asyncio.Event()

    async def hold(sock: socket.socket) -> None:
        await go_on.wait()
        with socket.create_connection(listener.address) as far:
            far.setblocking(False)
            await splice(sock, far)

    async with serving(hold) as address, asyncio.TaskGroup() as group:
        waiting = group.create_task(refused(dialer, address))
        await until(lambda: any(each.has_begun for each in dialer._openings))
        ending = group.create_task(dialer.close())
        assert await waiting == "the dialler is closed"
        go_on.set()
        await ending
        await ground.until_forgotten(listener, but=0)
    assert ground.refusals == []


async def test_a_handshake_that_does_not_end_does_not_hold_up_the_close(
    ground: TcpGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "FAREWELL", 0.05)
    dialer = await ground.dialer()
    with socket.create_server(LOOPBACK) as silent:
        async with asyncio.TaskGroup() as group:
            group.create_task(refused(dialer, silent.getsockname()))
            await until(lambda: any(each.has_begun for each in dialer._openings))
            await dialer.close()
        assert ground.under_way(dialer) == 0


async def test_a_dial_cancelled_at_any_moment_leaves_nothing(ground: TcpGround) -> None:
    listener, dialer = await ground.listen(), await ground.dialer()
    for turns in range(12):
        async with asyncio.TaskGroup() as group:
            dialling = group.create_task(dialer.dial(listener.address, roles={Role.RELAY}))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            dialling.cancel()
            await asyncio.wait([dialling])
        if not dialling.cancelled():
            dialling.result().close()
    await ground.until_forgotten(dialer, but=0)
    await ground.until_forgotten(listener, but=0)
    assert ground.refusals == []


async def test_a_dialler_that_closes_says_goodbye(ground: TcpGround) -> None:
    listener, dialer = await ground.listen(), await ground.dialer()
    pair = await join(listener, dialer)
    await dialer.close()
    closed = await pair.far.wait_closed()
    assert (closed.code, closed.by_peer) == (ErrorCode.NONE, True)
    assert ground.under_way(dialer) == 0


# --- proxies -------------------------------------------------------------------------------


def tunnel(dialer: TcpDialer, url: str, target: Address) -> tuple[Tunnel, Proxy]:
    proxy = parse_proxy(url)
    return Tunnel(dialer, proxy, target), proxy


@pytest.mark.parametrize("user", ["", "ann:p%40ss@"])
async def test_a_relay_behind_a_proxy_is_reached(ground: TcpGround, user: str) -> None:
    listener, dialer = await ground.listen(), await ground.dialer()
    authorization = "Basic YW5uOnBAc3M=" if user else ""
    names = {"relay.test:443": listener.address}
    async with HttpProxy(authorization=authorization, names=names) as proxy:
        url = f"http://{user}127.0.0.1:{proxy.address[1]}"
        way, found = tunnel(dialer, url, ("relay.test", 443))
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(listener.accept())
            dialling = group.create_task(
                dial(way, found.address, roles={Role.RELAY}, server_name="localhost", limit=5)
            )
        near, far = dialling.result(), accepting.result()
        stream = await near.open_stream()
        await stream.write(b"?")
        other = await far.accept_stream()
        await other.read()
        await round_trips((stream, other), count=3)
        assert proxy.asked == ["relay.test:443"]
        near.close()
        await far.wait_closed()


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        (HttpProxy(authorization="Basic x"), "it wants a user and a password in its URL"),
        (HttpProxy(refuses="403 Forbidden"), "it does not allow connections to relay.test:443"),
        (HttpProxy(names={"relay.test:443": ("127.0.0.1", 1)}), "the connection was closed"),
    ],
    ids=["407", "403", "nobody there"],
)
async def test_a_proxy_that_leads_nowhere(ground: TcpGround, proxy: HttpProxy, reason: str) -> None:
    dialer = await ground.dialer()
    async with proxy:
        port = proxy.address[1]
        way, found = tunnel(dialer, f"http://127.0.0.1:{port}", ("relay.test", 443))
        with pytest.raises(Refused) as refusal:
            await way.dial(found.address, roles={Role.RELAY})
    assert refusal.value.peer == f"relay.test:443 through the proxy 127.0.0.1:{port}"
    assert reason in refusal.value.reason
    assert (refusal.value.final, refusal.value.cause) == (False, Cause.PROXY)
