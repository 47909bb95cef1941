"""TCP sockets of applications and backends."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from outrelay.agent.sockets import abort, address_of, connect, fault, listen
from tests.agent.tcp import HOST, Backend, free_port


@pytest.mark.both_loops
async def test_a_name_is_tried_at_all_of_its_addresses() -> None:
    with Backend() as backend:  # on IPv4 alone; localhost may be IPv6 first
        sock = await connect(("localhost", backend.port))
        with sock, await backend.accept() as served:
            assert sock.getpeername() == (HOST, backend.port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await served.send(b"x")


@pytest.mark.both_loops
async def test_nobody_listens() -> None:
    with pytest.raises(ConnectionRefusedError) as error:
        await connect((HOST, free_port()))
    assert fault(error.value) == "Connection refused"


async def test_a_name_without_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: object, **__: object) -> list[object]:
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", none)
    with pytest.raises(OSError, match="the name has no address") as error:
        await connect(("nowhere", 1))
    assert fault(error.value) == "the name has no address"


@pytest.mark.both_loops
async def test_a_cancelled_connect_leaves_no_socket() -> None:
    with socket.socket() as full, socket.socket() as waiting:
        full.bind((HOST, 0))
        full.listen(0)
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await connect(full.getsockname())


def test_faults_are_told_without_addresses() -> None:
    refused = OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 5432)")
    assert fault(refused) == "Connection refused"
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert fault(unknown) == "Name or service not known"


def test_an_abort_may_come_twice() -> None:
    with listen((HOST, 0)) as sock:
        assert address_of(sock)[0] == HOST
        abort(sock)
        abort(sock)


def test_a_listener_that_fails_leaves_no_socket() -> None:
    with Backend() as taken, pytest.raises(OSError, match="in use"):
        listen((HOST, taken.port))
