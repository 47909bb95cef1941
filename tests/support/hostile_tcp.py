"""TCP peers that do what our own listener and dialler would never do.

They speak TLS with whatever configuration a test wants, verify nothing, and of yamux know
just the ping that shows whether the other side takes them for a peer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

from outrelay.lib.identity.certs import Credentials, Trust
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.tcp.tls import _load_credentials
from outrelay.lib.transport.tcp.yamux_frames import ACK, PING, SYN, header
from tests.support.serving import serving

ALPN = "orp/1"
QUESTION = header(PING, SYN, 0, 77)
ANSWER = header(PING, ACK, 0, 77)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a raw peer's handshake ended.

    Args:
        confirmed: The other side answered its ping.
        said: Everything else it said, decrypted.
        alert: What its alert is called; empty when there was none.
    """

    confirmed: bool
    said: bytes = b""
    alert: str = ""


@dataclass(slots=True)
class RawServer:
    """See ``raw_server``."""

    address: Address
    outcome: asyncio.Future[Outcome] = field(repr=False)


async def raw_client(
    address: Address,
    *,
    credentials: Credentials | None = None,
    alpn: Sequence[str] = (ALPN,),
) -> Outcome:
    """A client without scruples; how its handshake with ``address`` ended.

    Args:
        address: A listener.
        credentials: What it shows; None: no certificate.
        alpn: What it offers; empty: it does not know of ALPN.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials, alpn)
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=context)
    except ssl.SSLError as error:
        return Outcome(confirmed=False, alert=_alert(error))
    try:
        return await _converse(reader, writer)
    finally:
        await _leave(writer)


@asynccontextmanager
async def raw_server(
    credentials: Credentials,
    trust: Trust | None = None,
    *,
    alpn: Sequence[str] = (ALPN,),
    leaves: bool = False,
) -> AsyncIterator[RawServer]:
    """A server for one client.

    Args:
        credentials: What it shows.
        trust: Whom clients' certificates may come from; None: it asks for none.
        alpn: What it speaks; empty: it does not know of ALPN.
        leaves: It ends the connection behind the handshake, without a word.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials, alpn)
    if trust is not None:
        context.load_verify_locations(cadata=trust.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if leaves:
            writer.close()
        else:
            outcome.set_result(await _converse(reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield RawServer((host, port), outcome)
    finally:
        server.close()
        for writer in writers:
            await _leave(writer)


def answering(
    answer: bytes | None, *, at_once: bool = False
) -> AbstractAsyncContextManager[Address]:
    """A server that says one thing to everybody, and then no more.

    Args:
        answer: What it says; None: it closes the connection instead.
        at_once: Before it was asked.
    """

    async def serve(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if not at_once:
            await loop.sock_recv(sock, 1 << 16)
        if answer is not None:
            await loop.sock_sendall(sock, answer)
            while await loop.sock_recv(sock, 1 << 16):
                pass

    return serving(serve)


def client_hello() -> bytes:
    """The first bytes of a genuine client."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context = _context(ssl.PROTOCOL_TLS_CLIENT, None, (ALPN,))
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def silent(address: Address) -> socket.socket:
    """A connection that says nothing; whoever asks for it closes it."""
    return socket.create_connection(address)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Outcome:
    said = b""
    try:
        writer.write(QUESTION)
        while ANSWER not in said:
            data = await reader.read(1 << 16)
            if not data:
                return Outcome(confirmed=False, said=said)
            said += data
    except ssl.SSLError as error:
        return Outcome(confirmed=False, said=said, alert=_alert(error))
    except OSError:
        return Outcome(confirmed=False, said=said)
    return Outcome(confirmed=True, said=said.replace(ANSWER, b""))


async def _leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


def _context(
    kind: ssl._SSLMethod, credentials: Credentials | None, alpn: Sequence[str]
) -> ssl.SSLContext:
    context = ssl.SSLContext(kind)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if credentials is not None:
        _load_credentials(context, credentials)
    return context


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or "").partition("_ALERT_")[2].replace("_", " ").lower()
