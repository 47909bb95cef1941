"""Peers that must not get in: refused inside the handshake, by listener and dialler.

Words: the *hostile* side is the one that is wrong; the other is ours and must refuse it,
say why, stay up and keep its memory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from outrelay.lib.errors import Refused
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.issue import new_key
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic import QuicEndpoint
from outrelay.lib.transport.quic.engine import EngineOptions
from outrelay.lib.transport.refusal import NO_HANDSHAKE, Refusal
from tests.lib.transport.carriers import LOOPBACK, PKI, join
from tests.support.hostile_quic import (
    Hello,
    Prober,
    initial,
    is_retry,
    raw_client,
    raw_server,
    tls12_client_hello,
)
from tests.support.impair import UdpPort
from tests.support.pki import Hostile

CAUSES = {
    Hostile.WRONG_CA: "does not lead to a CA we trust",
    Hostile.SELF_SIGNED: "does not lead to a CA we trust",
    Hostile.SIGNED_BY_LEAF: "does not lead to a CA we trust",
    Hostile.EXPIRED: "expired at",
    Hostile.NOT_YET_VALID: "is not valid before",
    Hostile.NO_URI: "holds no outrelay:// URI SAN",
    Hostile.TWO_URIS: "holds 2 outrelay:// URI SANs",
    Hostile.DNS_ONLY: "holds no outrelay:// URI SAN",
    Hostile.WRONG_ROLE: "expected the role",
    Hostile.WRONG_USAGE: "extended key usage",
    Hostile.NO_USAGE: "extended key usage",
}

NOISE = random.Random(1).randbytes(2000)
HTTP = b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"


class Ground:
    """Endpoints of a test, and what they refused."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.refusals: list[tuple[Address, str]] = []
        self._refused = asyncio.Event()
        self._stack = stack

    async def listen(
        self,
        credentials: Credentials | None = None,
        *,
        handshake_timeout: float = 10.0,
        retry_above: int = 64,
        handshakes_max: int = 1024,
    ) -> QuicEndpoint:
        """A listener, a relay's unless told otherwise."""
        return await self._bind(
            EngineOptions(
                credentials=credentials or PKI.relay(),
                trust=PKI.trust,
                accept_roles=frozenset({Role.AGENT, Role.RELAY}),
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
        """A dialler, an agent's unless told otherwise."""
        return await self._bind(
            EngineOptions(
                credentials=credentials or PKI.agent(),
                trust=PKI.trust,
                alpn=alpn,
                handshake_timeout=timeout,
            )
        )

    async def until_refused(self, count: int = 1) -> None:
        """Wait until the listeners have refused so many."""
        while len(self.refusals) < count:
            self._refused.clear()
            await self._refused.wait()

    async def check_serves(self, listener: QuicEndpoint) -> None:
        """Whoever is right gets in, and is the first to be accepted."""
        agent = PKI.agent()
        pair = await join(listener, await self.dialer(agent))
        assert pair.far.peer == agent.identity

    async def check_dials(self, dialer: QuicEndpoint) -> None:
        """The dialler gets through to whoever is right."""
        await join(await self.listen(), dialer)

    async def _bind(self, options: EngineOptions) -> QuicEndpoint:
        endpoint = await QuicEndpoint.bind(
            LOOPBACK,
            credentials=options.credentials,
            trust=options.trust,
            on_refused=self._on_refused,
            options=options,
        )
        self._stack.push_async_callback(endpoint.close)
        return endpoint

    def _on_refused(self, refusal: Refusal) -> None:
        if refusal.cause not in NO_HANDSHAKE:
            self.refusals.append((refusal.address, refusal.reason))
            self._refused.set()


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    async with AsyncExitStack() as stack:
        yield Ground(stack)


async def until_forgotten(endpoint: QuicEndpoint, *, but: int) -> None:
    """Wait until the engine keeps no more than so many connections."""
    while under_way(endpoint) > but:  # noqa: ASYNC110 - memory has no event
        await asyncio.sleep(0.01)


def under_way(endpoint: QuicEndpoint) -> int:
    """Connections the engine keeps in memory."""
    return len(endpoint._engine._links)  # type: ignore[attr-defined]


# --- certificates ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Hostile)
async def test_the_listener_refuses_the_certificate(ground: Ground, kind: Hostile) -> None:
    listener = await ground.listen()
    dialer = await ground.dialer(PKI.hostile(kind, role=Role.AGENT, usage=Usage.CLIENT))
    with pytest.raises(Refused, match=CAUSES[kind]) as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert refusal.value.final
    [(address, reason)] = ground.refusals
    assert address == dialer.address
    assert CAUSES[kind] in reason
    await ground.check_serves(listener)


@pytest.mark.parametrize("kind", Hostile)
async def test_the_dialler_refuses_the_certificate(ground: Ground, kind: Hostile) -> None:
    hostile = PKI.hostile(kind, role=Role.RELAY, usage=Usage.SERVER)
    listener, dialer = await ground.listen(hostile), await ground.dialer()
    with pytest.raises(Refused, match=CAUSES[kind]) as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert refusal.value.final
    await ground.until_refused()
    [(_, reason)] = ground.refusals
    assert CAUSES[kind] in reason  # it is told why
    await ground.check_dials(dialer)


async def test_a_certificate_without_its_key_is_worth_nothing(ground: Ground) -> None:
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
    ground: Ground, *, shows_nothing: bool
) -> None:
    listener = await ground.listen()
    async with raw_client(listener.address, shows_nothing=shows_nothing) as client:
        outcome = client.outcome.result()
    assert not outcome.confirmed
    assert outcome.alert == (10 if shows_nothing else 116)  # unexpected_message
    [(_, reason)] = ground.refusals
    assert shows_nothing or reason == "a client certificate is required"
    await ground.check_serves(listener)


async def test_a_server_that_asks_for_no_certificate_is_refused(ground: Ground) -> None:
    dialer = await ground.dialer()
    async with raw_server(PKI.relay()) as server:
        with pytest.raises(Refused, match="did not ask for our certificate"):
            await dialer.dial(server.port.address, roles={Role.RELAY})
        assert not (await server.outcome).confirmed


# --- protocols ---------------------------------------------------------------------------


async def test_the_listener_refuses_another_alpn(ground: Ground) -> None:
    listener, dialer = await ground.listen(), await ground.dialer(alpn="h3")
    with pytest.raises(Refused, match="ALPN") as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert refusal.value.final
    assert "ALPN" in ground.refusals[0][1]
    await ground.check_serves(listener)


async def test_no_alpn_at_all_is_refused(ground: Ground) -> None:
    listener = await ground.listen()
    async with raw_client(listener.address, credentials=PKI.agent(), alpn=()) as client:
        assert not client.outcome.result().confirmed
    await ground.check_serves(listener)


async def test_the_dialler_refuses_another_alpn(ground: Ground) -> None:
    dialer = await ground.dialer()
    async with raw_server(PKI.relay(), alpn=("h3",)) as server:
        with pytest.raises(Refused, match="ALPN") as refusal:
            await dialer.dial(server.port.address, roles={Role.RELAY})
    assert refusal.value.final


async def test_a_server_that_chooses_no_alpn_is_refused(ground: Ground) -> None:
    dialer = await ground.dialer()
    async with raw_server(PKI.relay(), alpn=()) as server:
        with pytest.raises(Refused):
            await dialer.dial(server.port.address, roles={Role.RELAY})


@pytest.mark.parametrize(
    "crypto",
    [tls12_client_hello(), HTTP, bytes(300), NOISE[:300], b"\x01\xff\xff\xff" + NOISE[:300]],
    ids=["TLS 1.2", "HTTP", "zeros", "noise", "endless"],
)
async def test_another_handshake_inside_an_initial(ground: Ground, crypto: bytes) -> None:
    listener = await ground.listen(handshake_timeout=0.3)
    with Prober(listener.address) as prober:
        prober.send(initial(crypto))
        await ground.until_refused()
        assert [address for address, _ in ground.refusals] == [prober.address]
    await ground.check_serves(listener)
    await until_forgotten(listener, but=1)


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
async def test_the_listener_keeps_nothing_of_noise(ground: Ground, datagram: bytes) -> None:
    listener = await ground.listen()
    with Prober(listener.address) as prober:
        prober.send(datagram)
        await ground.check_serves(listener)
        # A stateless reset may answer: shorter than what it answers, and nothing is kept.
        assert all(len(reply) < min(len(datagram), 42) for reply in prober.replies)
    assert not ground.refusals
    assert under_way(listener) == 1


async def test_another_version_hears_which_one_is_spoken(ground: Ground) -> None:
    listener = await ground.listen()
    with Prober(listener.address) as prober:
        prober.send(b"\xc0\xfa\xce\xb0\x0c\x08" + NOISE[:8] + b"\x08" + NOISE[8:16] + bytes(1200))
        reply = await prober.reply()
    assert reply[1:5] == bytes(4)  # version negotiation
    assert reply[-4:] == b"\x00\x00\x00\x01"
    assert under_way(listener) == 0


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
async def test_a_dial_that_meets_no_relay_is_refused(ground: Ground, answer: str) -> None:
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
    await until_forgotten(dialer, but=1)


# --- too slow, too many --------------------------------------------------------------------


async def test_a_handshake_that_drips_is_ended(ground: Ground) -> None:
    listener = await ground.listen(handshake_timeout=0.3)
    hello = Hello()
    with Prober(listener.address) as prober:
        for number in range(len(hello.crypto)):
            drop = hello.crypto[number : number + 1]
            prober.send(
                initial(
                    drop,
                    destination=NOISE[:8],
                    number=number,
                    offset=number,
                    source=hello.source,
                )
            )
            await asyncio.sleep(0.01)
            if ground.refusals:
                break
        [(address, reason)] = ground.refusals
        assert address == prober.address
        assert "in time" in reason
        await ground.check_serves(listener)
        await until_forgotten(listener, but=1)


@pytest.mark.parametrize("kind", ["silent afterwards", "refused at once"])
async def test_10000_initials_from_one_address(ground: Ground, kind: str) -> None:
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
                most = max(most, under_way(listener))
        await ground.check_serves(listener)
        assert 0 < most <= 64
        assert sum(map(is_retry, prober.replies)) > 9_000


async def test_handshakes_that_hold_every_place_give_them_back(ground: Ground) -> None:
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
        assert under_way(listener) == 8
        assert not any(map(is_retry, prober.replies))
        await until_forgotten(listener, but=0)
    await ground.check_serves(listener)
