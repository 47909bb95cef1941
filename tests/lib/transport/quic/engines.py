"""The engines under test: one that dials with an agent's identity, one that is a relay's.

A test says what differs from the usual options: ``relay(retry_above=1)``. Which engine it is
comes from the fixtures of ``conftest``; without them, aioquic's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.quic.engine import Engine, EngineOptions
from outrelay.lib.transport.quic.engine_aioquic import AioquicEngine
from outrelay.lib.transport.quic.engines import EngineChoice, make_engine
from tests.support.pki import TestPki

PKI = TestPki()
AGENT = PKI.agent()
RELAY = PKI.relay()

dials = listens = EngineChoice.AIOQUIC
"""The engine of ``agent`` and of ``relay``."""


def agent(**differences: Any) -> Engine:
    """An engine that dials only."""
    return make_engine(_agent(differences), dials)


def relay(**differences: Any) -> Engine:
    """An engine that agents and relays may dial."""
    return make_engine(_relay(differences), listens)


def aioquic_agent(**differences: Any) -> AioquicEngine:
    """The same of aioquic, for tests of what only that has."""
    return AioquicEngine(_agent(differences))


def aioquic_relay(**differences: Any) -> AioquicEngine:
    """The same of aioquic, for tests of what only that has."""
    return AioquicEngine(_relay(differences))


def _agent(differences: dict[str, Any]) -> EngineOptions:
    return replace(EngineOptions(credentials=AGENT, trust=PKI.trust), **differences)


def _relay(differences: dict[str, Any]) -> EngineOptions:
    usual = {"credentials": RELAY, "accept_roles": frozenset({Role.AGENT, Role.RELAY})}
    return _agent(usual | differences)
