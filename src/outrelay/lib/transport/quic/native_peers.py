"""Whom the native engine talks to: who may begin, who is accepted, and what is known of each.

The extension asks here while it handles a datagram (``admit``, ``judge``) and tells what came
to nothing; nothing here knows the extension, so that the two do not keep each other alive.

Source: protocol.md section 1, "Peer verification".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

from cryptography import x509

from outrelay.lib.errors import IdentityError
from outrelay.lib.identity.uri import Role
from outrelay.lib.identity.verify import Usage, verify_peer
from outrelay.lib.transport.carrier import Address, Peer
from outrelay.lib.transport.quic.engine import EngineOptions, Transmit
from outrelay.lib.transport.quic.gate import Gate, Ticket
from outrelay.lib.transport.quic.header import parse_header
from outrelay.lib.transport.refusal import Cause

if TYPE_CHECKING:
    from outrelay_native import End

PROVE = 0
"""Answer of ``admit`` beside the number of a connection."""


class Link:
    """One connection, by its number."""

    __slots__ = (
        *("number", "dialled", "address", "roles", "server_name"),
        *("connected", "ended", "peer", "refusal", "ticket"),
    )

    def __init__(self, number: int, address: Address, *, dialled: bool) -> None:
        self.number = number
        self.dialled = dialled
        self.address = address
        self.roles: Collection[Role] = ()
        self.server_name = ""
        self.connected = False
        self.ended = False  # LOST or REFUSED was said
        self.peer: Peer | None = None
        self.refusal = ""  # why our own judge said no
        self.ticket: Ticket | None = None  # while the peer's handshake is under way


class Peers:
    """The connections of one engine, and its policy.

    Args:
        options: The engine's.
    """

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.gate = Gate(options)
        self.links: dict[int, Link] = {}
        self.pending: dict[int, float] = {}
        """When each handshake under way must be over, the earliest first."""
        self.failures: list[tuple[int, End | None]] = []
        """Who was admitted in vain, with an end where it was a handshake."""
        self.answers: list[Transmit] = []
        """What is to be sent for no connection."""
        self._sender: Address = ("", 0)
        self._now = 0.0
        self._numbers = count(1)

    def dial(
        self, address: Address, *, roles: Collection[Role], server_name: str, now: float
    ) -> Link:
        """A connection that we begin."""
        link = self._begin(address, now, dialled=True)
        link.roles, link.server_name = roles, server_name
        return link

    # What the extension asks and tells, of the datagrams it is handling

    def handles(self, sender: Address, now: float) -> None:
        """From now on it is handling datagrams of ``sender``."""
        self._sender, self._now = sender, now

    def admit(self, proven: bool) -> int | None:
        """The number of the connection that the sender may begin, or PROVE; None: ignore it."""
        ticket = self.gate.admit(self._sender, proven=proven, now=self._now)
        if ticket is None:
            return PROVE
        if isinstance(ticket, Cause):
            self.gate.refuse(ticket, self._sender)
            return None
        link = self._begin(self._sender, self._now, dialled=False)
        link.roles, link.ticket = self.options.accept_roles, ticket
        return link.number

    def failed(self, number: int, end: End | None) -> None:
        """Nothing came of a handshake that was admitted; without ``end``, it was none."""
        if end is None:
            self.gate.refuse(Cause.NOISE, self._sender)
        self.failures.append((number, end))

    def answer(self, datagram: bytes) -> None:
        """The sender gets an answer that belongs to no connection."""
        self.answers.append(Transmit(self._sender, [datagram], len(datagram)))

    def wasted(self, datagram: bytes) -> None:
        """A datagram was for no connection and began none."""
        header = parse_header(datagram)
        if header is None:
            cause = Cause.NOISE
        elif header.is_long:
            fault = self.gate.fault_of(header, len(datagram))
            cause = fault or (Cause.PROOF if header.token else Cause.NOISE)
        elif self.options.accept_roles:
            cause = Cause.FORGOTTEN
        else:
            return
        self.gate.refuse(cause, self._sender)

    def _begin(self, address: Address, now: float, *, dialled: bool) -> Link:
        link = Link(next(self._numbers), address, dialled=dialled)
        self.links[link.number] = link
        self.pending[link.number] = now + self.options.handshake_timeout
        return link

    def judge(self, number: int, chain: Sequence[bytes]) -> str:
        """What is wrong with the certificates of a peer, leaf first; empty: nothing."""
        link = self.links[number]
        try:
            certificates = [x509.load_der_x509_certificate(each) for each in chain]
            identity = verify_peer(
                certificates,
                self.options.trust,
                usage=Usage.SERVER if link.dialled else Usage.CLIENT,
                roles=link.roles,
                server_name=link.server_name,
                now=datetime.now(UTC),
            )
        except IdentityError as error:
            link.refusal = str(error)
            return error.fault
        except (ValueError, x509.InvalidVersion):
            link.refusal = "peer certificate cannot be read"
            return "cannot be read"
        expires = certificates[0].not_valid_after_utc.timestamp()
        link.peer = Peer(identity=identity, expires=expires)
        return ""

    def settled(self, link: Link) -> None:
        """Its handshake is over; one that failed is until here: it costs memory."""
        self.pending.pop(link.number, None)
        if link.ticket is not None:
            self.gate.over(link.ticket)
            link.ticket = None

    def forget(self, link: Link) -> None:
        """The connection is gone."""
        self.settled(link)
        del self.links[link.number]
