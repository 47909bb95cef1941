"""HELLO and its answer: how every connection to a relay begins.

Source: protocol.md sections 3 and 4.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import NamedTuple

from outrelay.lib.errors import Closed, ErrorCode, ProtocolError, Refused, Reset
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Connection
from outrelay.lib.transport.frames import FrameReader, FrameWriter
from outrelay.lib.transport.refusal import Cause
from outrelay.lib.transport.ways import Carrier, Endpoint
from outrelay.lib.values import address_text, parse_address

DEREGISTER = "deregister/1"
GOAWAY = "goaway/1"
RESUME = "resume/2"

CAPABILITIES: tuple[str, ...] = (DEREGISTER, GOAWAY, RESUME)
"""What we offer in HELLO."""

PROTOCOL_VERSION = "orp/1"
INSTANCE_SIZE = 16

MOST_ENDPOINTS = 16
"""Endpoints of a carrier that we take from a relay."""

_NOWHERE = ("0.0.0.0", "::")  # noqa: S104 - what a relay says that does not know its address

_REFUSALS = frozenset({ErrorCode.DENIED, ErrorCode.PROTOCOL, ErrorCode.REPLACED})
"""Codes of a connection closed instead of HELLO_ACK that say: do not try again."""


class Greeting(NamedTuple):
    """A control stream on which HELLO was answered."""

    reader: FrameReader
    writer: FrameWriter
    ack: orp.HelloAck


def hello_of(identity: Identity) -> orp.Hello:
    """The HELLO of connections that replace each other: their ``instance`` is drawn here."""
    return orp.Hello(
        protocol_version=PROTOCOL_VERSION,
        agent_uri=identity.uri,
        capabilities=CAPABILITIES,
        instance=os.urandom(INSTANCE_SIZE),
    )


def endpoints_of(ack: orp.HelloAck) -> tuple[Endpoint, ...]:
    """The endpoints an agent may use besides those it knows; what is none is left out."""
    said = [
        *((Carrier.QUIC, text) for text in ack.relay_endpoints[:MOST_ENDPOINTS]),
        *((Carrier.TCP, text) for text in ack.tcp_endpoints[:MOST_ENDPOINTS]),
    ]
    found = []
    for carrier, text in said:
        with suppress(ValueError):
            host, port = parse_address(text)
            if port and host not in _NOWHERE:
                found.append(Endpoint(carrier, (host, port)))
    return tuple(found)


async def greet(connection: Connection, hello: orp.Hello, limit: float) -> Greeting:
    """Say HELLO on a new connection; it is closed when the relay does not agree.

    Args:
        connection: To the relay.
        hello: Who we are.
        limit: Seconds the relay has to answer.

    Raises:
        Refused: The relay refused us or did not answer.
    """
    peer = address_text(connection.peer_address)
    try:
        async with asyncio.timeout(limit):
            control = await connection.open_stream()
            reader, writer = FrameReader(control), FrameWriter(control)
            await writer.send(FrameType.HELLO, hello)
            return Greeting(reader, writer, await reader.expect(FrameType.HELLO_ACK, orp.HelloAck))
    except Closed as closed:
        reason = f"the relay refused us: {closed}"
        final = closed.code in _REFUSALS
        raise Refused(peer, reason, final=final, cause=Cause.HELLO) from closed
    except (ProtocolError, Reset, TimeoutError) as error:
        connection.close(ErrorCode.PROTOCOL, "no HELLO_ACK")
        reason = str(error) or f"no HELLO_ACK within {limit:g} s"
        raise Refused(peer, reason, cause=Cause.HELLO) from error
    except BaseException:
        connection.close()
        raise
