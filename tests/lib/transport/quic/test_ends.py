"""What ends mean, whichever engine saw them."""

from __future__ import annotations

import pytest

from outrelay.lib.errors import ErrorCode
from outrelay.lib.transport.quic.ends import REASON_MAX, cause_of, cut, is_final, transport_code
from outrelay.lib.transport.refusal import Cause


@pytest.mark.parametrize(
    ("alert", "cause", "final"),
    [
        (42, Cause.CERTIFICATE, True),  # bad_certificate
        (48, Cause.CERTIFICATE, True),  # unknown_ca
        (116, Cause.CERTIFICATE, True),  # certificate_required
        (120, Cause.ALPN, True),  # no_application_protocol
        (40, Cause.HANDSHAKE, True),  # handshake_failure
        (80, Cause.HANDSHAKE, False),  # internal_error
    ],
)
def test_an_alert_has_a_cause(alert: int, cause: Cause, final: bool) -> None:
    assert (cause_of(0x100 + alert), is_final(0x100 + alert)) == (cause, final)


@pytest.mark.parametrize("reason", ["x" * 1000, "\u2026" * 1000])
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    assert reason.startswith(cut(reason))
    assert REASON_MAX - 2 <= len(cut(reason).encode()) <= REASON_MAX


def test_a_transport_error_is_a_protocol_error() -> None:
    assert (transport_code(0), transport_code(7)) == (ErrorCode.NONE, ErrorCode.PROTOCOL)
