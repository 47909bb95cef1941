"""HELLO and its answer: how every connection to a relay begins.

Source: protocol.md sections 3 and 4.
"""

from __future__ import annotations

import asyncio
import os
from typing import NamedTuple

from outrelay.lib.errors import Closed, ErrorCode, ProtocolError, Refused, Reset
from outrelay.lib.identity.uri import Identity
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Connection
from outrelay.lib.transport.frames import FrameReader, FrameWriter
from outrelay.lib.values import address_text

DEREGISTER = "deregister/1"
GOAWAY = "goaway/1"
RESUME = "resume/2"

CAPABILITIES = (DEREGISTER, GOAWAY, RESUME)
"""What we offer in HELLO."""

PROTOCOL_VERSION = "orp/1"
INSTANCE_SIZE = 16

_REFUSALS = frozenset({ErrorCode.DENIED, ErrorCode.PROTOCOL, ErrorCode.REPLACED})
"""Codes of a connection closed instead of HELLO_ACK that say: do not try again."""


class Greeting(NamedTuple):
    """A control stream on which HELLO was answered."""

    reader: FrameReader
    writer: FrameWriter
    ack: orp.HelloAck


def hello_of(identity: Identity) -> orp.Hello:
    """The HELLO of one process: its ``instance`` is drawn here, once."""
    return orp.Hello(
        protocol_version=PROTOCOL_VERSION,
        agent_uri=identity.uri,
        capabilities=CAPABILITIES,
        instance=os.urandom(INSTANCE_SIZE),
    )


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
        raise Refused(peer, reason, final=closed.code in _REFUSALS) from closed
    except (ProtocolError, Reset, TimeoutError) as error:
        connection.close(ErrorCode.PROTOCOL, "no HELLO_ACK")
        raise Refused(peer, str(error) or f"no HELLO_ACK within {limit:g} s") from error
    except BaseException:
        connection.close()
        raise
