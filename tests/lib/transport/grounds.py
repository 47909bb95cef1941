"""Where hostile peers meet ours: one ground for each carrier.

Words: the *hostile* side is the one that is wrong; the other is ours and must refuse it,
say why, stay up and keep its memory.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address, Dialer, Listener
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.quic import endpoint as quic_endpoint
from outrelay.lib.transport.quic.engine import EngineOptions
from outrelay.lib.transport.quic.engines import EngineChoice
from outrelay.lib.transport.refusal import NO_HANDSHAKE, Refusal
from outrelay.lib.transport.tcp import connections as tcp_connections
from outrelay.lib.transport.tcp import listener as tcp_listener
from outrelay.lib.transport.tcp.dialer import TcpDialer
from outrelay.lib.transport.tcp.listener import ListenerLimits, TcpListener
from tests.lib.transport.carriers import LOOPBACK, PKI, join
from tests.support import hostile_quic, hostile_tcp
from tests.support.pki import Hostile

ALPN = ("orp/1",)
ACCEPTED = frozenset({Role.AGENT, Role.RELAY})

HURRIED = 0.3
"""Seconds for a handshake that will not get anywhere, so that its end need not be waited for."""

UNHURRIED = 60.0
"""Seconds in which one that is right gets through on the slowest of machines."""


class Ground(ABC):
    """Endpoints of a test, and whom they refused."""

    told: ClassVar[Mapping[Hostile, str]] = {}
    """What a refused peer hears, where it is less than what we know."""

    bounds: ClassVar[ModuleType]
    """Has the BACKLOG of its listeners."""

    calendar: ClassVar[ModuleType]
    """Looks every TICK whether certificates have expired."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.refusals: list[Refusal] = []
        self._refused = asyncio.Event()
        self._stack = stack

    @abstractmethod
    async def listen(
        self, credentials: Credentials | None = None, *, handshake_timeout: float = 10.0
    ) -> Listener:
        """A listener, a relay's unless told otherwise."""

    @abstractmethod
    async def dialer(
        self,
        credentials: Credentials | None = None,
        *,
        alpn: str = "orp/1",
        timeout: float = 10.0,
    ) -> Dialer:
        """A dialler, an agent's unless told otherwise."""

    @abstractmethod
    def allow(self, endpoint: Listener | Dialer, handshake_timeout: float) -> None:
        """From now on an endpoint's handshakes may take so many seconds."""

    @abstractmethod
    def under_way(self, endpoint: Listener | Dialer) -> int:
        """Connections an endpoint keeps in memory, also unfinished ones."""

    @abstractmethod
    def send(self, address: Address) -> AbstractAsyncContextManager[Callable[[bytes], None]]:
        """Send bytes of a handshake to a listener, as one peer; silent afterwards."""

    @abstractmethod
    async def raw_client(
        self,
        address: Address,
        *,
        credentials: Credentials | None = None,
        alpn: Sequence[str] = ALPN,
    ) -> bool:
        """Whether a client that verifies nothing is let in."""

    @abstractmethod
    def raw_server(
        self, credentials: Credentials, *, alpn: Sequence[str] = ALPN
    ) -> AbstractAsyncContextManager[Address]:
        """A server that verifies nothing."""

    @abstractmethod
    def hello(self) -> bytes:
        """The first message of a genuine client."""

    async def until_refused(self, count: int = 1) -> None:
        """Wait until the listeners have refused so many."""
        while len(self.refusals) < count:
            self._refused.clear()
            await self._refused.wait()

    async def until_forgotten(self, endpoint: Listener | Dialer, *, but: int) -> None:
        """Wait until an endpoint keeps no more than so many connections."""
        while self.under_way(endpoint) > but:  # noqa: ASYNC110 - memory has no event
            await asyncio.sleep(0.01)

    async def check_serves(self, listener: Listener) -> None:
        """Whoever is right gets in, however slow, and is the first to be accepted."""
        self.allow(listener, UNHURRIED)
        agent = PKI.agent()
        pair = await join(listener, await self.dialer(agent))
        assert pair.far.peer == agent.identity

    async def check_dials(self, dialer: Dialer) -> None:
        """The dialler gets through to whoever is right, however slow."""
        self.allow(dialer, UNHURRIED)
        await join(await self.listen(), dialer)

    def on_refused(self, refusal: Refusal) -> None:
        """Told by the endpoints."""
        if refusal.cause not in NO_HANDSHAKE:
            self.refusals.append(refusal)
            self._refused.set()


class QuicGround(Ground):
    """QUIC: what is sent travels in Initial packets."""

    engine: ClassVar[EngineChoice] = EngineChoice.AIOQUIC

    bounds: ClassVar[ModuleType] = quic_endpoint
    calendar: ClassVar[ModuleType] = quic_endpoint

    async def listen(
        self,
        credentials: Credentials | None = None,
        *,
        handshake_timeout: float = 10.0,
        retry_above: int = 64,
        handshakes_max: int = 1024,
    ) -> QuicEndpoint:
        return await self._bind(
            EngineOptions(
                credentials=credentials or PKI.relay(),
                trust=PKI.trust,
                accept_roles=ACCEPTED,
                handshake_timeout=handshake_timeout,
                retry_above=retry_above,
                handshakes_max=handshakes_max,
            )
        )

    async def dialer(
        self,
        credentials: Credentials | None = None,
        *,
        alpn: str = "orp/1",
        timeout: float = 10.0,
    ) -> QuicEndpoint:
        return await self._bind(
            EngineOptions(
                credentials=credentials or PKI.agent(),
                trust=PKI.trust,
                alpn=alpn,
                handshake_timeout=timeout,
            )
        )

    def allow(self, endpoint: Listener | Dialer, handshake_timeout: float) -> None:
        assert isinstance(endpoint, QuicEndpoint)
        owner: Any = getattr(endpoint._engine, "_peers", endpoint._engine)
        name = "options" if hasattr(owner, "options") else "_options"
        options = replace(getattr(owner, name), handshake_timeout=handshake_timeout)
        setattr(owner, name, options)

    def under_way(self, endpoint: Listener | Dialer) -> int:
        return len(endpoint._engine._links)  # type: ignore[union-attr]

    @asynccontextmanager
    async def send(self, address: Address) -> AsyncIterator[Callable[[bytes], None]]:
        source, destination, sent = b"a source", b"a place.", [0, 0]
        with hostile_quic.Prober(address) as prober:

            def send(data: bytes) -> None:
                number, offset = sent
                datagram = hostile_quic.initial(
                    data, destination=destination, number=number, offset=offset, source=source
                )
                prober.send(datagram)
                sent[:] = number + 1, offset + len(data)

            yield send

    async def raw_client(
        self,
        address: Address,
        *,
        credentials: Credentials | None = None,
        alpn: Sequence[str] = ALPN,
    ) -> bool:
        async with hostile_quic.raw_client(address, credentials=credentials, alpn=alpn) as client:
            return client.outcome.result().confirmed

    @asynccontextmanager
    async def raw_server(
        self, credentials: Credentials, *, alpn: Sequence[str] = ALPN
    ) -> AsyncIterator[Address]:
        async with hostile_quic.raw_server(credentials, alpn=alpn) as server:
            yield server.port.address

    def hello(self) -> bytes:
        return hostile_quic.Hello().crypto

    async def _bind(self, options: EngineOptions) -> QuicEndpoint:
        endpoint = await QuicEndpoint.bind(
            LOOPBACK,
            credentials=options.credentials,
            trust=options.trust,
            on_refused=self.on_refused,
            engine=self.engine,
            options=options,
        )
        self._stack.push_async_callback(endpoint.close)
        return endpoint


class NativeGround(QuicGround):
    """The same on the native engine."""

    engine = EngineChoice.NATIVE


class TcpGround(Ground):
    """TCP: what OpenSSL refuses is told by an alert, which has no words of ours."""

    told: ClassVar[Mapping[Hostile, str]] = {
        Hostile.WRONG_CA: "our certificate does not lead to a CA it trusts",
        Hostile.SELF_SIGNED: "our certificate does not lead to a CA it trusts",
        Hostile.SIGNED_BY_LEAF: "our certificate does not lead to a CA it trusts",
        Hostile.EXPIRED: "our certificate has expired",
        Hostile.NOT_YET_VALID: "it takes our certificate for bad, or for not valid yet",
        Hostile.WRONG_USAGE: "our certificate is not for this usage",
    }
    bounds: ClassVar[ModuleType] = tcp_listener
    calendar: ClassVar[ModuleType] = tcp_connections

    async def listen(
        self,
        credentials: Credentials | None = None,
        *,
        handshake_timeout: float = 10.0,
        handshakes_max: int = 1024,
        source_handshakes: int = 64,
    ) -> TcpListener:
        listener = await TcpListener.bind(
            LOOPBACK,
            credentials=credentials or PKI.relay(),
            trust=PKI.trust,
            accept_roles=ACCEPTED,
            on_refused=self.on_refused,
            limits=ListenerLimits(
                handshake_timeout=handshake_timeout,
                handshakes_max=handshakes_max,
                source_handshakes=source_handshakes,
            ),
        )
        self._stack.push_async_callback(listener.close)
        return listener

    async def dialer(
        self,
        credentials: Credentials | None = None,
        *,
        alpn: str = "orp/1",
        timeout: float = 10.0,
    ) -> TcpDialer:
        dialer = TcpDialer(
            credentials=credentials or PKI.agent(),
            trust=PKI.trust,
            alpn=alpn,
            handshake_timeout=timeout,
        )
        self._stack.push_async_callback(dialer.close)
        return dialer

    def allow(self, endpoint: Listener | Dialer, handshake_timeout: float) -> None:
        if isinstance(endpoint, TcpListener):
            limits = replace(endpoint._limits, handshake_timeout=handshake_timeout)
            endpoint._limits = limits
        else:
            assert isinstance(endpoint, TcpDialer)
            endpoint._handshake_timeout = handshake_timeout

    def under_way(self, endpoint: Listener | Dialer) -> int:
        assert isinstance(endpoint, TcpListener | TcpDialer)
        return len(endpoint._openings) + len(list(endpoint._connections))

    @asynccontextmanager
    async def send(self, address: Address) -> AsyncIterator[Callable[[bytes], None]]:
        with hostile_tcp.silent(address) as sock:
            yield sock.sendall

    async def raw_client(
        self,
        address: Address,
        *,
        credentials: Credentials | None = None,
        alpn: Sequence[str] = ALPN,
    ) -> bool:
        outcome = await hostile_tcp.raw_client(address, credentials=credentials, alpn=alpn)
        return outcome.confirmed

    @asynccontextmanager
    async def raw_server(
        self, credentials: Credentials, *, alpn: Sequence[str] = ALPN
    ) -> AsyncIterator[Address]:
        async with hostile_tcp.raw_server(credentials, PKI.trust, alpn=alpn) as server:
            yield server.address

    def hello(self) -> bytes:
        return hostile_tcp.client_hello()


GROUNDS: dict[str, Callable[[AsyncExitStack], Ground]] = {
    "quic": QuicGround,
    "quic native": NativeGround,
    "tcp": TcpGround,
}
