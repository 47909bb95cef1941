"""A UDP path that delays, loses, reorders and limits, seeded: a network in a test's hands.

The proxy stands between one server and any number of clients. Each client gets a socket of
its own towards the server (an *upstream*), as a NAT would give it. Both directions are
impaired alike, each with its own random sequence from the seed, so that the fate of the
n-th datagram of a direction is always the same.

    async with UdpProxy(server_address, Impairment(delay=0.02, loss=0.01), seed=7) as proxy:
        ... talk to proxy.address ...
        proxy.path = Impairment(blackhole=True)

Beside what the path does to everybody, it can fail as paths do: ``mute`` one direction,
``sever`` the clients there are, ``move`` them to another address.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

Address = tuple[str, int]

SOCKET_BUFFER = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What a path does to datagrams; by default nothing.

    Args:
        delay: Seconds, each way.
        loss: Probability that a datagram is lost, 0 to 1.
        reorder: Probability that a datagram is held back by ``held``, 0 to 1.
        held: Seconds by which.
        rate: Bytes a second, each way; 0 is as fast as they come.
        queue: Bytes that may wait for their turn at that rate; more are dropped.
        mtu: Larger datagrams are dropped, and nobody is told.
        blackhole: Everything is dropped.
    """

    delay: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    held: float = 0.005
    rate: float = 0.0
    queue: int = 256 * 1024
    mtu: int = 65_535
    blackhole: bool = False


@dataclass(slots=True)
class Count:
    """What became of the datagrams of one direction."""

    passed: int = 0
    lost: int = 0
    overflowed: int = 0
    too_large: int = 0
    largest: int = 0
    """Size of the largest that passed."""

    @property
    def seen(self) -> int:
        """All of them."""
        return self.passed + self.lost + self.overflowed + self.too_large


class UdpProxy:
    """An impaired path to ``target``; an async context manager.

    Args:
        target: The server.
        path: What the path does; assign to ``path`` to change it.
        seed: Of every random choice.
    """

    def __init__(self, target: Address, path: Impairment | None = None, *, seed: int = 1) -> None:
        self.path = path or Impairment()
        self.to_server = Count()
        self.to_client = Count()
        self._target = target
        self._up = _Direction(self, self.to_server, random.Random(seed))
        self._down = _Direction(self, self.to_client, random.Random(seed + 1))
        self._front: UdpPort
        self._upstreams: dict[Address, UdpPort] = {}
        self._severed: set[Address] = set()
        self._mute = (False, False)  # up, down
        self._timers: set[asyncio.TimerHandle] = set()
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._front = UdpPort(self._target, self._from_client)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for timer in self._timers:
            timer.cancel()
        self.move()
        self._front.close()

    @property
    def address(self) -> Address:
        """Where clients find the server."""
        return self._front.address

    async def until_seen(self, count: int) -> None:
        """Wait until clients have sent ``count`` datagrams in all, whatever became of them."""
        await self._until(self.to_server, count)

    async def until_answered(self, count: int) -> None:
        """Wait until the server has sent as many."""
        await self._until(self.to_client, count)

    def move(self) -> None:
        """Give every client a new address in the server's eyes, from its next datagram on."""
        for upstream in self._upstreams.values():
            upstream.close()
        self._upstreams.clear()

    def mute(self, *, up: bool = False, down: bool = False) -> None:
        """Drop all that clients send (``up``), or the server (``down``), until told otherwise."""
        self._mute = (up, down)

    def sever(self) -> None:
        """Let nothing of the QUIC connections there are now pass any more.

        A client passes again when it begins another one, from the same port or not.
        """
        self._severed |= self._upstreams.keys()
        self.move()

    def later(self, when: float, deliver: Callable[[bytes], object], data: bytes) -> None:
        """Deliver at a time of the loop's clock."""

        def due() -> None:
            self._timers.discard(timer)
            deliver(data)

        timer = asyncio.get_running_loop().call_at(when, due)
        self._timers.add(timer)

    def _from_client(self, data: bytes, client: Address) -> None:
        if _begins_connection(data):
            self._severed.discard(client)
        if self._mute[0] or client in self._severed:
            self.to_server.lost += 1
            self._arrived.set()
            return
        if client not in self._upstreams:
            self._upstreams[client] = UdpPort(
                self._target, lambda data, _: self._from_server(data, client)
            )
        upstream = self._upstreams[client]
        self._up.carry(data, lambda data: upstream.send(data, self._target))
        self._arrived.set()

    def _from_server(self, data: bytes, client: Address) -> None:
        if self._mute[1]:
            self.to_client.lost += 1
        else:
            self._down.carry(data, lambda data: self._front.send(data, client))
        self._arrived.set()

    async def _until(self, direction: Count, count: int) -> None:
        while direction.seen < count:
            self._arrived.clear()
            await self._arrived.wait()


def _begins_connection(data: bytes) -> bool:
    """Whether a datagram begins with an Initial packet of QUIC version 1 (RFC 9000 17.2.2)."""
    return data[0] & 0xF0 == 0xC0


class _Direction:
    """Datagrams one way: decides the fate of each."""

    def __init__(self, proxy: UdpProxy, count: Count, chance: random.Random) -> None:
        self._proxy = proxy
        self._count = count
        self._chance = chance
        self._free_at = 0.0  # when the last datagram has left at the path's rate
        self._last = 0.0  # when the last one arrives that was not held back

    def carry(self, data: bytes, deliver: Callable[[bytes], object]) -> None:
        path, count = self._proxy.path, self._count
        lost = self._chance.random() < path.loss
        held = self._chance.random() < path.reorder
        if len(data) > path.mtu:
            count.too_large += 1
        elif lost or path.blackhole:
            count.lost += 1
        elif (when := self._arrival(len(data), held=held)) is None:
            count.overflowed += 1
        else:
            count.passed += 1
            count.largest = max(count.largest, len(data))
            self._proxy.later(when, deliver, data)

    def _arrival(self, size: int, *, held: bool) -> float | None:
        """When a datagram arrives; None when the queue is full."""
        path = self._proxy.path
        leaves = asyncio.get_running_loop().time()
        if path.rate:
            start = max(leaves, self._free_at)
            if (start - leaves) * path.rate > path.queue:
                return None
            leaves = self._free_at = start + size / path.rate
        if held:
            return leaves + path.delay + path.held
        # Two of one instant would leave the loop's heap in any order.
        self._last = max(leaves + path.delay, self._last + 1e-7)
        return self._last


class UdpPort:
    """A UDP socket that reports what it receives, and loses what it cannot send.

    Args:
        like: An address whose host it binds, on a port the system chooses.
        received: Called with each datagram and its sender.
    """

    def __init__(self, like: Address, received: Callable[[bytes, Address], None]) -> None:
        self._received = received
        family = socket.AF_INET6 if ":" in like[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        self.socket.bind((like[0], 0))
        asyncio.get_running_loop().add_reader(self.socket, self._readable)

    @property
    def address(self) -> Address:
        """Where it is bound."""
        host, port = self.socket.getsockname()[:2]
        return host, port

    def send(self, data: bytes, address: Address) -> None:
        """Send one datagram."""
        with suppress(OSError):
            self.socket.sendto(data, address)

    def close(self) -> None:
        """Give the socket back."""
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()

    def _readable(self) -> None:
        with suppress(OSError):  # also: nothing more to read
            for _ in range(64):  # then others get their turn
                data, sender = self.socket.recvfrom(65_535)
                self._received(data, sender[:2])
