"""TLS layers joined by hand: who is let in, what is told, and bytes both ways."""

from __future__ import annotations

import random
import ssl
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrelay.lib.errors import Closed, ErrorCode, IdentityError
from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.identity.issue import new_key
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.tcp import tls
from outrelay.lib.transport.tcp.tls import (
    HANDSHAKE_MOST,
    RECORD,
    HandshakeFailed,
    TlsContext,
    TlsLayer,
    records,
    sealed,
)
from tests.support.hostile_quic import tls12_client_hello
from tests.support.pki import Hostile, Issuer, TestPki

PKI = TestPki()
AGENT = PKI.agent()
RELAY = PKI.relay()

REASONS = {
    Hostile.WRONG_CA: (
        "does not lead to a CA we trust",
        "our certificate does not lead to a CA it trusts",
    ),
    Hostile.SELF_SIGNED: (
        "does not lead to a CA we trust",
        "our certificate does not lead to a CA it trusts",
    ),
    Hostile.SIGNED_BY_LEAF: (
        "does not lead to a CA we trust",
        "our certificate does not lead to a CA it trusts",
    ),
    Hostile.EXPIRED: ("has expired", "our certificate has expired"),
    Hostile.NOT_YET_VALID: (
        "is not valid yet",
        "it takes our certificate for bad, or for not valid yet",
    ),
    Hostile.NO_URI: ("holds no outrelay:// URI SAN", ""),
    Hostile.TWO_URIS: ("holds 2 outrelay:// URI SANs", ""),
    Hostile.DNS_ONLY: ("holds no outrelay:// URI SAN", ""),
    Hostile.WRONG_ROLE: ("expected the role", ""),
    Hostile.WRONG_USAGE: ("extended key usage", "our certificate is not for this usage"),
    Hostile.NO_USAGE: ("extended key usage", ""),
}
"""What we have against each kind, and what the other side hears; empty: nothing from TLS."""


class Ends:
    """Both ends of a connection, and how their handshakes ended."""

    def __init__(
        self,
        client: Credentials = AGENT,
        server: Credentials = RELAY,
        *,
        alpn: tuple[str, str] = ("orp/1", "orp/1"),
        server_name: str = "localhost",
        trust: Trust = PKI.trust,
    ) -> None:
        self.client = TlsContext(credentials=client, trust=trust, server=False, alpn=alpn[0]).layer(
            {Role.RELAY}, server_name
        )
        self.server = TlsContext(credentials=server, trust=trust, server=True, alpn=alpn[1]).layer(
            {Role.AGENT}
        )
        self.faults: dict[TlsLayer, HandshakeFailed | None] = {}

    def shake(self) -> None:
        """Go through the handshake, as far as both sides like."""
        while True:
            before = len(self.faults)
            moved = 0
            for one, other in ((self.client, self.server), (self.server, self.client)):
                self._advance(one)
                moved += carry(one, other)
            if not moved and len(self.faults) == before:
                return

    def _advance(self, layer: TlsLayer) -> None:
        if layer in self.faults:
            return
        try:
            if layer.advance():
                self.faults[layer] = None
        except HandshakeFailed as failure:
            self.faults[layer] = failure


def connected() -> Ends:
    ends = Ends()
    ends.shake()
    assert ends.faults == {ends.client: None, ends.server: None}
    return ends


def carry(one: TlsLayer, other: TlsLayer) -> int:
    data = one.take()
    other.receive(data)
    return len(data)


def read(layer: TlsLayer, size: int = 1 << 20) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: layer.read_into(memoryview(buffer))])


# --- who is let in -------------------------------------------------------------------------


def test_each_side_knows_the_other() -> None:
    ends = connected()
    assert (ends.client.peer.identity, ends.server.peer.identity) == (
        RELAY.identity,
        AGENT.identity,
    )
    assert (ends.client.peer.expires, ends.server.peer.expires) == (RELAY.expires, AGENT.expires)


@pytest.mark.parametrize("kind", Hostile)
def test_a_server_refuses_the_certificate(kind: Hostile) -> None:
    ends = Ends(client=PKI.hostile(kind, role=Role.AGENT, usage=Usage.CLIENT))
    ends.shake()
    ours, told = REASONS[kind]
    failure = ends.faults[ends.server]
    assert failure is not None
    assert (failure.cause, failure.final) == (Cause.CERTIFICATE, True)
    assert ours in failure.reason
    assert failure.told is bool(told)
    assert ends.faults[ends.client] is None  # TLS 1.3: it has heard of nothing yet
    if told:
        with pytest.raises(Closed) as closed:
            read(ends.client)
        assert (closed.value.code, closed.value.by_peer) == (ErrorCode.DENIED, True)
        assert closed.value.reason == f"refused by the peer: {told}"


@pytest.mark.parametrize("kind", Hostile)
def test_a_client_refuses_the_certificate(kind: Hostile) -> None:
    ends = Ends(server=PKI.hostile(kind, role=Role.RELAY, usage=Usage.SERVER))
    ends.shake()
    ours, told = REASONS[kind]
    failure = ends.faults[ends.client]
    assert failure is not None
    assert (failure.cause, failure.final, failure.told) == (Cause.CERTIFICATE, True, bool(told))
    assert ours in failure.reason
    heard = ends.faults[ends.server]
    if told:
        assert heard is not None
        assert (heard.cause, heard.final) == (Cause.PEER, True)
        assert heard.reason == f"refused by the peer: {told}"
    else:
        assert heard is None


def test_the_servers_name_is_looked_at() -> None:
    ends = Ends(server_name="relay.example")
    ends.shake()
    failure = ends.faults[ends.client]
    assert failure is not None
    assert "is not for the server name relay.example" in failure.reason


def test_without_a_server_name_any_will_do() -> None:
    ends = Ends(server=PKI.forge(RELAY.identity, dns_names=()), server_name="")
    ends.shake()
    assert ends.faults[ends.client] is None


def test_a_certificate_without_its_key_is_worth_nothing() -> None:
    with pytest.raises(IdentityError, match="cannot be used for TLS: key values mismatch"):
        Ends(client=replace(AGENT, private_key=new_key()))


@pytest.mark.parametrize("kind", [Hostile.WRONG_USAGE, Hostile.NO_USAGE])
def test_what_a_certificate_is_not_for_is_said(kind: Hostile) -> None:
    as_client = PKI.hostile(kind, role=Role.AGENT, usage=Usage.CLIENT)
    as_server = PKI.hostile(kind, role=Role.RELAY, usage=Usage.SERVER)
    for ends, usage in ((Ends(client=as_client), "clients"), (Ends(server=as_server), "servers")):
        ends.shake()
        assert f"is not for {usage} (extended key usage)" in " ".join(
            map(str, ends.faults.values())
        )


@pytest.mark.parametrize("alpn", [("h3", "orp/1"), ("orp/1", "h3")])
def test_both_sides_refuse_another_protocol(alpn: tuple[str, str]) -> None:
    ends = Ends(alpn=alpn)
    ends.shake()
    for failure in ends.faults.values():
        assert failure is not None
        assert (failure.cause, failure.final, failure.told) == (Cause.ALPN, True, False)


def foreign(*, newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> bytes:
    """The first message of a client that shows no certificate and asks for no protocol."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = newest
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def wrapped(message: bytes) -> bytes:
    """A message of the handshake inside of a record."""
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (foreign(newest=ssl.TLSVersion.TLSv1_2), "unsupported protocol"),
        (wrapped(tls12_client_hello()), "unsupported protocol"),
        (b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", "http request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "wrong version number"),
        (bytes(300), "wrong version number"),
        (random.Random(1).randbytes(300), "wrong version number"),
    ],
)
def test_what_is_no_tls_of_ours_is_refused(data: bytes, reason: str) -> None:
    server = Ends().server
    server.receive(data)
    with pytest.raises(HandshakeFailed) as failure:
        server.advance()
    assert (failure.value.cause, failure.value.final) == (Cause.HANDSHAKE, False)
    assert failure.value.reason == f"no TLS 1.3 handshake: {reason}"


def test_a_handshake_without_an_end_is_refused() -> None:
    server = Ends().server
    server.receive(wrapped(b"\x01" + (100_000).to_bytes(3, "big")))
    piece = wrapped(bytes(RECORD))
    with pytest.raises(HandshakeFailed, match="too long"):
        for _ in range(2 * HANDSHAKE_MOST // len(piece)):
            server.receive(piece)
            assert not server.advance()


def test_a_client_without_certificate_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["orp/1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    server = Ends().server
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server.receive(outgoing.read())
    assert not server.advance()
    incoming.write(server.take())
    client.do_handshake()
    server.receive(outgoing.read())
    with pytest.raises(HandshakeFailed, match="a client certificate is required") as failure:
        server.advance()
    assert failure.value.cause is Cause.CERTIFICATE
    incoming.write(server.take())
    with pytest.raises(ssl.SSLError, match="certificate required"):
        client.read()


def test_no_tickets_are_sent() -> None:
    ends = Ends()
    assert not ends.client.advance()
    carry(ends.client, ends.server)
    assert not ends.server.advance()
    carry(ends.server, ends.client)
    assert ends.client.advance()
    carry(ends.client, ends.server)
    assert ends.server.advance()
    assert ends.server.take() == b""


def test_two_cas_are_trusted_at_once() -> None:
    other = TestPki()
    both = Trust(certificates=(*other.trust.certificates, *PKI.trust.certificates))
    ends = Ends(server=other.relay(), trust=both)
    ends.shake()
    assert ends.faults == {ends.client: None, ends.server: None}


def test_a_ca_that_is_no_root_is_trusted_when_it_is_listed() -> None:
    """OpenSSL would have the root, too: the verifier of both carriers does not."""
    made = PKI.forge(AGENT.identity, common_name="a ca", uris=(), dns_names=(), usages=(), ca=True)
    middle = Issuer(certificate=made.certificate, private_key=made.private_key)
    agent, relay = (PKI.forge(each.identity, issuer=middle) for each in (AGENT, RELAY))
    ends = Ends(agent, relay, trust=Trust(certificates=(middle.certificate,)))
    ends.shake()
    assert ends.faults == {ends.client: None, ends.server: None}


def test_the_key_is_left_nowhere() -> None:
    before = open_files()
    Ends()
    assert open_files() == before


def open_files() -> set[str]:
    """The descriptors of this process; the one that lists them is among them."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


class Unreadable(bytes):
    """A TLS object whose peer sent what OpenSSL takes for a certificate, and others do not."""

    @property
    def _sslobj(self) -> Unreadable:
        return self

    def get_unverified_chain(self) -> list[Unreadable]:
        return [self]

    def public_bytes(self, _: object) -> bytes:
        return self


def test_a_certificate_that_only_openssl_can_read_is_refused() -> None:
    with pytest.raises(IdentityError, match="peer certificate: cannot be read"):
        tls._chain(cast("ssl.SSLObject", Unreadable(b"no DER")))


# --- bytes ---------------------------------------------------------------------------------


def test_bytes_get_through_in_any_pieces() -> None:
    ends = connected()
    sent = random.Random(2).randbytes(300_000)
    view = memoryview(bytearray(sent))
    for at in range(0, len(sent), 70_000):
        ends.client.write(view[at : at + 70_000])
    ciphertext = ends.client.take()
    assert ends.client.take() == b""
    got = b""
    for at in range(0, len(ciphertext), 10_007):
        ends.server.receive(ciphertext[at : at + 10_007])
        got += read(ends.server)
    assert got == sent
    assert read(ends.server) == b""


def test_a_read_fills_its_buffer_over_many_records() -> None:
    ends = connected()
    ends.client.write(bytes(10 * RECORD))
    carry(ends.client, ends.server)
    buffer = memoryview(bytearray(4 * RECORD + 100))
    assert ends.server.read_into(buffer) == len(buffer)
    assert len(read(ends.server)) == 6 * RECORD - 100


@pytest.mark.parametrize("size", [0, 1, RECORD, RECORD + 1, 10 * RECORD])
def test_what_plaintext_becomes_and_what_of_it_is_no_record_yet(size: int) -> None:
    ends = connected()
    ends.client.write(bytes(size))
    data = ends.client.take()
    assert len(data) == sealed(size)
    ends.server.receive(data[: RECORD // 2])
    rest = ends.server.undecrypted
    assert rest == min(len(data), RECORD // 2)
    ends.server.receive(data[RECORD // 2 :])
    assert len(read(ends.server)) == size
    assert ends.server.undecrypted == 0


def test_an_empty_write_is_nothing() -> None:
    ends = connected()
    ends.client.write(b"")
    assert ends.client.take() == b""


def test_the_end_is_told_behind_the_last_bytes() -> None:
    ends = connected()
    ends.client.write(b"the last")
    ends.client.end()
    carry(ends.client, ends.server)
    assert read(ends.server) == b"the last"
    assert ends.server.ended or (read(ends.server), ends.server.ended) == (b"", True)
    ends.server.write(b"an answer")
    carry(ends.server, ends.client)
    ends.server.end()
    ends.server.end()
    ends.server.take()
    ends.server.write(b"too late")
    assert ends.server.take() == b""


def test_bytes_before_the_damage_are_delivered_and_then_it_is_told() -> None:
    ends = connected()
    ends.client.write(b"whole")
    whole = ends.client.take()
    ends.client.write(b"broken")
    broken = bytearray(ends.client.take())
    broken[-1] ^= 1
    ends.server.receive(whole + broken)
    assert read(ends.server) == b"whole"
    for _ in range(2):
        with pytest.raises(Closed, match="broken TLS") as closed:
            read(ends.server)
        assert (closed.value.code, closed.value.by_peer) == (ErrorCode.PROTOCOL, False)
    assert ends.server.take()  # the alert
    ends.server.write(b"nobody reads this")
    ends.server.end()
    assert ends.server.take() == b""


def test_a_peer_that_breaks_off_with_an_alert_is_named() -> None:
    ends = connected()
    ends.client.write(b"x")
    broken = bytearray(ends.client.take())
    broken[-1] ^= 1
    ends.server.receive(broken)
    with pytest.raises(Closed):
        read(ends.server)
    carry(ends.server, ends.client)
    with pytest.raises(Closed, match="refused by the peer: bad record mac") as closed:
        read(ends.client)
    assert (closed.value.code, closed.value.by_peer) == (ErrorCode.PROTOCOL, True)


# ---- what is sent --------------------------------------------------------------------------


@given(st.lists(st.sampled_from([1, 11, 12, RECORD - 1, RECORD, RECORD + 1, 5 * RECORD - 12])))
def test_parts_go_out_in_order_and_in_whole_records(sizes: list[int]) -> None:
    parts = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    writes = [bytes(each) for each in records(parts)]
    assert b"".join(writes) == b"".join(parts)
    spent = sum(-(-len(each) // RECORD) for each in writes)
    large = sum(size > RECORD for size in sizes)
    assert spent <= -(-sum(sizes) // RECORD) + large  # at most one that is not full behind each


def test_of_a_large_part_little_is_copied() -> None:
    frame = bytes(12), bytes(16 * RECORD - 12)
    head, rest = filter(None, records(frame))
    assert (len(head), len(rest)) == (RECORD, 15 * RECORD)
    assert isinstance(rest, memoryview)
    assert rest.obj is frame[1]
