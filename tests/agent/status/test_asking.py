"""What is made of what answers where an agent should."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from outrelay.agent.status import asking
from outrelay.agent.status.asking import status_at
from outrelay.lib.errors import Refused
from outrelay.lib.values import Address
from tests.support.ports import unused_port

HOST = "127.0.0.1"


@asynccontextmanager
async def answering(text: str) -> AsyncIterator[Address]:
    """A listener that answers every request so."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode())
        writer.close()

    async with await asyncio.start_server(serve, HOST, 0) as server:
        yield server.sockets[0].getsockname()[:2]


def ok(body: str) -> str:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"


async def asked(address: Address) -> asking.Status:
    ask: Callable[[Address], asking.Status] = status_at
    return await asyncio.to_thread(ask, address)


@pytest.mark.parametrize("where", [HOST, "0.0.0.0"])
async def test_an_agent_tells_its_status(where: str) -> None:
    async with answering(ok('{"component": "agent", "pid": 7}')) as (_, port):
        assert (await asked((where, port)))["pid"] == 7


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ok('{"component": "relay"}'), "no agent but a relay"),
        (ok("[1]"), "something else"),
        (ok("hello"), "something else"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "something else"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "is no agent"),
    ],
)
async def test_who_is_no_agent_is_told(text: str, what: str) -> None:
    async with answering(text) as address:
        with pytest.raises(Refused, match=what) as refused:
            await asked(address)
    assert "--debug-listen" in refused.value.reason


def test_nobody_is_told_with_what_to_do() -> None:
    with pytest.raises(Refused, match=r"refused\); check that the agent runs"):
        status_at((HOST, unused_port()))
    with pytest.raises(Refused, match="nobody answers"):
        status_at(("no-such-name.invalid", 9102))


async def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LIMIT", 0.1)

    async def silent(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, HOST, 0) as server:
        with pytest.raises(Refused, match="timed out"):
            await asked(server.sockets[0].getsockname()[:2])
