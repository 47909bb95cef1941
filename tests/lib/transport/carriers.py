"""The carriers under test, and what the contract suite needs of each.

Words: the *near* end of a connection dialled, the *far* end was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.transport.carrier import Connection, Dialer, Listener, Stream
from outrelay.lib.transport.memory import MAX_STREAMS, MemoryNetwork

LOOPBACK = ("127.0.0.1", 0)
AGENT = Identity.parse("outrelay://acme/agent/0f8fad5b-d9cb-469f-a165-70867728950e")
RELAY = Identity.parse("outrelay://local/relay/r1")
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


async def join(listener: Listener, dialer: Dialer, roles: Collection[Role] = (Role.RELAY,)) -> Pair:
    """A connection of ``dialer`` to ``listener``."""
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(listener.accept(), name="accept")
        dialling = group.create_task(dialer.dial(listener.address, roles=roles), name="dial")
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


HARNESSES: dict[str, Callable[[], Harness]] = {"memory": MemoryHarness}
