"""Peers that must not get in: refused by the listener and the dialler of every carrier."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from outrelay.lib.errors import Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.tcp import opening
from tests.lib.transport.carriers import PKI
from tests.lib.transport.grounds import GROUNDS, HURRIED, Ground
from tests.support.hostile_quic import tls12_client_hello
from tests.support.native import over_engines
from tests.support.pki import Hostile

CAUSES = {
    Hostile.WRONG_CA: "does not lead to a CA we trust",
    Hostile.SELF_SIGNED: "does not lead to a CA we trust",
    Hostile.SIGNED_BY_LEAF: "does not lead to a CA we trust",
    Hostile.EXPIRED: "expired",
    Hostile.NOT_YET_VALID: "is not valid",
    Hostile.NO_URI: "holds no outrelay:// URI SAN",
    Hostile.TWO_URIS: "holds 2 outrelay:// URI SANs",
    Hostile.DNS_ONLY: "holds no outrelay:// URI SAN",
    Hostile.WRONG_ROLE: "expected the role",
    Hostile.WRONG_USAGE: "extended key usage",
    Hostile.NO_USAGE: "extended key usage",
}

NOISE = random.Random(1).randbytes(300)
HTTP = b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n"


@pytest.fixture(params=over_engines(GROUNDS))
async def ground(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ground]:
    monkeypatch.setattr(opening, "LINGER", 0.2)
    async with AsyncExitStack() as stack:
        yield GROUNDS[request.param](stack)


# --- certificates ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Hostile)
async def test_the_listener_refuses_the_certificate(ground: Ground, kind: Hostile) -> None:
    listener = await ground.listen()
    dialer = await ground.dialer(PKI.hostile(kind, role=Role.AGENT, usage=Usage.CLIENT))
    with pytest.raises(Refused, match=ground.told.get(kind, CAUSES[kind])) as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert (refusal.value.final, refusal.value.cause) == (True, Cause.PEER)
    await ground.until_refused()
    [refused] = ground.refusals
    assert (refused.cause, refused.address[0]) == (Cause.CERTIFICATE, "127.0.0.1")
    assert CAUSES[kind] in refused.reason
    await ground.check_serves(listener)


@pytest.mark.parametrize("kind", Hostile)
async def test_the_dialler_refuses_the_certificate(ground: Ground, kind: Hostile) -> None:
    hostile = PKI.hostile(kind, role=Role.RELAY, usage=Usage.SERVER)
    listener, dialer = await ground.listen(hostile), await ground.dialer()
    with pytest.raises(Refused, match=CAUSES[kind]) as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert (refusal.value.final, refusal.value.cause) == (True, Cause.CERTIFICATE)
    await ground.until_refused()
    [refused] = ground.refusals
    assert refused.cause is Cause.PEER
    assert ground.told.get(kind, CAUSES[kind]) in refused.reason  # it is told why
    await ground.check_dials(dialer)


async def test_a_client_without_certificate_is_refused(ground: Ground) -> None:
    listener = await ground.listen()
    assert not await ground.raw_client(listener.address)
    await ground.until_refused()
    [refused] = ground.refusals
    assert (refused.cause, refused.reason) == (
        Cause.CERTIFICATE,
        "a client certificate is required",
    )
    await ground.check_serves(listener)


# --- protocols ---------------------------------------------------------------------------


async def test_the_listener_refuses_another_alpn(ground: Ground) -> None:
    listener, dialer = await ground.listen(), await ground.dialer(alpn="h3")
    with pytest.raises(Refused, match="ALPN") as refusal:
        await dialer.dial(listener.address, roles={Role.RELAY})
    assert refusal.value.final
    await ground.until_refused()
    assert "ALPN" in ground.refusals[0].reason
    await ground.check_serves(listener)


@pytest.mark.parametrize("alpn", [("h3",), ()], ids=["another", "none"])
async def test_whoever_does_not_offer_our_alpn_is_refused(
    ground: Ground, alpn: tuple[str, ...]
) -> None:
    listener = await ground.listen()
    assert await ground.raw_client(listener.address, credentials=PKI.agent())
    assert not await ground.raw_client(listener.address, credentials=PKI.agent(), alpn=alpn)
    await ground.until_refused()
    assert ground.refusals[0].cause in (Cause.ALPN, Cause.HANDSHAKE)


async def test_the_dialler_refuses_another_alpn(ground: Ground) -> None:
    dialer = await ground.dialer()
    async with ground.raw_server(PKI.relay(), alpn=("h3",)) as address:
        with pytest.raises(Refused, match="ALPN") as refusal:
            await dialer.dial(address, roles={Role.RELAY})
    assert refusal.value.final
    assert refusal.value.cause in (Cause.ALPN, Cause.PEER)  # whoever notices first


async def test_a_server_that_chooses_no_alpn_is_refused(ground: Ground) -> None:
    dialer = await ground.dialer()
    async with ground.raw_server(PKI.relay(), alpn=()) as address:
        with pytest.raises(Refused):
            await dialer.dial(address, roles={Role.RELAY})


OTHERS = {
    "TLS 1.2": tls12_client_hello(),
    "HTTP": HTTP,
    "zeros": bytes(300),
    "noise": NOISE,
    "endless": b"\x01\xff\xff\xff" + NOISE,
    "nothing much": b"\x01",
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in a record"])
async def test_another_handshake_is_refused(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, other: str, *, wrapped: bool
) -> None:
    monkeypatch.setattr(opening, "LINGER", 0.2)  # whoever is silent does not leave before
    listener = await ground.listen(handshake_timeout=HURRIED)
    data = OTHERS[other]
    async with ground.send(listener.address) as send:
        send(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data if wrapped else data)
        await ground.until_refused()
        assert ground.refusals[0].address[0] == "127.0.0.1"
    await ground.check_serves(listener)
    await ground.until_forgotten(listener, but=1)


# --- too slow --------------------------------------------------------------------------------


async def test_a_handshake_that_drips_is_ended(ground: Ground) -> None:
    listener = await ground.listen(handshake_timeout=HURRIED)
    hello = ground.hello()
    async with ground.send(listener.address) as send:
        for number in range(len(hello) - 1):
            send(hello[number : number + 1])
            await asyncio.sleep(0.01)
            if ground.refusals:
                break
        [refused] = ground.refusals
        assert (refused.cause, refused.address[0]) == (Cause.TIMEOUT, "127.0.0.1")
        assert "in time" in refused.reason
        await ground.check_serves(listener)
        await ground.until_forgotten(listener, but=1)
