"""Datagrams of nobody we know: who may begin a connection, and what the others hear.

A handshake begins only for a client Initial of version 1 and full size whose sender the
``gate`` lets in; it may have to prove first, with a token, that it can hear us (Retry, no
state here). Another version is answered with ours, a packet of a connection we have forgotten
with a stateless reset, anything else with silence.

Source: RFC 9000 sections 6, 8.1, 10.3 and 14.1.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from aioquic.quic.packet import encode_quic_retry, encode_quic_version_negotiation
from aioquic.quic.retry import QuicRetryTokenHandler

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import EngineOptions, Transmit
from outrelay.lib.transport.quic.gate import Gate, Ticket
from outrelay.lib.transport.quic.header import CID_LENGTH, VERSION, Header
from outrelay.lib.transport.quic.reset import StatelessResets
from outrelay.lib.transport.refusal import Cause


class Admission(NamedTuple):
    """A handshake that may begin: what its transport parameters must repeat."""

    original_destination: bytes
    retry_source: bytes | None
    ticket: Ticket


class Strangers:
    """Judges first datagrams for one socket; ``take_answers`` is what to send back."""

    def __init__(self, options: EngineOptions, gate: Gate, resets: StatelessResets) -> None:
        self._options = options
        self._gate = gate
        self._resets = resets
        self._retry = QuicRetryTokenHandler()
        self._answers: list[Transmit] = []

    def take_answers(self) -> list[Transmit]:
        """Datagrams to send, once."""
        answers, self._answers = self._answers, []
        return answers

    def admit(self, header: Header, size: int, address: Address, now: float) -> Admission | None:
        """Whether a long-header datagram of ``size`` bytes begins a handshake.

        Args:
            header: Of its first packet.
            size: Bytes of the whole datagram.
            address: Where it came from.
            now: Monotonic seconds.

        Returns:
            The admission, whose ticket the gate wants back; None: it begins none.
        """
        answer = self._judge(header, size, address, now)
        if isinstance(answer, Cause):
            self._gate.refuse(answer, address)
            return None
        return answer

    def forgotten(self, header: Header, size: int, address: Address, now: float) -> None:
        """A packet of an established connection that is not ours any more."""
        if self._options.accept_roles:
            self._gate.refuse(Cause.FORGOTTEN, address)
            answer = self._resets.answer(header.destination, size, now)
            if answer is not None:
                self._answer(address, answer)

    def _judge(
        self, header: Header, size: int, address: Address, now: float
    ) -> Admission | Cause | None:
        """The admission, why there is none, or None while a proof is asked for."""
        if (fault := self._gate.fault_of(header, size)) is not None:
            if fault is Cause.VERSION and header.version:
                self._offer_version(header, address)
            return fault
        if self._gate.is_full:
            return Cause.LIMIT
        if header.token:
            return self._check_proof(header, address, now)
        ticket = self._gate.admit(address, proven=False, now=now)
        if ticket is None:
            self._ask_for_proof(header, address, now)
            return None
        if isinstance(ticket, Cause):
            return ticket
        return Admission(header.destination, None, ticket)

    def _check_proof(self, header: Header, address: Address, now: float) -> Admission | Cause:
        try:
            original = self._retry.validate_token(
                address=address, destination_cid=header.destination, token=header.token, now=now
            )
        except ValueError:
            return Cause.PROOF
        ticket = self._gate.admit(address, proven=True, now=now)
        assert ticket is not None
        if isinstance(ticket, Cause):
            return ticket
        return Admission(original, header.destination, ticket)

    def _ask_for_proof(self, header: Header, address: Address, now: float) -> None:
        source = os.urandom(CID_LENGTH)
        token = self._retry.create_token(
            address=address,
            original_destination_connection_id=header.destination,
            retry_source_connection_id=source,
            now=now,
        )
        self._answer(
            address,
            encode_quic_retry(
                version=VERSION,
                source_cid=source,
                destination_cid=header.source,
                original_destination_cid=header.destination,
                retry_token=token,
            ),
        )

    def _offer_version(self, header: Header, address: Address) -> None:
        self._answer(
            address,
            encode_quic_version_negotiation(
                source_cid=header.destination,
                destination_cid=header.source,
                supported_versions=[VERSION],
            ),
        )

    def _answer(self, address: Address, datagram: bytes) -> None:
        self._answers.append(Transmit(address, [datagram], len(datagram)))
