"""Datagrams of nobody we know: who may begin a connection, and what the others hear.

A handshake costs state and signatures, so it begins only for a client Initial of version 1
and full size; above ``retry_above`` handshakes under way the sender must first prove with a
token that it can hear us (Retry, no state here), above ``handshakes_max`` it is ignored.
Another version is answered with ours, a packet of a connection we have forgotten with a
stateless reset, anything else with silence.

Source: RFC 9000 sections 6, 8.1, 10.3 and 14.1.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from aioquic.quic.packet import (
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import EngineOptions, Transmit
from outrelay.lib.transport.quic.header import CID_LENGTH, Header
from outrelay.lib.transport.quic.reset import StatelessResets

VERSION = QuicProtocolVersion.VERSION_1

_INITIAL_MINIMUM = 1200
_DESTINATION_MINIMUM = 8


class Admission(NamedTuple):
    """A handshake that may begin: what its transport parameters must repeat."""

    original_destination: bytes
    retry_source: bytes | None


class Strangers:
    """Judges first datagrams for one socket; ``take_answers`` is what to send back."""

    def __init__(self, options: EngineOptions, resets: StatelessResets) -> None:
        self._options = options
        self._resets = resets
        self._retry = QuicRetryTokenHandler()
        self._answers: list[Transmit] = []

    def take_answers(self) -> list[Transmit]:
        """Datagrams to send, once."""
        answers, self._answers = self._answers, []
        return answers

    def admit(
        self, header: Header, size: int, address: Address, *, handshakes: int, now: float
    ) -> Admission | None:
        """Whether a long-header datagram of ``size`` bytes begins a handshake.

        Args:
            header: Of its first packet.
            size: Bytes of the whole datagram.
            address: Where it came from.
            handshakes: How many are under way.
            now: Monotonic seconds.
        """
        if not self._options.accept_roles or size < _INITIAL_MINIMUM:
            return None
        if header.version != VERSION:
            if header.version:
                self._offer_version(header, address)
            return None
        if not header.is_initial or len(header.destination) < _DESTINATION_MINIMUM:
            return None
        if handshakes >= self._options.handshakes_max:
            return None
        if header.token:
            return self._check_token(header, address, now)
        if handshakes >= self._options.retry_above:
            self._ask_for_proof(header, address, now)
            return None
        return Admission(header.destination, None)

    def forgotten(self, header: Header, size: int, address: Address, now: float) -> None:
        """A packet of an established connection that is not ours any more."""
        if self._options.accept_roles:
            answer = self._resets.answer(header.destination, size, now)
            if answer is not None:
                self._answer(address, answer)

    def _check_token(self, header: Header, address: Address, now: float) -> Admission | None:
        try:
            original = self._retry.validate_token(
                address=address, destination_cid=header.destination, token=header.token, now=now
            )
        except ValueError:
            return None
        return Admission(original, header.destination)

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
