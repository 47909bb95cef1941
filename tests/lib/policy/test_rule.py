"""Rules and verdicts: expiry, modes and how two sides become one verdict."""

from __future__ import annotations

import pytest

from outrelay.lib.policy import Decision, P2PMode, RelayMode, Rule, Verdict

A, F, R = P2PMode.ALLOWED, P2PMode.FORBIDDEN, P2PMode.REQUIRED


def rule(expires_ms: int) -> Rule:
    return Rule(
        id="1",
        tenant="acme",
        caller_pattern="*",
        target_pattern="*",
        decision=Decision.ALLOW,
        expires_ms=expires_ms,
    )


def test_a_rule_expires_at_its_millisecond_and_never_with_zero() -> None:
    assert not rule(expires_ms=1000).expired(999)
    assert rule(expires_ms=1000).expired(1000)
    assert not rule(expires_ms=0).expired(10**15)


@pytest.mark.parametrize(
    ("one", "other", "both"), [(A, A, A), (A, R, R), (A, F, F), (R, R, R), (R, F, F), (F, F, F)]
)
def test_modes_combine_the_same_from_either_side(
    one: P2PMode, other: P2PMode, both: P2PMode
) -> None:
    assert one.combined(other) is both
    assert other.combined(one) is both


def allow(expires_ms: int = 0, **modes: P2PMode | RelayMode) -> Verdict:
    return Verdict(allow=True, rule=None, reason="yes", expires_ms=expires_ms, **modes)  # type: ignore[arg-type]


def test_the_side_that_denies_is_the_verdict() -> None:
    no = Verdict(allow=False, rule=None, reason="no")
    other_no = Verdict(allow=False, rule=None, reason="other no")
    assert allow().combined(no) is no
    assert no.combined(allow()) is no
    assert no.combined(other_no) is no


def test_where_both_allow_the_stricter_modes_hold() -> None:
    both = allow(p2p_mode=A, relay_mode=RelayMode.FORWARD).combined(allow(p2p_mode=F))
    assert (both.allow, both.p2p_mode, both.relay_mode) == (True, F, RelayMode.FORWARD)


@pytest.mark.parametrize(
    ("one", "other", "both"), [(0, 0, 0), (5, 0, 5), (0, 5, 5), (7, 5, 5), (5, 7, 5)]
)
def test_the_earlier_expiry_counts(one: int, other: int, both: int) -> None:
    assert allow(one).combined(allow(other)).expires_ms == both
