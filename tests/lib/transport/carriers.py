"""The carriers under test, and what the contract suite needs of each.

Words: the *near* end of a connection dialled, the *far* end was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.transport.carrier import Address, Connection, Dialer, Listener, Stream
from outrelay.lib.transport.memory import MAX_STREAMS, MemoryNetwork
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.quic.engine import STREAMS, EngineOptions
from outrelay.lib.transport.quic.engines import EngineChoice
from outrelay.lib.transport.tcp import table
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.transport.tcp.listener import ListenerLimits, TcpListener
from tests.support.impair import Impairment, UdpProxy
from tests.support.pki import TestPki
from tests.support.tcp_path import TcpPath

LOOPBACK = ("127.0.0.1", 0)
AGENT = Identity.parse("outrelay://acme/agent/0f8fad5b-d9cb-469f-a165-70867728950e")
RELAY = Identity.parse("outrelay://local/relay/r1")
PKI = TestPki()
IDLE_TIMEOUT = 10.0
BRIEF = 2.0
"""The idle timeout where a path will be lost, so that its end need not be waited for."""
ANYBODY = frozenset({Role.AGENT, Role.RELAY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both ends of one connection."""

    near: Connection
    far: Connection

    async def stream(self) -> tuple[Stream, Stream]:
        """Both ends of a new stream that the near end opened."""
        return await self._join(self.near, self.far)

    async def stream_back(self) -> tuple[Stream, Stream]:
        """Both ends, near first, of a new stream that the far end opened."""
        far, near = await self._join(self.far, self.near)
        return near, far

    @staticmethod
    async def _join(opener: Connection, other: Connection) -> tuple[Stream, Stream]:
        opened = await opener.open_stream()
        await opened.write(b"!")  # the first byte is what shows a stream to the peer
        accepted = await other.accept_stream()
        assert await accepted.read(1) == b"!"
        return opened, accepted


class Harness(Protocol):
    """One carrier under test; an agent dials, a relay listens."""

    name: str
    max_streams: int

    async def listen(self, *, accept_roles: frozenset[Role] = ANYBODY) -> Listener:
        """A listener with the relay's identity, closed at the end of the test."""

    async def dialer(self) -> Dialer:
        """A dialer with the agent's identity, closed at the end of the test."""

    async def connect(self) -> Pair:
        """A connection of a new dialer to a new listener."""

    async def connect_severable(self) -> tuple[Pair, Callable[[], None]]:
        """The same, and a function after which no packet passes either way."""

    async def close(self) -> None:
        """Close whatever the test opened."""


async def join(listener: Listener, dialer: Dialer, *, at: Address | None = None) -> Pair:
    """A connection of ``dialer`` to ``listener``, which it finds ``at`` some address."""
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(listener.accept(), name="accept")
        dial = dialer.dial(at or listener.address, roles={Role.RELAY})
        dialling = group.create_task(dial, name="dial")
    return Pair(near=dialling.result(), far=accepting.result())


class MemoryHarness:
    """The in-memory carrier."""

    name = "memory"
    max_streams = MAX_STREAMS

    def __init__(self) -> None:
        self._network = MemoryNetwork()
        self._stack = AsyncExitStack()

    async def listen(self, *, accept_roles: frozenset[Role] = ANYBODY) -> Listener:
        listener = self._network.listen(LOOPBACK, RELAY, accept_roles=accept_roles)
        self._stack.push_async_callback(listener.close)
        return listener

    async def dialer(self) -> Dialer:
        return self._network.dialer(AGENT)

    async def connect(self) -> Pair:
        return await join(await self.listen(), await self.dialer())

    async def connect_severable(self) -> tuple[Pair, Callable[[], None]]:
        listener = self._network.listen(LOOPBACK, RELAY)
        near = await self._network.dialer(AGENT).dial(listener.address, roles={Role.RELAY})
        return Pair(near=near, far=await listener.accept()), near.sever

    async def close(self) -> None:
        await self._stack.aclose()


class QuicHarness:
    """The QUIC carrier over loopback.

    Args:
        engine: Which packet engine both ends run on.
    """

    name = "quic"
    max_streams = STREAMS

    def __init__(self, engine: EngineChoice = EngineChoice.AIOQUIC) -> None:
        self._engine = engine
        self._idle_timeout = IDLE_TIMEOUT
        self._stack = AsyncExitStack()

    async def listen(self, *, accept_roles: frozenset[Role] = ANYBODY) -> QuicEndpoint:
        return await self._bind(RELAY, accept_roles)

    async def dialer(self) -> QuicEndpoint:
        return await self._bind(AGENT, frozenset())

    async def connect(self) -> Pair:
        return await join(await self.listen(), await self.dialer())

    async def connect_severable(self) -> tuple[Pair, Callable[[], None]]:
        self._idle_timeout = BRIEF
        pair, proxy = await self.connect_through(Impairment())

        def sever() -> None:
            proxy.path = Impairment(blackhole=True)

        return pair, sever

    async def connect_through(self, path: Impairment, *, seed: int = 1) -> tuple[Pair, UdpProxy]:
        """A connection over a path that does what ``path`` says."""
        listener, dialer = await self.listen(), await self.dialer()
        proxy = await self._stack.enter_async_context(UdpProxy(listener.address, path, seed=seed))
        return await join(listener, dialer, at=proxy.address), proxy

    async def close(self) -> None:
        await self._stack.aclose()

    async def _bind(self, identity: Identity, accept_roles: frozenset[Role]) -> QuicEndpoint:
        options = EngineOptions(
            credentials=PKI.issue(identity),
            trust=PKI.trust,
            accept_roles=accept_roles,
            idle_timeout=self._idle_timeout,
        )
        endpoint = await QuicEndpoint.bind(
            LOOPBACK,
            credentials=options.credentials,
            trust=options.trust,
            engine=self._engine,
            options=options,
        )
        self._stack.push_async_callback(endpoint.close)
        return endpoint


class TcpHarness:
    """The tcp carrier over loopback."""

    name = "tcp"
    max_streams = table.STREAMS

    def __init__(self) -> None:
        self._idle_timeout = IDLE_TIMEOUT
        self._stack = AsyncExitStack()

    async def listen(self, *, accept_roles: frozenset[Role] = ANYBODY) -> TcpListener:
        listener = await TcpListener.bind(
            LOOPBACK,
            credentials=PKI.issue(RELAY),
            trust=PKI.trust,
            accept_roles=accept_roles,
            limits=ListenerLimits(idle_timeout=self._idle_timeout),
        )
        self._stack.push_async_callback(listener.close)
        return listener

    async def dialer(self) -> TcpDialer:
        dialer = TcpDialer(
            credentials=PKI.issue(AGENT), trust=PKI.trust, idle_timeout=self._idle_timeout
        )
        self._stack.push_async_callback(dialer.close)
        return dialer

    async def connect(self) -> Pair:
        return await join(await self.listen(), await self.dialer())

    async def connect_severable(self) -> tuple[Pair, Callable[[], None]]:
        self._idle_timeout = BRIEF
        pair, path = await self.connect_through()
        return pair, path.cut

    async def connect_through(self, *, delay: float = 0.0) -> tuple[Pair, TcpPath]:
        """A connection over a path that takes ``delay`` seconds each way."""
        listener, dialer = await self.listen(), await self.dialer()
        path = await self._stack.enter_async_context(TcpPath(listener.address, delay=delay))
        return await join(listener, dialer, at=path.address), path

    async def close(self) -> None:
        await self._stack.aclose()


HARNESSES: dict[str, Callable[[], Harness]] = {
    "memory": MemoryHarness,
    "quic": QuicHarness,
    "quic native": partial(QuicHarness, EngineChoice.NATIVE),
    "tcp": TcpHarness,
}
