"""People who mean harm: others are served throughout, nothing grows but a few lines of log."""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections import Counter
from contextlib import ExitStack, suppress

import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty

from outrelay.lib.errors import Closed, ErrorCode, Reset
from outrelay.lib.orp.frame import FrameType, encode
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.tasks import beside
from outrelay.lib.transport.carrier import Stream
from tests.integration.attackers import Mallories, unnoticed, until_times
from tests.integration.carriers import ON_BOTH_ENGINES
from tests.integration.peers import MIB
from tests.integration.world import APP, SECRET, World
from tests.support.hostile_quic import Hello, Prober, is_retry
from tests.support.hostile_tcp import client_hello
from tests.support.patience import PATIENCE
from tests.support.peers import FEATURES, AgentPeer, accept, rejection

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ON_BOTH_ENGINES


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(modules_world: World) -> World:
    """A world of its own: what attacks leave is nobody else's."""
    return modules_world


# ---- silence -------------------------------------------------------------------------------

HELLO = orp.Hello(protocol_version="orp/1", agent_uri="outrelay://acme/agent/" + 100 * "0")


async def test_silence_in_every_place_ends_in_time(world: World) -> None:
    """Each of them takes as long as it may; all of them together no longer."""
    mark = world.relay.mark()
    stop_half_way = _half_a_hello if world.carriers.consumer == "tcp" else _half_a_handshake
    async with unnoticed(world) as somebody, asyncio.timeout(2 * PATIENCE), TaskGroup() as group:
        group.create_task(stop_half_way(world))
        group.create_task(_connections_without_hello(world))
        group.create_task(_streams_without_a_first_frame(world))
        group.create_task(_a_provider_that_never_answers(world))
        group.create_task(_callers_without_a_handshake(world))
        await somebody.go_on(50)
    assert world.relay.seen("handshake refused", since=mark, reason="source limit")
    await until_times(world.relay, 10, "connection refused", mark)
    await until_times(world.relay, 20, "stream dropped", mark)
    await until_times(world.relay, 50, "stream refused", mark, code=504)


async def _half_a_handshake(world: World) -> None:
    """Over QUIC, from three addresses."""
    hello, target = Hello(), await world.relay.listening(carrier="quic")
    for source in ("127.0.0.20", "127.0.0.21", "127.0.0.22"):
        with Prober(target, source=source) as prober:
            for _ in range(150):
                prober.send(hello.initial())
                await asyncio.sleep(0)
            asked = 0
            while asked < 80:  # more than a source may have under way
                if is_retry(reply := await prober.reply()):
                    asked += 1
                    prober.send(hello.after(reply))
    async with Mallories(world).mallory():
        pass  # others get in meanwhile
    await world.relay.event("handshake refused", reason="no answer", timeout=PATIENCE)


async def _half_a_hello(world: World) -> None:
    """Over TCP, from three addresses."""
    target = await world.relay.listening(carrier="tcp")
    with ExitStack() as stack:
        for source in ("127.0.0.20", "127.0.0.21", "127.0.0.22"):
            for _ in range(80):  # more than a source may have under way
                sock = socket.create_connection(target, source_address=(source, 0))
                stack.enter_context(sock)
                with suppress(ConnectionError):  # who is turned away
                    sock.sendall(client_hello()[:50])
        async with Mallories(world).mallory():
            pass  # others get in meanwhile
        late = "the handshake was not over in time"
        await world.relay.event("handshake refused", reason=late, timeout=PATIENCE)


async def _connections_without_hello(world: World) -> None:
    async with TaskGroup() as group:
        for _ in range(5):
            group.create_task(_connection_without_hello(world, b""))
            group.create_task(_connection_without_hello(world, encode(FrameType.HELLO, HELLO)))


async def _connection_without_hello(world: World, words: bytes) -> None:
    """One that says nothing, or ``words``, so slowly that they never end."""
    async with Mallories(world).silent() as peer:
        await peer.open_control()
        async with beside(_dribble(peer.control, words), name="dribble"):
            assert (await peer.connection.wait_closed()).code is ErrorCode.PROTOCOL


async def _dribble(stream: Stream, words: bytes) -> None:
    with suppress(Closed):
        for byte in words:
            await stream.write(bytes([byte]))
            await asyncio.sleep(0.3)


async def _streams_without_a_first_frame(world: World) -> None:
    async with Mallories(world).mallory() as mallory:
        streams = [await mallory.connection.open_stream() for _ in range(20)]
        for stream in streams:
            await stream.write(b"\x20\x10\x00\x00\x00\x00\x00\xff")
        for stream in streams:
            with pytest.raises(Reset):
                await stream.read()


async def _a_provider_that_never_answers(world: World) -> None:
    mallories = Mallories(world)
    async with mallories.mallory(*FEATURES) as mute, mallories.mallory(*FEATURES) as consumer:
        await mute.register("shop-mute")
        streams = [await consumer.open("shop-mute", stream_id=number) for number in range(1, 51)]
        for stream in streams:
            assert (await rejection(stream))[0] == 504


async def _callers_without_a_handshake(world: World) -> None:
    loop, target = asyncio.get_running_loop(), await world.controller.listening()
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(target)) for _ in range(20)]
        for connection in connections:
            connection.setblocking(False)
            assert await loop.sock_recv(connection, 1) == b""


# ---- frames --------------------------------------------------------------------------------


def header(kind: int, size: int, version: int = 1) -> bytes:
    """A frame's first bytes."""
    return (version << 13 | kind).to_bytes(2, "big") + bytes(2) + size.to_bytes(4, "big")


def opening(service: str = "", stream_id: int = 0) -> bytes:
    """OPEN_STREAM."""
    message = orp.OpenStream(target_service=service, stream_id=stream_id)
    return encode(FrameType.OPEN_STREAM, message)


REGISTER = encode(FrameType.REGISTER, orp.Register(service_name="shop-odd"))
DEREGISTER = encode(FrameType.DEREGISTER, orp.Register(service_name="shop-odd"))

END_THE_CONNECTION = {
    "another version": header(FrameType.PING, 0, version=2),
    "longer than we take": header(FrameType.REGISTER, 64 * 1024 + 1) + bytes(1000),
    "as long as can be": header(FrameType.REGISTER, 2**32 - 1),
    "no protobuf": header(FrameType.REGISTER, 3) + b"\xff\xff\xff",
    "a second HELLO": encode(FrameType.HELLO, orp.Hello()),
    "plain HTTP": b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n",
    "noise behind good frames": REGISTER * 3 + b"\xff" * 100,
}
"""What ends a connection that says it on its control stream."""

END_NOTHING = {
    "unknown": header(0x7FE, 5) + b"12345" + header(0x005, 0) + header(0x100, 2) + b"ab",
    "repeated": REGISTER * 20 + DEREGISTER * 20,
    "a relay's": encode(FrameType.STREAM_READY, orp.StreamReady(stream_id=1)),
    "a provider's": encode(FrameType.STREAM_ACCEPT, orp.StreamAccept()),
    "a data stream's": opening(APP, 1),
}
"""What is skipped or taken there."""

RESET = 0
FIRST_FRAMES = {
    "another version": (header(FrameType.OPEN_STREAM, 0, version=2), RESET),
    "longer than we take": (header(FrameType.OPEN_STREAM, 64 * 1024 + 1), RESET),
    "unknown": (header(0x7FE, 0), RESET),
    "cut short": (opening(APP, 1)[:-1], RESET),
    "nothing": (b"", RESET),
    "out of order": (REGISTER, 400),
    "no protobuf": (header(FrameType.OPEN_STREAM, 2) + b"\xff\xff", 400),
    "no name": (opening("", 1), 400),
    "no id": (opening(APP), 400),
    "a name of noise": (opening("\x00\x1b[31m", 1), 400),
    "nobody's": (opening("shop-nobody", 2), 404),
    "denied": (opening(SECRET, 3), 403),
}
"""First frames of data streams, and the codes of their refusals."""


async def test_frames_that_break_the_rules(world: World) -> None:
    async with unnoticed(world):
        for words in END_THE_CONNECTION.values():
            async with Mallories(world).mallory(*FEATURES) as mallory:
                await mallory.control.write(words)
                assert (await mallory.connection.wait_closed()).code is ErrorCode.PROTOCOL
        async with Mallories(world).mallory(*FEATURES) as mallory:
            for byte in b"".join(END_NOTHING.values()):
                await mallory.control.write(bytes([byte]))
            await mallory.send(FrameType.PING, Empty())
            while await _next_type(mallory) != FrameType.PONG:
                pass
            answers = {
                name: await _answer_to(mallory, words) for name, (words, _) in FIRST_FRAMES.items()
            }
    assert answers == {name: code for name, (_, code) in FIRST_FRAMES.items()}


async def _next_type(mallory: AgentPeer) -> int:
    frame = await mallory.frames.next_frame()
    assert frame is not None
    return frame.type


async def _answer_to(mallory: AgentPeer, words: bytes) -> int:
    """The code with which a stream is refused that begins so."""
    stream = await mallory.connection.open_stream()
    await stream.write(words)
    stream.finish()
    try:
        return (await rejection(stream))[0]
    except Reset:
        return RESET


# ---- floods of what is allowed -------------------------------------------------------------


async def test_a_flood_of_opens(world: World) -> None:
    mark = world.relay.mark()
    async with unnoticed(world), Mallories(world).mallory(*FEATURES) as mallory:
        async with TaskGroup() as group:
            for number in range(4):
                group.create_task(_open_many(mallory, 500, first=1 + 500 * number))
        await _break_off_many(mallory, 300, first=5_001)
    await until_times(world.relay, 2_000, "stream refused", mark, code=404)


async def _open_many(mallory: AgentPeer, number: int, first: int) -> None:
    """Open streams to services that are not."""
    for stream_id in range(first, first + number):
        stream = await mallory.open(f"shop-{stream_id}", stream_id=stream_id)
        assert (await rejection(stream))[0] == 404


async def _break_off_many(mallory: AgentPeer, number: int, first: int) -> None:
    """Open streams that are allowed, and give them up at once."""
    for stream_id in range(first, first + number):
        stream = await mallory.open(APP, stream_id=stream_id)
        stream.reset(ErrorCode.CANCELLED)
        stream.stop(ErrorCode.CANCELLED)


async def test_a_flood_of_registrations(world: World) -> None:
    mark, answers = world.relay.mark(), Counter[int]()

    async def hear(mallory: AgentPeer) -> None:
        while sum(answers.values()) < 6_000:
            answers[await _next_type(mallory)] += 1

    async with (
        unnoticed(world),
        Mallories(world).mallory(*FEATURES) as mallory,
        TaskGroup() as group,
    ):
        group.create_task(hear(mallory))
        for number in range(4_000):
            await mallory.ask_to_register(f"shop-{number}")
        for _ in range(2_000):
            await mallory.send(FrameType.DEREGISTER, orp.Register(service_name="shop-0"))
            await mallory.ask_to_register("shop-0")
    assert 1_000 <= answers[FrameType.REGISTER_ACK] < 2_500
    refused = answers[FrameType.REGISTER_NACK]
    assert refused > 3_000
    await until_times(world.relay, refused, "registration refused", mark)


async def test_a_consumer_that_opens_and_never_reads(world: World) -> None:
    async def endless(_reader: StreamReader, writer: StreamWriter) -> None:
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    streams = 40  # each with some MiB on its way, which its provider keeps and an allocator doubles
    async with (
        unnoticed(world, others=endless, growth=streams * 7 * MIB) as somebody,
        Mallories(world).mallory(*FEATURES) as mallory,
    ):
        for number in range(1, streams + 1):
            stream = await mallory.open(APP, stream_id=number)
            await stream.write(b"more")
        for _ in range(streams):
            await mallory.ready()
        before = -1
        while world.relay.rss() > before:  # it fills up, and stays
            before = world.relay.rss()
            await somebody.go_on(100)


async def test_a_provider_that_accepts_and_never_answers(world: World) -> None:
    """Nor reads: who calls it is stopped when the way to it is full, and nobody else."""
    streams, mallories = 12, Mallories(world)
    written = Counter[int]()

    async def talk(consumer: AgentPeer, stream_id: int) -> None:
        stream = await consumer.open("shop-deaf", stream_id=stream_id)
        while True:
            await stream.write(bytes(65536))
            written[stream_id] += 65536

    async with (
        unnoticed(world, growth=streams * 3 * MIB) as somebody,
        mallories.mallory(*FEATURES) as deaf,
        mallories.mallory(*FEATURES) as consumer,
    ):
        await deaf.register("shop-deaf")
        async with TaskGroup() as group:
            talks = [group.create_task(talk(consumer, 1 + number)) for number in range(streams)]
            for _ in range(streams):
                stream, _incoming = await deaf.incoming()
                await accept(stream)
            before = -1
            while written.total() > before:
                before = written.total()
                await somebody.go_on(100)
            for task in talks:
                task.cancel()
    assert streams * MIB / 2 < written.total() < streams * 5 * MIB
