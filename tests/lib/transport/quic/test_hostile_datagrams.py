"""Peers that must not get in, by ways that only QUIC has: datagrams of nobody, floods, Retries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from outrelay.lib.errors import Refused
from outrelay.lib.identity.issue import new_key
from outrelay.lib.identity.uri import Role
from tests.lib.transport.carriers import LOOPBACK, PKI
from tests.lib.transport.grounds import QuicGround
from tests.support.hostile_quic import (
    Hello,
    Prober,
    initial,
    is_retry,
    raw_client,
    raw_server,
)
from tests.support.impair import UdpPort

NOISE = random.Random(1).randbytes(2000)
HTTP = b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"


@pytest.fixture
async def ground() -> AsyncIterator[QuicGround]:
    async with AsyncExitStack() as stack:
        yield QuicGround(stack)


async def test_a_certificate_without_its_key_is_worth_nothing(ground: QuicGround) -> None:
    listener = await ground.listen()
    dialer = await ground.dialer(replace(PKI.agent(), private_key=new_key()))
    with pytest.raises(Refused):
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert len(ground.refusals) == 1
    impostor = await ground.listen(replace(PKI.relay(), private_key=new_key()))
    with pytest.raises(Refused):
        await (await ground.dialer()).dial(impostor.address, roles={Role.RELAY})
    await ground.check_serves(listener)


@pytest.mark.parametrize("shows_nothing", [False, True], ids=["empty", "left out"])
async def test_a_client_without_certificate_is_refused(
    ground: QuicGround, *, shows_nothing: bool
) -> None:
    listener = await ground.listen()
    async with raw_client(listener.address, shows_nothing=shows_nothing) as client:
        outcome = client.outcome.result()
    assert not outcome.confirmed
    assert outcome.alert == (10 if shows_nothing else 116)  # unexpected_message
    assert len(ground.refusals) == 1
    await ground.check_serves(listener)


async def test_a_server_that_asks_for_no_certificate_is_refused(ground: QuicGround) -> None:
    dialer = await ground.dialer()
    async with raw_server(PKI.relay()) as server:
        with pytest.raises(Refused, match="did not ask for our certificate"):
            await dialer.dial(server.port.address, roles={Role.RELAY})
        assert not (await server.outcome).confirmed


# --- datagrams of nobody -----------------------------------------------------------------


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x00",
        HTTP,
        NOISE[:1200],
        b"\x40" + NOISE[:1300],
        b"\xc0\x00\x00\x00\x01\x08" + NOISE[:1300],
        b"\xc0\x00\x00\x00\x01\xff" + NOISE[:20],
        initial(HTTP)[:1100],
        initial(HTTP, token=NOISE[:64]),
        b"\xc0\xfa\xce\xb0\x0c\x08" + NOISE[:1100],
    ],
    ids=[
        "one byte", "HTTP", "noise", "short header", "Initial of noise", "endless id",
        "small Initial", "forged token", "small packet of another version",
    ],
)  # fmt: skip
async def test_the_listener_keeps_nothing_of_noise(ground: QuicGround, datagram: bytes) -> None:
    listener = await ground.listen()
    with Prober(listener.address) as prober:
        prober.send(datagram)
        await ground.check_serves(listener)
        # A stateless reset may answer: shorter than what it answers, and nothing is kept.
        assert all(len(reply) < min(len(datagram), 42) for reply in prober.replies)
    assert not ground.refusals
    assert ground.under_way(listener) == 1


async def test_another_version_hears_which_one_is_spoken(ground: QuicGround) -> None:
    listener = await ground.listen()
    with Prober(listener.address) as prober:
        prober.send(b"\xc0\xfa\xce\xb0\x0c\x08" + NOISE[:8] + b"\x08" + NOISE[8:16] + bytes(1200))
        reply = await prober.reply()
    assert reply[1:5] == bytes(4)  # version negotiation
    assert reply[-4:] == b"\x00\x00\x00\x01"
    assert ground.under_way(listener) == 0


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "noise": lambda _: NOISE[:1200],
    "HTTP": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "its own datagram": lambda data: data,
    "noise behind a fitting header": lambda data: (
        data[:5] + b"\x08" + source_id(data) + b"\x08" + NOISE[:1100]
    ),
    "a forged Retry": lambda data: (
        b"\xf0\x00\x00\x00\x01\x08" + source_id(data) + b"\x08" + NOISE[:8] + NOISE[:80]
    ),
    "another version": lambda data: (
        b"\xc0" + bytes(4) + b"\x08" + source_id(data) + b"\x08" + data[6:14] + b"\xfa\xce\xb0\x0c"
    ),
}


def source_id(datagram: bytes) -> bytes:
    """The connection id that the sender of an Initial chose for itself."""
    at = 6 + datagram[5]
    return datagram[at + 1 : at + 1 + datagram[at]]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_dial_that_meets_no_relay_is_refused(ground: QuicGround, answer: str) -> None:
    dialer = await ground.dialer(timeout=0.2)
    port = UdpPort(LOOPBACK, lambda data, sender: port.send(ANSWERS[answer](data), sender))
    try:
        with pytest.raises(Refused) as refusal:
            await dialer.dial(port.address, roles={Role.RELAY})
    finally:
        port.close()
    assert refusal.value.reason
    assert not refusal.value.final
    await ground.check_dials(dialer)
    await ground.until_forgotten(dialer, but=1)


# --- too many --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["silent afterwards", "refused at once"])
async def test_10000_initials_from_one_address(ground: QuicGround, kind: str) -> None:
    listener = await ground.listen(retry_above=64)
    hello = Hello()
    if kind == "refused at once":
        hello.source = b"another."
    most = 0
    with Prober(listener.address) as prober:
        for number in range(10_000):
            prober.send(hello.initial())
            if number % 50 == 49:
                await asyncio.sleep(0)
                most = max(most, ground.under_way(listener))
        await ground.check_serves(listener)
        assert 0 < most <= 64
        assert sum(map(is_retry, prober.replies)) > 9_000


async def test_handshakes_that_hold_every_place_give_them_back(ground: QuicGround) -> None:
    listener = await ground.listen(handshake_timeout=0.5, retry_above=0, handshakes_max=8)
    hello = Hello()
    with Prober(listener.address) as prober:
        for _ in range(8):
            prober.send(hello.initial())
            while not is_retry(reply := await prober.reply()):
                pass
            prober.send(hello.after(reply))
        prober.send(hello.initial())  # no place, no answer
        await ground.until_refused(8)
        assert ground.under_way(listener) == 8
        assert not any(map(is_retry, prober.replies))
        await ground.until_forgotten(listener, but=0)
    await ground.check_serves(listener)
