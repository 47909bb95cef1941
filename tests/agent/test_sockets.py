"""TCP sockets of applications and backends."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from outrelay.agent import sockets
from outrelay.agent.sockets import abort, address_of, connect, fault, listen
from outrelay.lib.values import Address
from tests.agent.tcp import HOST, Backend, free_port


@pytest.mark.both_loops
async def test_a_name_is_tried_at_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(endpoint: Address) -> list[Address]:
        return [(HOST, free), (HOST, endpoint[1]), (HOST, free)]

    free = free_port()
    monkeypatch.setattr(sockets, "resolve", two)
    with Backend() as backend:
        sock = await connect(("db.internal", backend.port))
        with sock, await backend.accept() as served:
            assert sock.getpeername() == (HOST, backend.port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await served.send(b"x")


@pytest.mark.both_loops
async def test_nobody_listens() -> None:
    with pytest.raises(ConnectionRefusedError) as error:
        await connect((HOST, free_port()))
    assert fault(error.value) == "Connection refused"


@pytest.mark.both_loops
async def test_no_address_of_a_name_answers() -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect(("localhost", free_port()))


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
    assert fault(OSError("something else")) == "something else"


def test_an_abort_may_come_twice() -> None:
    with listen((HOST, 0)) as sock:
        assert address_of(sock)[0] == HOST
        abort(sock)
        abort(sock)


def test_a_listener_that_fails_leaves_no_socket() -> None:
    with Backend() as taken, pytest.raises(OSError, match="in use"):
        listen((HOST, taken.port))
