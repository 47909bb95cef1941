"""Datagrams of nobody: whoever is served notices none of them."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
import pytest_asyncio

from outrelay.lib.values import Address
from tests.integration.attackers import Crowd, Mallories, unnoticed, until_times
from tests.integration.carriers import NATIVE
from tests.integration.world import World
from tests.support.hostile_quic import Hello

pytestmark = pytest.mark.asyncio(loop_scope="session")
CARRIERS = ("quic", NATIVE)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(modules_world: World) -> World:
    """A world of its own: what attacks leave is nobody else's."""
    return modules_world


async def test_100_000_random_datagrams(world: World) -> None:
    target, mark = await world.relay.listening(carrier="quic"), world.relay.mark()
    async with unnoticed(world) as somebody:
        await asyncio.to_thread(_send_noise, target, 100_000)
        await somebody.go_on()
        await until_times(world.relay, 10_000, "datagrams dropped", mark)  # the kernel drops, too


def _send_noise(target: Address, number: int) -> None:
    chance = random.Random(1)
    noise = chance.randbytes(1 << 16)
    heads = (b"", b"\x40", b"\xc0\x00\x00\x00\x01\x08", b"\xe0\x00\x00\x00\x01\x08", b"\xc0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.9", 0))
        for _ in range(number):
            size, start = chance.randrange(1, 1400), chance.randrange(1 << 15)
            sock.sendto(chance.choice(heads) + noise[start : start + size], target)


async def test_10_000_first_packets_from_changing_addresses(world: World) -> None:
    hello, chance = Hello(), random.Random(2)
    with Crowd(await world.relay.listening(carrier="quic")) as crowd:
        async with unnoticed(world) as somebody:
            for number in range(10_000):
                address = ".".join(str(chance.randrange(1, 255)) for _ in range(3))
                crowd.send(hello.initial(), f"127.{address}")
                if number % 20 == 0:
                    await asyncio.sleep(0)
            await somebody.go_on(20)
            async with Mallories(world).mallory():
                pass  # whoever is right gets in
    assert len(crowd.received) > 5_000
    # quinn-proto begins a datagram while anything is left of what is allowed: one may be too much
    more = 1200 if world.carriers.engine == "native" else 0
    assert all(size <= 3 * crowd.sent[address] + more for address, size in crowd.received.items())
