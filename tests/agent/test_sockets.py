"""TCP sockets of applications and backends."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from outrelay.agent import sockets
from outrelay.agent.sockets import abort, address_of, close, connect, fault, listen
from outrelay.lib.errors import Refused
from outrelay.lib.values import Address
from tests.agent.tcp import HOST, Backend
from tests.support.ports import unused_port


@pytest.mark.both_loops
async def test_a_name_is_tried_at_all_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(endpoint: Address) -> list[Address]:
        return [(HOST, free), (HOST, endpoint[1]), (HOST, free)]

    free = unused_port()
    monkeypatch.setattr(sockets, "resolve", two)
    with Backend() as backend:
        sock = await connect(("db.internal", backend.port))
        with sock, await backend.accept() as served:
            assert sock.getpeername() == (HOST, backend.port)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await served.send(b"x")


async def test_a_connection_within_this_machine_waits_for_nothing() -> None:
    with Backend() as backend:
        connecting = sockets._connect((HOST, backend.port))
        with pytest.raises(StopIteration) as done:
            connecting.send(None)
        with done.value.value as sock, await backend.accept():
            assert sock.getpeername() == (HOST, backend.port)


@pytest.mark.both_loops
async def test_nobody_listens() -> None:
    with pytest.raises(Refused) as error:
        await connect((HOST, unused_port()))
    assert error.value.reason == "Connection refused"


@pytest.mark.both_loops
async def test_no_address_of_a_name_answers() -> None:
    with pytest.raises(Refused, match="Connection refused"):
        await connect(("localhost", unused_port()))


@pytest.mark.both_loops
async def test_a_cancelled_connect_leaves_no_socket() -> None:
    with silent() as address, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await connect(address)


@pytest.mark.both_loops
async def test_an_address_that_is_silent_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def two(endpoint: Address) -> list[Address]:
        return [address, endpoint]

    monkeypatch.setattr(sockets, "resolve", two)
    monkeypatch.setattr(sockets, "HEAD_START", 0.01)
    with silent() as address, Backend() as backend:
        sock = await connect((HOST, backend.port))
        with sock, await backend.accept():
            assert sock.getpeername() == (HOST, backend.port)


@contextmanager
def silent() -> Iterator[Address]:
    """An address that takes no connection and does not say so."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind((HOST, 0))
        full.listen(0)
        for each in (first, second):  # the backlog of 0 holds one connection
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()


def test_faults_are_told_without_addresses() -> None:
    refused = OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 5432)")
    assert fault(refused) == "Connection refused"
    assert fault(OSError("something else")) == "something else"


@pytest.mark.both_loops
async def test_only_what_is_closed_on_purpose_ends_in_order() -> None:
    with Backend() as backend:
        sock = await connect((HOST, backend.port))
        with await backend.accept() as served:
            close(sock)
            assert await served.read_all() == b""
        sock = await connect((HOST, backend.port))
        with await backend.accept() as served:
            sock.close()  # which is what the system does when a process is killed
            assert await served.until_reset() == b""


def test_an_abort_may_come_twice() -> None:
    with listen((HOST, 0)) as sock:
        assert address_of(sock)[0] == HOST
        abort(sock)
        abort(sock)


def test_a_listener_that_fails_leaves_no_socket() -> None:
    with Backend() as taken, pytest.raises(OSError, match="in use"):
        listen((HOST, taken.port))
