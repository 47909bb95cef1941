"""People who mean harm, and the one who must not notice.

A *crowd* is one socket that sends from thousands of addresses. A *mallory* is an agent of
the tenant with a good certificate and her own idea of the protocol. A *bystander* is an
application that asks and is answered, over and over, through the same processes: whatever
happens meanwhile, each of its answers must come.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

from outrelay.lib.identity.certs import Credentials
from outrelay.lib.tasks import beside
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.values import Address
from tests.integration.peers import MIB, Handler, calling
from tests.integration.world import APP, TENANT, World
from tests.support.patience import PATIENCE
from tests.support.peers import AgentPeer
from tests.support.pki import agent_identity
from tests.support.processes import Program

GROWTH = 32 * MIB
"""What a program may have grown by after an attack: its allocator keeps some."""

LINES_PER_SECOND = 10
"""Of a program that refuses a flood, beside those about what it did not refuse."""

LIVES = {
    *("stream opened", "stream ended", "agent connected", "agent gone"),
    *("service registered", "service deregistered"),
}
"""Events that are no refusals."""

ECHO = b"echo"
_IP_PKTINFO = 8  # Linux ip(7)


class Bystander:
    """Asks, and is answered."""

    def __init__(self) -> None:
        self.answers = 0
        self._answered = asyncio.Event()

    async def go_on(self, answers: int = 5) -> None:
        """Return after so many more answers."""
        enough = self.answers + answers
        while self.answers < enough:
            self._answered.clear()
            await self._answered.wait()

    def answered(self) -> None:
        """One more."""
        self.answers += 1
        self._answered.set()

    async def ask(self, address: Address) -> None:
        """Ask for ever; an answer that does not come in time is a TimeoutError."""
        async with calling(address) as (reader, writer):
            writer.write(ECHO)
            while True:
                question = b"%08x" % self.answers
                writer.write(question)
                async with asyncio.timeout(PATIENCE):
                    assert await reader.readexactly(len(question)) == question
                self.answered()
                await asyncio.sleep(0.005)


@asynccontextmanager
async def bystander(world: World, others: Handler | None = None) -> AsyncIterator[Bystander]:
    """One who is served for the length of the ``with``.

    Args:
        world: Where.
        others: Serves the backend's other connections.
    """

    async def backend(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            if await reader.readexactly(len(ECHO)) == ECHO:
                while data := await reader.read(65536):
                    writer.write(data)
            elif others:
                await others(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whose consumer broke off

    somebody = Bystander()
    async with (
        world.backend.serving(backend),
        beside(somebody.ask(world.at[APP]), name="bystander"),
    ):
        await somebody.go_on()
        yield somebody
        await somebody.go_on()


class Watch:
    """Looks at a program during an attack."""

    def __init__(self, program: Program, growth: int) -> None:
        self._program = program
        self._growth = growth
        self._mark = program.mark()
        self._rss = program.rss()
        self._since = time.monotonic()

    def check(self) -> None:
        """Fail unless the program is well, no larger, and has kept quiet."""
        program = self._program
        assert program.running, program.tail()
        lines = [each for each in program.events[self._mark :] if each["event"] not in LIVES]
        loud = [line for line in lines if line["level"] in {"error", "critical"}]
        assert not loud, loud
        seconds = time.monotonic() - self._since
        common = Counter(line["event"] for line in lines).most_common(3)
        assert len(lines) < LINES_PER_SECOND * (seconds + 2), common
        grown = program.rss() - self._rss
        assert grown < self._growth, f"{program.name} has grown by {grown / MIB:.1f} MiB"


@asynccontextmanager
async def unnoticed(
    world: World, *, others: Handler | None = None, growth: int = GROWTH
) -> AsyncIterator[Bystander]:
    """What happens in the body is noticed by nobody.

    Args:
        world: Where.
        others: Serves backend connections that are not the bystander's.
        growth: Bytes that relay, controller and provider may each grow by.
    """
    programs = (world.relay, world.controller, world.provider)
    watches = [Watch(program, growth) for program in programs]
    async with bystander(world, others) as somebody:
        yield somebody
    for watch in watches:
        watch.check()


def times(program: Program, event: str, since: int, **fields: object) -> int:
    """How often something happened, by the lines that count it."""
    return sum(
        int(str(line.get("times", 1))) for line in program.seen(event, since=since, **fields)
    )


async def until_times(
    program: Program, number: int, event: str, since: int, **fields: object
) -> None:
    """Wait until lines say that something has happened so often."""
    async with asyncio.timeout(PATIENCE):
        while times(program, event, since, **fields) < number:
            await program.event(event, since=program.mark())


class Mallories:
    """Makes agents of the world that the world did not ask for.

    Args:
        world: Where.
        tenant: Whose agents they are.
        relay: Where they connect; the world's own by default.
    """

    def __init__(self, world: World, *, tenant: str = TENANT, relay: Program | None = None) -> None:
        self._world = world
        self._tenant = tenant
        self._relay = relay or world.relay

    def credentials(self) -> Credentials:
        """Of an agent nobody has heard of."""
        return self._world.issue(agent_identity(self._tenant))

    @asynccontextmanager
    async def mallory(
        self, *capabilities: str, credentials: Credentials | None = None, instance: bytes = b""
    ) -> AsyncIterator[AgentPeer]:
        """A connection of one, HELLO said."""
        async with self.silent(credentials) as peer:
            await peer.hello(*capabilities, instance=instance)
            yield peer

    @asynccontextmanager
    async def silent(self, credentials: Credentials | None = None) -> AsyncIterator[AgentPeer]:
        """A connection of one, nothing said."""
        credentials = credentials or self.credentials()
        async with self._dialler(credentials) as dialler:
            relay = await self._relay.listening(carrier=self._carrier)
            yield await AgentPeer.dial(dialler, relay, credentials.identity)

    @property
    def _carrier(self) -> str:
        """What the world's consumer speaks."""
        return self._world.carriers.consumer

    @asynccontextmanager
    async def _dialler(self, credentials: Credentials) -> AsyncIterator[QuicEndpoint | TcpDialer]:
        trust = self._world.trust
        if self._carrier == "tcp":
            made: QuicEndpoint | TcpDialer = TcpDialer(credentials=credentials, trust=trust)
        else:
            made = await QuicEndpoint.bind(
                ("127.0.0.1", 0), credentials=credentials, trust=trust, accept_roles=()
            )
        try:
            yield made
        finally:
            await made.close()


class Crowd:
    """One socket that sends from, and hears at, any address of 127.0.0.0/8."""

    def __init__(self, target: Address) -> None:
        self.sent: Counter[str] = Counter()
        """Bytes, by the address they came from."""
        self.received: Counter[str] = Counter()
        """Bytes, by the address they went to."""
        self._target = target
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._socket.bind(("0.0.0.0", 0))
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def send(self, data: bytes, source: str) -> None:
        """Send one datagram from ``source``."""
        info = struct.pack("=i4s4s", 0, socket.inet_aton(source), bytes(4))
        self._socket.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, self._target)
        self.sent[source] += len(data)

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(256):
                data, ancillary, _, _ = self._socket.recvmsg(65536, 64)
                ((_, _, info),) = ancillary
                self.received[socket.inet_ntoa(info[8:12])] += len(data)
