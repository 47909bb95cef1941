"""Which half of a stream belongs to which: two agents that lost their legs find each other again.

Words: a *half* is an agent's data stream that begins with STREAM_RESUME. Its agent, from the
certificate, is who sends it; its *expectation* is whom and what it says it talked to. Agents of
other implementations expect nothing.

Invariants: what a half says of others only ever narrows whom it meets; nobody gets a stream
that the other one does not expect him at, unless neither of them expects anybody. Tenants
never meet. Pure: policy is asked through a function that is passed in.

Source: protocol.md section 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """Which end of a stream an agent was, by the wire's numbers."""

    UNKNOWN = 0
    CONSUMER = 1
    PROVIDER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """One agent's word on a stream it had; who does not expect anybody knows nothing of it.

    Args:
        tenant: The agent's.
        stream_id: Of the stream.
        agent: The agent's URI, from its certificate.
        peer: URI of the agent it expects; empty: it expects nobody.
        service: Name of the service; empty exactly where it expects nobody.
        method: What the consumer wants of that; may be empty.
        role: Its end of the stream; unknown exactly where it expects nobody.
    """

    tenant: str
    stream_id: int
    agent: str
    peer: str = ""
    service: str = ""
    method: str = ""
    role: Role = Role.UNKNOWN

    @property
    def key(self) -> tuple[str, int]:
        """By which its other half is found."""
        return (self.tenant, self.stream_id)

    @property
    def target(self) -> tuple[str, str]:
        """What it says the stream leads to: the service and the method."""
        return (self.service, self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Two halves that belong together.

    Args:
        consumer: The half of the agent that opened the stream.
        provider: The other.
        service: What the stream leads to.
        method: What the consumer wants of that; may be empty.
    """

    consumer: Half
    provider: Half
    service: str
    method: str = ""


MayCall = Callable[[Half, Half], str]
"""Name of a service of the second agent that policy lets the first one call; empty: none."""


def match(one: Half, other: Half, may_call: MayCall) -> Match | None:
    """The two as one stream, or None when they are not halves of one.

    Args:
        one: A half.
        other: Another of the same tenant and stream id.
        may_call: Asked only when neither half knows its role.
    """
    if one.key != other.key or one.agent == other.agent:
        return None
    if any(half.peer not in ("", met.agent) for half, met in ((one, other), (other, one))):
        return None
    if one.service and other.service and one.target != other.target:
        return None
    first, second = sorted((one, other), key=lambda half: half.agent)  # whoever arrived first
    for consumer, provider in ((first, second), (second, first)):
        if _fits(consumer, Role.CONSUMER) and _fits(provider, Role.PROVIDER):
            service, method = consumer.target if consumer.service else provider.target
            if consumer.role is provider.role:  # neither knows
                service = may_call(consumer, provider)
            if service:
                return Match(consumer=consumer, provider=provider, service=service, method=method)
    return None


def _fits(half: Half, role: Role) -> bool:
    return half.role in (role, Role.UNKNOWN)
