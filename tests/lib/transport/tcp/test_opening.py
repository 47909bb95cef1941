"""Sockets on their way through proxy and handshake, and how that fails."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.identity.certs import Credentials
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.tcp import opening as opening_module
from outrelay.lib.transport.tcp.opening import Opening, Stage
from outrelay.lib.transport.tcp.sockets import prepare
from outrelay.lib.transport.tcp.tls import HandshakeFailed, TlsContext, TlsLayer
from outrelay.lib.transport.tcp.yamux_frames import farewell
from tests.support.pki import TestPki

pytestmark = pytest.mark.both_loops

PKI = TestPki()
RELAY, AGENT = PKI.relay(), PKI.agent()

Outcome = HandshakeFailed | None


class Ground:
    """Loopback sockets and openings of a test."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listening.getsockname()[:2]
        self._sockets = [self._listening]
        self._openings: list[Opening] = []

    def unconnected(self) -> socket.socket:
        sock = socket.socket()
        prepare(sock)
        self._sockets.append(sock)
        return sock

    def accept(self) -> socket.socket:
        """Our end of the next connection."""
        sock, _ = self._listening.accept()
        prepare(sock)
        self._sockets.append(sock)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """The two ends of a connection: one that may block, and ours."""
        far = socket.create_connection(self.address)
        self._sockets.append(far)
        return far, self.accept()

    def open(
        self, sock: socket.socket, tls: TlsLayer, *, before: Stage | None = None, limit: float = 5
    ) -> tuple[Opening, asyncio.Future[Outcome]]:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        made = Opening(
            sock,
            tls,
            before=before,
            limit=limit,
            on_over=lambda _, failure: outcome.set_result(failure),
        )
        self._openings.append(made)
        return made, outcome

    def serve(
        self, sock: socket.socket, *, limit: float = 5, credentials: Credentials = RELAY
    ) -> asyncio.Future[Outcome]:
        made, outcome = self.open(sock, server(credentials), limit=limit)
        made.begin()
        return outcome

    def close(self) -> None:
        for opening in self._openings:
            opening.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    ground = Ground()
    yield ground
    ground.close()


class Ask:
    """A stage that says something and is content with the first answer."""

    def __init__(self, question: bytes, *, fails: bool = False) -> None:
        self.question = question
        self.answer = b""
        self.fails = fails

    def receive(self, data: bytes) -> None:
        self.answer += data

    def advance(self) -> bool:
        if self.answer and self.fails:
            raise HandshakeFailed(Cause.HANDSHAKE, "no", told=True)
        return bool(self.answer)

    def take(self) -> bytes:
        question, self.question = self.question, b""
        return question


def client(credentials: Credentials = AGENT) -> TlsLayer:
    context = TlsContext(credentials=credentials, trust=PKI.trust, server=False)
    return context.layer({Role.RELAY}, "localhost")


def server(credentials: Credentials = RELAY) -> TlsLayer:
    return TlsContext(credentials=credentials, trust=PKI.trust, server=True).layer({Role.AGENT})


async def answered(sock: socket.socket, wanted: int = 1) -> bytes:
    data = b""
    while len(data) < wanted:
        data += await asyncio.to_thread(sock.recv, 1 << 20)
    return data


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- well ----------------------------------------------------------------------------------


async def test_both_ends_get_through(ground: Ground) -> None:
    sock = ground.unconnected()
    dialling, dialled = ground.open(sock, client())
    dialling.connect(ground.address)
    accepted = ground.serve(ground.accept())
    assert (await dialled, await accepted) == (None, None)
    assert dialling.tls.peer.identity == RELAY.identity
    assert sock.fileno() != -1


async def test_the_handshake_comes_behind_the_stage_before_it(ground: Ground) -> None:
    dialling, dialled = ground.open(ground.unconnected(), client(), before=Ask(b"lead me on"))
    dialling.connect(ground.address)
    sock = ground.accept()
    sock.setblocking(True)
    assert await answered(sock) == b"lead me on"
    sock.sendall(b"go on")
    prepare(sock)
    assert (await ground.serve(sock), await dialled) == (None, None)


async def test_what_does_not_fit_the_kernel_is_sent_later(ground: Ground) -> None:
    question = bytes(8 << 20)
    dialling, dialled = ground.open(ground.unconnected(), client(), before=Ask(question))
    dialling.connect(ground.address)
    sock = ground.accept()
    await asyncio.sleep(0)
    sock.setblocking(True)
    assert await answered(sock, len(question)) == question
    sock.sendall(b"go on")
    prepare(sock)
    assert (await ground.serve(sock), await dialled) == (None, None)


# --- not at all ----------------------------------------------------------------------------


async def test_nobody_listens(ground: Ground) -> None:
    dialling, dialled = ground.open(ground.unconnected(), client())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dialling.connect(free.getsockname())
        failure = await dialled
    assert failure is not None
    assert (failure.reason, failure.final) == ("Connection refused", False)
    assert dialling.sock.fileno() == -1


async def test_no_way_leads_there(ground: Ground) -> None:
    dialling, dialled = ground.open(ground.unconnected(), client())
    dialling.connect(("255.255.255.255", 7443))
    failure = await dialled
    assert failure is not None
    assert failure.reason in ("Network is unreachable", "Permission denied")


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_the_peer_is_gone_in_between(ground: Ground, how: str) -> None:
    far, near = ground.pair()
    outcome = ground.serve(near)
    if how == "end":
        far.close()
    else:
        reset(far)
    failure = await outcome
    assert failure is not None
    assert failure.cause is Cause.HANDSHAKE
    assert failure.reason == (
        "the connection was closed in the handshake" if how == "end" else "Connection reset by peer"
    )


async def test_it_takes_too_long(ground: Ground) -> None:
    _, near = ground.pair()
    failure = await ground.serve(near, limit=0.05)
    assert failure is not None
    assert (failure.cause, failure.reason) == (
        Cause.TIMEOUT,
        "the handshake was not over in time",
    )
    assert near.fileno() == -1


async def test_a_stage_that_fails_ends_it(ground: Ground) -> None:
    stage = Ask(b"lead me on", fails=True)
    dialling, dialled = ground.open(ground.unconnected(), client(), before=stage)
    dialling.connect(ground.address)
    sock = ground.accept()
    sock.sendall(b"never")
    failure = await dialled
    assert failure is not None
    assert failure.reason == "no"
    assert dialling.sock.fileno() == -1


async def test_given_up_it_says_nothing(ground: Ground) -> None:
    far, near = ground.pair()
    made, outcome = ground.open(near, server())
    made.begin()
    made.close()
    made.close()
    assert await answered_nothing(far)
    assert not outcome.done()


async def answered_nothing(sock: socket.socket) -> bool:
    return await asyncio.to_thread(sock.recv, 1) == b""


# --- refused -------------------------------------------------------------------------------


async def test_who_is_refused_can_read_why_though_it_spoke_on(ground: Ground) -> None:
    nobody = client(PKI.forge(AGENT.identity, uris=()))
    far, near = ground.pair()
    outcome = ground.serve(near)
    await handshake(nobody, far)
    nobody.write(bytes(100_000))  # what a close with bytes unread would answer with a reset
    far.sendall(nobody.take())
    said = await plaintext(nobody, far)
    assert said == farewell(ErrorCode.DENIED, "peer certificate: holds no outrelay:// URI SAN")
    assert nobody.ended
    far.close()
    failure = await outcome
    assert failure is not None
    assert failure.cause is Cause.CERTIFICATE
    assert near.fileno() == -1


async def handshake(layer: TlsLayer, sock: socket.socket) -> None:
    """Bring a client's layer through its handshake."""
    while not layer.advance():
        await asyncio.to_thread(sock.sendall, layer.take())
        layer.receive(await asyncio.to_thread(sock.recv, 1 << 16))
    await asyncio.to_thread(sock.sendall, layer.take())


async def plaintext(layer: TlsLayer, sock: socket.socket) -> bytes:
    """Everything that the other side says up to its end."""
    buffer, said = memoryview(bytearray(1 << 16)), b""
    while not layer.ended:
        data = await asyncio.to_thread(sock.recv, 1 << 16)
        assert data, "no end was said"
        layer.receive(data)
        said += bytes(buffer[: layer.read_into(buffer)])
        if not layer.ended:
            layer.read_into(buffer)
    return said


async def test_who_does_not_leave_is_left(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening_module, "LINGER", 0.05)
    nobody = client(PKI.forge(AGENT.identity, uris=()))
    far, near = ground.pair()
    outcome = ground.serve(near)
    await handshake(nobody, far)
    assert await outcome is not None
    assert near.fileno() == -1


async def test_who_is_refused_by_an_alert_gets_it(ground: Ground) -> None:
    stranger = client(TestPki().agent())
    far, near = ground.pair()
    outcome = ground.serve(near)
    await handshake(stranger, far)
    with pytest.raises(Exception, match="our certificate does not lead to a CA it trusts"):
        await plaintext(stranger, far)
    far.close()
    failure = await outcome
    assert failure is not None
    assert "does not lead to a CA we trust" in failure.reason


async def test_who_is_reset_by_a_refused_peer_is_done(ground: Ground) -> None:
    nobody = client(PKI.forge(AGENT.identity, uris=()))
    far, near = ground.pair()
    outcome = ground.serve(near)
    await handshake(nobody, far)
    reset(far)
    failure = await outcome
    assert failure is not None
    assert failure.cause is Cause.CERTIFICATE  # not the reset that came behind it
