"""The engines under test: one that dials with an agent's identity, one that is a relay's.

A test says what differs from the usual options: ``relay(retry_above=1)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.quic.engine import EngineOptions
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from tests.support.pki import TestPki

PKI = TestPki()
AGENT = PKI.agent()
RELAY = PKI.relay()


def agent(**differences: Any) -> AioquicEngine:
    """An engine that dials only."""
    return AioquicEngine(replace(EngineOptions(credentials=AGENT, trust=PKI.trust), **differences))


def relay(**differences: Any) -> AioquicEngine:
    """An engine that agents and relays may dial."""
    usual = {"credentials": RELAY, "accept_roles": frozenset({Role.AGENT, Role.RELAY})}
    return agent(**usual | differences)
