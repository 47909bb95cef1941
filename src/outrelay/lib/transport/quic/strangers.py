"""Datagrams of nobody we know: who may begin a connection, and what the others hear.

A handshake costs state and signatures, so it begins only for a client Initial of version 1
and full size; above ``retry_above`` handshakes under way the sender must first prove with a
token that it can hear us (Retry, no state here), above ``handshakes_max`` it is ignored.
Another version is answered with ours, a packet of a connection we have forgotten with a
stateless reset, anything else with silence.

Every source has a budget of handshakes (``budgets``), and a second one for those it has
proved its address for: whoever spends the first in somebody else's name only has them asked
for a proof, and nobody can spend the second one but its owner.

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

from outrelay.lib.transport.budgets import Budgets, source_of
from outrelay.lib.transport.carrier import Address
from outrelay.lib.transport.quic.engine import EngineOptions, Transmit
from outrelay.lib.transport.quic.header import CID_LENGTH, Header
from outrelay.lib.transport.quic.reset import StatelessResets
from outrelay.lib.transport.refusal import Cause, Refusal

VERSION = QuicProtocolVersion.VERSION_1

_INITIAL_MINIMUM = 1200
_DESTINATION_MINIMUM = 8


class Admission(NamedTuple):
    """A handshake that may begin: what its transport parameters must repeat."""

    original_destination: bytes
    retry_source: bytes | None
    budget: Budgets
    source: str


class Strangers:
    """Judges first datagrams for one socket; ``take_answers`` is what to send back."""

    def __init__(self, options: EngineOptions, resets: StatelessResets) -> None:
        self._options = options
        self._resets = resets
        self._retry = QuicRetryTokenHandler()
        self._answers: list[Transmit] = []
        self._refused: dict[Cause, Refusal] = {}
        self._unproven, self._proven = (
            Budgets(
                under_way=options.source_handshakes,
                per_second=options.source_rate,
                burst=options.source_burst,
            )
            for _ in range(2)
        )

    def take_answers(self) -> list[Transmit]:
        """Datagrams to send, once."""
        answers, self._answers = self._answers, []
        return answers

    def take_refusals(self) -> list[Refusal]:
        """Whom we turned away, once."""
        refused, self._refused = self._refused, {}
        return list(refused.values())

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

        Returns:
            The admission, to be handed to ``over`` when the handshake is over; None: it
            begins none.
        """
        answer = self._judge(header, size, address, handshakes, now)
        if isinstance(answer, Cause):
            self.refuse(answer, address)
            return None
        return answer

    def over(self, admission: Admission) -> None:
        """A handshake that was admitted is over, in whatever way."""
        admission.budget.give_back(admission.source)

    def forgotten(self, header: Header, size: int, address: Address, now: float) -> None:
        """A packet of an established connection that is not ours any more."""
        if self._options.accept_roles:
            self.refuse(Cause.FORGOTTEN, address)
            answer = self._resets.answer(header.destination, size, now)
            if answer is not None:
                self._answer(address, answer)

    def refuse(self, cause: Cause, address: Address) -> None:
        """Count a datagram that came to nothing."""
        known = self._refused.get(cause)
        times = known.times + 1 if known else 1
        self._refused[cause] = Refusal(cause, address, times=times)

    def _judge(
        self, header: Header, size: int, address: Address, handshakes: int, now: float
    ) -> Admission | Cause | None:
        """The admission, why there is none, or None while a proof is asked for."""
        options = self._options
        if not options.accept_roles or size < _INITIAL_MINIMUM:
            return Cause.NOISE
        if header.version != VERSION:
            if header.version:
                self._offer_version(header, address)
            return Cause.VERSION
        if not header.is_initial or len(header.destination) < _DESTINATION_MINIMUM:
            return Cause.NOISE
        if handshakes >= options.handshakes_max:
            return Cause.LIMIT
        source = source_of(address[0])
        if header.token:
            return self._check_proof(header, address, source, now)
        if handshakes >= options.retry_above or not self._unproven.take(source, now):
            self._ask_for_proof(header, address, now)
            return None
        return Admission(header.destination, None, self._unproven, source)

    def _check_proof(
        self, header: Header, address: Address, source: str, now: float
    ) -> Admission | Cause:
        try:
            original = self._retry.validate_token(
                address=address, destination_cid=header.destination, token=header.token, now=now
            )
        except ValueError:
            return Cause.PROOF
        if not self._proven.take(source, now):
            return Cause.SOURCE_LIMIT
        return Admission(original, header.destination, self._proven, source)

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
