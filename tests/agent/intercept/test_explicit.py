"""Listening for applications."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import ExitStack

import pytest

from outrelay.agent.intercept import explicit
from outrelay.agent.intercept.explicit import ExplicitListener
from outrelay.agent.options import Consume
from outrelay.lib.errors import ConfigError, Refused
from outrelay.lib.tasks import beside
from tests.agent.tcp import HOST, Backend, connect
from tests.support.events import Events

ANY = Consume(service="db", bind=(HOST, 0))


@pytest.mark.both_loops
async def test_connections_are_handed_over_with_what_they_are_for(seen: Events) -> None:
    listener = ExplicitListener(ANY)
    port = listener.address[1]
    taken: asyncio.Queue[tuple[socket.socket, Consume]] = asyncio.Queue()
    async with beside(listener.run(lambda *each: taken.put_nowait(each)), name="listen"):
        await seen.wait("listening", service="db", address=f"{HOST}:{port}")
        for _ in range(3):
            with await connect(port) as app:
                sock, consume = await taken.get()
                with sock:
                    assert consume is ANY
                    assert not sock.getblocking()
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    assert sock.getpeername() == app.sock.getsockname()
    with pytest.raises(Refused):
        await connect(port)


async def test_applications_that_come_in_floods_leave_others_their_turn() -> None:
    listener = ExplicitListener(ANY)
    taken: list[socket.socket] = []
    with ExitStack() as apps:
        for _ in range(100):
            apps.enter_context(socket.create_connection(listener.address))
        turns = []
        async with beside(listener.run(lambda sock, _: taken.append(sock)), name="listen"):
            while len(taken) < 100:
                turns.append(len(taken))
                await asyncio.sleep(0)
        for sock in taken:
            sock.close()
    assert len(turns) > 50


def test_an_address_in_use_names_flag_and_address() -> None:
    with Backend() as taken:
        port = taken.port
        with pytest.raises(ConfigError) as error:
            ExplicitListener(Consume(service="db", bind=(HOST, port)))
    assert str(error.value) == (
        f"--consume db@{HOST}:{port}: cannot listen on {HOST}:{port}:"
        " Address already in use; stop what uses the address, or choose another one"
    )


def test_an_address_of_somebody_else_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="Cannot assign requested address"):
        ExplicitListener(Consume(service="db", bind=("192.0.2.1", 5432)))


async def test_an_accept_that_fails_is_not_the_last(
    seen: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "gone")]

    async def flaky(sock: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop(0)
        return await accept(sock)

    monkeypatch.setattr(explicit, "PAUSE", 0.0)
    monkeypatch.setattr(loop, "sock_accept", flaky)
    listener = ExplicitListener(ANY)
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    running = loop.create_task(listener.run(lambda sock, _: taken.put_nowait(sock)))
    with socket.create_connection(listener.address):
        (await taken.get()).close()
    running.cancel()
    await asyncio.wait([running])
    line = await seen.wait("no connection accepted")
    assert "ulimit" in str(line["hint"])
