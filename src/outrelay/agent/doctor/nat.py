"""Which kind of NAT stands between this host and its relays, by what they see of one socket.

Words: a *vantage* is a relay that has told the address our packets come from. A NAT is
*endpoint-independent* when all vantages see the same address, *symmetric* when each sees
another one.

Source: protocol.md section 7; RFC 4787, section 4.1.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from google.protobuf.empty_pb2 import Empty

from outrelay.agent.doctor.findings import Finding, Mark
from outrelay.agent.session.greeting import Greeting
from outrelay.lib.errors import ProtocolError
from outrelay.lib.orp.types import FrameType
from outrelay.lib.orp.v1 import orp_pb2 as orp
from outrelay.lib.transport.carrier import Address, Connection
from outrelay.lib.transport.frames import message_of
from outrelay.lib.transport.ways import Carrier
from outrelay.lib.values import address_text

LIMIT = 2.0
"""Seconds a relay has to tell."""

SYMMETRIC = (
    "streams through relays work; direct paths between agents will not: they need a NAT that"
    " keeps one mapping for all destinations (endpoint-independent), or a public address"
)
ONE_VANTAGE = "give a second relay to --relay to learn of which kind it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vantage:
    """What a relay sees.

    Args:
        relay: Where it was dialled.
        local: The address of our socket, as this host has it.
        observed: The address our packets come from, as the relay has it.
    """

    relay: Address
    local: Address
    observed: Address


async def observe(connection: Connection, greeting: Greeting) -> Vantage | None:
    """Ask a relay that answers PING; None when it does not tell, or not over UDP.

    A relay that knows the question answers it before the PING that comes after it.
    """
    if connection.carrier != Carrier.QUIC:
        return None
    told: orp.ObservedAddrResp | None = None
    await greeting.writer.send(FrameType.OBSERVED_ADDR_QUERY, orp.ObservedAddrQuery(request_id=1))
    await greeting.writer.send(FrameType.PING, Empty())
    with suppress(TimeoutError, ProtocolError):
        async with asyncio.timeout(LIMIT):
            while (frame := await greeting.reader.next_frame()) and frame.type != FrameType.PONG:
                if frame.type == FrameType.OBSERVED_ADDR_RESP:
                    told = message_of(frame, orp.ObservedAddrResp)
    if told is None or not _is_address(told.ip):
        return None
    relay = connection.peer_address
    return Vantage(
        relay=relay,
        local=(_host_towards(relay), connection.local_address[1]),
        observed=(told.ip, told.port),
    )


def judge(vantages: Iterable[Vantage]) -> list[Finding]:
    """A finding for each address family in which a relay has told something."""
    found: dict[int, list[Vantage]] = {}
    for each in vantages:
        found.setdefault(ipaddress.ip_address(each.observed[0]).version, []).append(each)
    return [_finding(f"NAT (IPv{version})", found[version]) for version in sorted(found)]


def _finding(subject: str, vantages: Sequence[Vantage]) -> Finding:
    seen = sorted({each.observed for each in vantages})
    relays = {each.relay for each in vantages}
    if all(each.observed == each.local for each in vantages):
        return Finding(subject=subject, mark=Mark.OK, text="none: relays see this host as it is")
    local = address_text(vantages[0].local)
    if len(relays) == 1:
        text = f"there is one: {local} is seen as {address_text(seen[0])}"
        return Finding(subject=subject, mark=Mark.OK, text=text, advice=ONE_VANTAGE)
    if len(seen) == 1:
        text = f"endpoint-independent: {local} is seen as {address_text(seen[0])} by all relays"
        return Finding(subject=subject, mark=Mark.OK, text=text)
    text = f"symmetric: {local} is seen as {', '.join(map(address_text, seen))}"
    return Finding(subject=subject, mark=Mark.WARN, text=text, advice=SYMMETRIC)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _host_towards(address: Address) -> str:
    """Our address on the way to another one; nothing is sent."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return ""
        return str(probe.getsockname()[0])
