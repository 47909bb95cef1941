"""HTTP as it is spoken here, and what hostile peers can do: hold up nobody, and be cut."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from outrelay.lib.observe import http
from outrelay.lib.observe.http import Answer, Desk, Request, serve, text_answer
from outrelay.lib.values import Address
from tests.support.asking import ask, parsed, talk
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.both_loops

GET = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Counting:
    """A desk that says how it was asked, and counts."""

    def __init__(self, size: int = 0) -> None:
        self.asked: list[Request] = []
        self._more = "." * size

    def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        return text_answer(f"{request.path} {dict(request.query)}{self._more}")


@asynccontextmanager
async def serving(desk: Desk) -> AsyncIterator[Address]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    async with serve(sock, desk, name="outrelay/test"):
        yield sock.getsockname()


async def test_a_request_comes_with_what_matters_of_it() -> None:
    desk = Counting()
    async with serving(desk) as address:
        answer = await ask(address, "/a/b?x=1&y=%20&x=2", Accept="text/plain")

    assert (answer.status, answer.text) == (200, "/a/b {'x': '2', 'y': ' '}\n")
    assert answer.headers["Server"] == "outrelay/test"
    assert answer.headers["Cache-Control"] == "no-store"
    (asked,) = desk.asked
    assert (asked.accepted, len(asked.hosts)) == ("text/plain", 1)


async def test_a_connection_may_ask_again_at_once_too() -> None:
    desk = Counting()
    async with serving(desk) as address:
        said = await talk(address, GET + GET + LAST)

    assert said.count(b"HTTP/1.1 200 ") == len(desk.asked) == 3


async def test_head_is_get_without_the_body() -> None:
    async with serving(Counting()) as address:
        answer = await ask(address, "/a", method="HEAD")

    assert (answer.status, answer.text) == (200, "")
    assert answer.headers["Content-Length"] == "6"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_can_be_changed(method: str) -> None:
    desk = Counting()
    async with serving(desk) as address:
        answer = await ask(address, "/a", method=method)

    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert desk.asked == []


async def test_what_comes_with_a_request_is_not_waited_for() -> None:
    body = b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin"
    async with serving(Counting()) as address:
        assert parsed(await talk(address, body)).status == 200


async def test_who_ends_its_direction_gets_its_answer() -> None:
    async with serving(Counting()) as address, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET)
        writer.write_eof()
        assert parsed(await reader.read()).status == 200
        writer.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 70_000, 431),
        (b"GET /" + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000, 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
        (b"GET /?" + b"a&" * 99 + b" HTTP/1.0\r\n\r\n", 400),
    ],
    ids=[
        *("tls", "header", "line", "headers", "no-host", "two-hosts"),
        *("control-byte", "target", "parameters"),
    ],
)
async def test_what_is_no_request_is_refused_without_a_word_in_the_log(
    data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Counting()
    with caplog.at_level(logging.DEBUG):
        async with serving(desk) as address:
            assert parsed(await talk(address, data)).status == status
            assert desk.asked == []
            assert (await ask(address, "/a")).status == 200

    assert not [each for each in caplog.records if each.levelno >= logging.INFO]


async def test_who_does_not_read_is_not_answered_without_end() -> None:
    requests = 3000
    desk = Counting(size=100_000)
    async with serving(desk) as address, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*address, limit=1000)
        writer.write(GET * requests + LAST)
        await reader.readuntil(b"\r\n")
        assert len(desk.asked) < requests // 2
        got = 0
        while data := await reader.read(1 << 20):
            got += len(data)
        assert len(desk.asked) == requests + 1
        assert got > requests * 100_000
        writer.close()


async def test_when_there_are_too_many_connections_the_oldest_gives_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 4)
    async with serving(Counting()) as address, AsyncExitStack() as stack:
        readers = []
        for _ in range(6):
            reader, writer = await asyncio.open_connection(*address)
            stack.callback(writer.close)
            readers.append(reader)
        async with asyncio.timeout(PATIENCE):
            for each in readers[:2]:
                with suppress(ConnectionResetError):
                    assert await each.read() == b""
            assert (await ask(address, "/a")).status == 200


@pytest.mark.parametrize("data", [b"", b"GET /a HTT", GET])
async def test_who_never_finishes_a_request_is_cut_off(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IDLE", 0.1)
    async with serving(Counting()) as address:
        with suppress(ConnectionResetError):
            await talk(address, data)


async def test_a_server_that_is_closed_closes_its_connections() -> None:
    async with serving(Counting()) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET)
        await reader.readuntil(b"/a {}\n")
    async with asyncio.timeout(PATIENCE):
        assert await reader.read() == b""
    writer.close()


async def test_a_server_is_closed_although_somebody_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "FAREWELL", 0.05)
    async with asyncio.timeout(PATIENCE), serving(Counting(size=10_000_000)) as address:
        reader, writer = await asyncio.open_connection(*address, limit=1000)
        writer.write(GET)
        await reader.readuntil(b"\r\n")
    writer.close()
