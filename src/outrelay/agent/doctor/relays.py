"""Every way to every relay, tried as an agent does it: name, handshake, HELLO, PING.

The agent that may run beside the doctor notices nothing: the doctor is a process of its
own, registers no service, and leaves.

Source: protocol.md sections 1 and 4; control-plane.md (a clock that is 5 s off is a warning).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty

from outrelay.agent import hints
from outrelay.agent.doctor import nat
from outrelay.agent.doctor.findings import Finding, Mark
from outrelay.agent.session.greeting import Greeting, greet, hello_of
from outrelay.lib.errors import ProtocolError, Refused, RemoteProtocolError, TransportError
from outrelay.lib.identity.uri import Identity, Role
from outrelay.lib.orp.types import FrameType
from outrelay.lib.transport.carrier import Address, Connection
from outrelay.lib.transport.dial import resolve
from outrelay.lib.transport.frames import FrameReader
from outrelay.lib.transport.quic.connection import QuicConnection
from outrelay.lib.transport.quic.engine import DATAGRAM_SIZES
from outrelay.lib.transport.ways import Carrier, Endpoint, Route
from outrelay.lib.values import address_text

ANSWER_LIMIT = 5.0
"""Seconds a relay has for the handshake, and again for HELLO_ACK."""

PINGS = 8
"""Round trips: enough to find out which datagrams the path carries."""

PING_LIMIT = 3.0
"""Seconds for all of them."""

SKEW = 5.0
"""Seconds between two clocks that are worth a word."""

_ADVICE = {
    Carrier.QUIC: "allow outgoing UDP to port {port}, or give --relay-tcp;"
    " check that a relay runs there",
    Carrier.TCP: "allow outgoing TCP to port {port}, or give --http-proxy;"
    " check that a relay runs there",
}
_PROXY_ADVICE = (
    "check the proxy's URL (--http-proxy, or https_proxy in the environment), that it runs, and"
    " that it allows CONNECT to {relay}; a relay that needs no proxy goes into no_proxy"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to a relay.

    Args:
        endpoint: Where the relay is, by name or number.
        route: How it is dialled: itself, or a proxy that leads to it.
        server_name: DNS name the relay's certificate must hold; empty: any.
    """

    endpoint: Endpoint
    route: Route
    server_name: str

    @property
    def subject(self) -> str:
        """What findings about it are about."""
        carrier, address = self.endpoint
        subject = f"relay {address_text(address)} over {carrier}"
        if not self.has_proxy:
            return subject
        return f"{subject} through the proxy {address_text(self.route.address)}"

    @property
    def has_proxy(self) -> bool:
        """Whether it leads through a proxy."""
        return self.route.address != self.endpoint.address


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one address of a relay had to say.

    Args:
        finding: How it went.
        skew: Seconds the relay's clock is ahead of ours, when it told.
        vantage: What it sees of us, when it told.
    """

    finding: Finding
    skew: float | None = None
    vantage: nat.Vantage | None = None


async def check(way: Way, identity: Identity) -> list[Answer]:
    """Try every address of one way."""
    try:
        addresses = await resolve(way.route.address)
    except Refused as error:
        advice = "check the name, and the DNS server of this host"
        return [Answer(finding=_failed(way, error.reason, advice))]
    return list(await asyncio.gather(*(_try(way, address, identity) for address in addresses)))


def clock(answers: list[Answer]) -> Finding | None:
    """What the relays that answered think of this host's clock."""
    skews = [answer.skew for answer in answers if answer.skew is not None]
    if not skews:
        return None
    skew = min(skews, key=abs)
    if abs(skew) <= SKEW:
        return Finding(subject="clock", mark=Mark.OK, text="agrees with the relay's")
    side = "behind" if skew > 0 else "ahead of"
    return Finding(
        subject="clock",
        mark=Mark.WARN,
        text=f"{abs(skew):.0f} s {side} the relay's",
        advice="synchronise it (NTP): certificates and rules are judged by clocks",
    )


async def _try(way: Way, address: Address, identity: Identity) -> Answer:
    try:
        connection = await _dial(way, address)
        try:
            asked = time.time()
            greeting = await greet(connection, hello_of(identity), ANSWER_LIMIT)
            took = time.time() - asked
            round_trip = await _ping(connection, greeting)
            seen = _seen(connection, address, round_trip or took)
            vantage = await nat.observe(connection, greeting) if round_trip else None
        finally:
            connection.close()
    except TimeoutError:
        reason = f"{address_text(address)} does not answer within {ANSWER_LIMIT:g} s"
        advice = _advice(way, address)
        return Answer(finding=_failed(way, reason, advice))
    except Refused as error:
        advice = hints.FOR_RELAY if error.final else _advice(way, address)
        return Answer(finding=_failed(way, str(error), advice))
    except (TransportError, ProtocolError) as error:
        reason = f"{address_text(address)} broke off: {error}"
        return Answer(finding=_failed(way, reason, "look at the relay's log"))
    finding = Finding(subject=way.subject, mark=Mark.OK, text=seen)
    return Answer(finding=finding, skew=_skew(greeting, asked + took / 2), vantage=vantage)


def _advice(way: Way, address: Address) -> str:
    if way.has_proxy:
        return _PROXY_ADVICE.format(relay=address_text(way.endpoint.address))
    return _ADVICE[way.endpoint.carrier].format(port=address[1])


async def _dial(way: Way, address: Address) -> Connection:
    async with asyncio.timeout(ANSWER_LIMIT):
        return await way.route.dialer.dial(address, roles={Role.RELAY}, server_name=way.server_name)


async def _ping(connection: Connection, greeting: Greeting) -> float | None:
    """The fastest round trip, seconds; None when the relay answers no PING."""
    fastest: float | None = None
    try:
        async with asyncio.timeout(PING_LIMIT):
            for _ in range(PINGS):
                sent = time.perf_counter()
                await greeting.writer.send(FrameType.PING, Empty())
                await _pong(greeting.reader)
                took = time.perf_counter() - sent
                fastest = took if fastest is None else min(fastest, took)
                if _datagram_size(connection) == DATAGRAM_SIZES[-1]:
                    break
    except TimeoutError:
        pass
    return fastest


async def _pong(reader: FrameReader) -> None:
    """Wait for the next PONG: what a relay tells every process of an agent is not for a doctor."""
    while frame := await reader.next_frame():
        if frame.type == FrameType.PONG:
            return
    raise RemoteProtocolError("the relay ended the control stream")


def _seen(connection: Connection, address: Address, seconds: float) -> str:
    text = f"{connection.peer} at {address_text(address)} answers in {seconds * 1000:.1f} ms"
    size = _datagram_size(connection)
    if not size:
        return text
    note = "" if size == DATAGRAM_SIZES[-1] else f" (not {DATAGRAM_SIZES[-1]}: a tunnel between?)"
    return f"{text}, the path carries datagrams of {size} bytes{note}"


def _datagram_size(connection: Connection) -> int:
    return connection.datagram_size if isinstance(connection, QuicConnection) else 0


def _skew(greeting: Greeting, ours: float) -> float | None:
    theirs = greeting.ack.server_time_unix_ms
    return theirs / 1000 - ours if theirs else None


def _failed(way: Way, text: str, advice: str) -> Finding:
    return Finding(subject=way.subject, mark=Mark.FAIL, text=text, advice=advice)
