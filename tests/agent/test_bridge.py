"""The bridge: ends, resets and back-pressure, through a whole agent."""

from __future__ import annotations

import asyncio
import hashlib
import select
from collections.abc import Callable

import pytest

from outrelay.agent.bridge import Bridge, Counts
from outrelay.agent.watch import AbortWatch
from outrelay.lib.errors import ErrorCode, Reset
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import WRITE_BUFFER, Stream
from outrelay.lib.transport.memory import MemoryNetwork
from outrelay.lib.transport.pipe import WINDOW
from tests.agent.place import AGENT, RELAY, SERVICE, Place
from tests.agent.tcp import Backend, Tcp, connect
from tests.support.relay_peer import Opened, read_all, read_exactly, reset_code
from tests.support.turns import everybody_waits

pytestmark = pytest.mark.both_loops

MIB = 1 << 20


async def flood(app: Tcp) -> int:
    """Write until no more is taken for a while; how much was."""
    sent = 0
    loop = asyncio.get_running_loop()
    while True:
        try:
            async with asyncio.timeout(0.3):
                await loop.sock_sendall(app.sock, bytes(65536))
        except TimeoutError:
            return sent
        sent += 65536


async def test_the_application_may_end_first(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            app.end()
            assert await read_all(opened.stream) == b""
            for part in (b"one", b"two"):
                await opened.stream.write(part)
                assert await app.read(3) == part
            opened.stream.finish()
            assert await app.read_all() == b""
        await place.seen.wait("stream ended", reason="finished", bytes_up=0, bytes_down=6)


async def test_the_far_end_may_end_first(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            opened.stream.finish()
            assert await app.read_all() == b""
            for part in (b"one", b"two"):
                await app.send(part)
                assert await read_exactly(opened.stream, 3) == part
            app.end()
            assert await read_all(opened.stream) == b""
        await place.seen.wait("stream ended", reason="finished", bytes_up=6, bytes_down=0)


async def test_an_applications_reset_resets_and_stops_the_stream(place: Place) -> None:
    async with place.consumer() as (agent, link):
        app = await agent.app()
        opened = await link.spliced()
        await app.send(b"half a requ")
        assert await read_exactly(opened.stream, 11) == b"half a requ"
        app.reset()
        assert await reset_code(opened.stream) is ErrorCode.CANCELLED
        with pytest.raises(Exception, match="CANCELLED"):
            await opened.stream.wait_finished()
        line = await place.seen.wait("stream ended")
        assert line["reason"] == "application: Connection reset by peer"


@pytest.mark.parametrize("code", [ErrorCode.CANCELLED, ErrorCode.DENIED, ErrorCode.LEG_LOST])
async def test_a_streams_reset_resets_the_application(place: Place, code: ErrorCode) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            await opened.stream.write(b"half an ans")
            assert await app.read(11) == b"half an ans"
            opened.stream.reset(code)
            assert await app.until_reset() == b""
            told = ErrorCode.NOT_RESUMABLE if code is ErrorCode.LEG_LOST else code
            assert await reset_code(opened.stream) is told
        await place.seen.wait("stream ended", reason=f"reset from the far end ({code.name})")


async def test_a_reset_that_follows_the_applications_end_resets_it(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            app.end()
            assert await read_all(opened.stream) == b""
            opened.stream.reset(ErrorCode.CANCELLED)
            assert await app.until_reset() == b""


async def test_a_lost_connection_resets_the_application(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            await opened.stream.write(b"half an ans")
            assert await app.read(11) == b"half an ans"
            link.connection.close(ErrorCode.DRAIN)
            assert await app.until_reset() == b""
        await place.seen.wait("stream ended", reason="relay: closed by peer (DRAIN)")


async def test_an_answer_is_whole_though_the_request_is_read_no_further(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            opened.stream.stop(ErrorCode.CANCELLED)
            await app.send(b"a request that is too long")
            await opened.stream.write(b"too ")
            assert await app.read(4) == b"too "
            await opened.stream.write(b"long")
            opened.stream.finish()
            assert await app.read_all() == b"long"
            with pytest.raises(ConnectionError):
                while True:
                    await app.send(b"x")
                    await asyncio.sleep(0)


async def test_an_answer_is_whole_though_the_backend_is_gone(place: Place) -> None:
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.served(SERVICE)
            with await backend.accept() as served:
                await served.send(b"bye")
            while not place.seen.of("stream ended"):  # until the closed socket answers with RST
                await incoming.stream.write(b"more of the request")
                await everybody_waits()
            assert await read_all(incoming.stream) == b"bye"


async def test_a_long_answer_is_whole_though_the_backend_is_gone(place: Place) -> None:
    """The backend leaves, and the request still comes, while most of the answer waits."""
    answer = bytes(WINDOW + WRITE_BUFFER + 65536)  # more than the stream holds
    with Backend() as backend:
        async with place.provider(backend.port) as (_, link):
            incoming = await link.served(SERVICE)
            with await backend.accept() as served:
                await served.send(answer)
                await everybody_waits()
            with pytest.raises(Reset):
                while True:
                    await incoming.stream.write(b"more of the request")
                    await everybody_waits()
            assert await read_all(incoming.stream) == answer


async def test_a_whole_request_is_delivered_though_the_answer_was_cut(place: Place) -> None:
    request = bytes(WINDOW + WRITE_BUFFER)
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            await app.send(request)
            app.end()
            await everybody_waits()
            opened.stream.reset(ErrorCode.CANCELLED)
            assert await app.until_reset() == b""
            assert await read_all(opened.stream) == request


async def test_a_reader_that_stops_stops_the_application(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            async with asyncio.timeout(30):
                sent = await flood(app)
            assert sent < 32 * MIB  # kernel buffers of two sockets, one stream's bound
            app.end()
            assert len(await read_all(opened.stream)) >= sent


async def test_an_application_that_stops_reading_stops_the_far_writer(place: Place) -> None:
    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < 64 * MIB:
                    async with asyncio.timeout(0.3):
                        await opened.stream.write(bytes(65536))
                    sent += 65536
            app.reset()


async def test_an_application_that_leaves_while_stalled_is_noticed(place: Place) -> None:
    async with place.consumer() as (agent, link):
        app = await agent.app()
        opened = await link.spliced()
        await flood(app)
        app.reset()
        line = await place.seen.wait("stream ended")
        assert line["reason"] == "application: Connection reset by peer"
        assert await reset_code(opened.stream) is ErrorCode.CANCELLED


async def test_megabytes_pass_both_ways_at_once(place: Place) -> None:
    data = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(MIB // 4))

    async def send(app: Tcp) -> None:
        await app.send(data)
        app.end()

    async def echo(opened: Opened) -> None:
        while part := await opened.stream.read():
            await opened.stream.write(part)
        opened.stream.finish()

    async with place.consumer() as (agent, link):
        with await agent.app() as app:
            opened = await link.spliced()
            async with asyncio.TaskGroup() as group:
                group.create_task(echo(opened))
                group.create_task(send(app))
                received = await app.read_all()
            assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        await place.seen.wait("stream ended", bytes_up=len(data), bytes_down=len(data))


async def test_an_rst_that_the_watch_was_told_of_is_no_end_of_file() -> None:
    """It takes the socket's error just before the upload, stalled so far, reads again."""
    watch = AbortWatch()
    near, far = await two_ends()
    with Backend() as backend, await connect(backend.port) as app, await backend.accept() as ours:
        bridge = Bridge(ours.sock, near, watch, b"", counts(fail))
        running = asyncio.get_running_loop().create_task(bridge.run())
        await app.send(bytes(WINDOW + WRITE_BUFFER))
        await everybody_waits()
        await app.send(b"more")
        await everybody_waits()
        assert bridge.sent == WINDOW + WRITE_BUFFER
        assert not unread(ours)
        app.reset()
        await far.read(65536)
        watch._look()
        with pytest.raises(ConnectionResetError):
            await running
    assert not bridge.finished
    watch.close()


async def test_the_watch_is_over_when_the_download_is() -> None:
    """From then on the kernel no longer tells an RST behind an end of file from another."""
    watch = AbortWatch()
    near, far = await two_ends()
    with Backend() as backend, await connect(backend.port) as app, await backend.accept() as ours:
        bridge = Bridge(ours.sock, near, watch, b"", counts(lambda: None))
        async with asyncio.TaskGroup() as group:
            group.create_task(bridge.run())
            far.finish()
            assert await app.read_all() == b""
            assert not watch._guards
            app.end()
    watch.close()


def unread(tcp: Tcp) -> bool:
    """Whether the kernel holds bytes that have arrived."""
    readable, _, _ = select.select([tcp.sock], [], [], 0)
    return bool(readable)


async def two_ends() -> tuple[Stream, Stream]:
    """Both ends of a stream."""
    network = MemoryNetwork()
    listener = network.listen(("127.0.0.1", 0), RELAY)
    connection = await network.dialer(AGENT).dial(listener.address, roles={Role.RELAY})
    stream = await connection.open_stream()
    await stream.write(b"")
    return stream, await (await listener.accept()).accept_stream()


def counts(fin: Callable[[], None]) -> Counts:
    """Nobody counts the bytes."""
    return Counts(fin=fin, sent=lambda _: None, received=lambda _: None)


def fail() -> None:
    raise AssertionError("a direction ended")
