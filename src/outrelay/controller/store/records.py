"""What the store keeps, as values.

A *binding* says that an agent serves a service behind a relay; it is *live* while that
relay is alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from outrelay.lib.policy import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """What a relay says about itself."""

    id: str
    region: str = ""
    endpoint: str = ""
    forward_endpoint: str = ""
    tcp_endpoint: str = ""
    intra_endpoint: str = ""
    load: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayStatus:
    """What the controller knows about a relay; see ``registry.relays``."""

    id: str
    holder: str
    beating: bool
    alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRelay:
    """A relay as operators see it.

    Args:
        relay: What it says of itself.
        status: What the controller knows.
        serves: Whether anything is registered behind it, of those who were asked for.
    """

    relay: Relay
    status: RelayStatus
    serves: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One registration as a relay asks for it."""

    tenant: str
    name: str
    agent_uri: str
    relay_id: str
    local_addr: str = ""
    weight: int = 0
    priority: int = 0

    @property
    def id(self) -> str:
        """``<tenant>/<name>``."""
        return f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A registration as it is kept, with what its relay says about itself."""

    service: Service
    updated_ms: int
    revision: int
    region: str
    relay_endpoint: str
    healthy: bool
    alive: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingChange:
    """A binding that is live now, or no longer."""

    revision: int
    binding: Binding
    live: bool


class PolicyChangeKind(Enum):
    """What happened to a rule."""

    ADDED = auto()
    REMOVED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """A rule that was added or removed."""

    kind: PolicyChangeKind
    rule: Rule

    @classmethod
    def added(cls, rule: Rule) -> PolicyChange:
        """``rule`` was added."""
        return cls(kind=PolicyChangeKind.ADDED, rule=rule)

    @classmethod
    def removed(cls, rule: Rule) -> PolicyChange:
        """``rule`` was removed."""
        return cls(kind=PolicyChangeKind.REMOVED, rule=rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBatch:
    """All that one transaction changed in the rules of one tenant: it counts as a whole.

    Args:
        revision: Among all changes of anything.
        tenant: Whose rules they are.
        tenant_revision: Among those of its rules.
        changes: In their order.
    """

    revision: int
    tenant: str
    tenant_revision: int
    changes: tuple[PolicyChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot:
    """Rules, oldest first, as they were at one moment.

    Args:
        rules: Of one tenant, or of all.
        revision: Of the last change of anything before that moment.
        tenant_revision: Of the last change of the one tenant's rules, among those; 0: there was
            none.
    """

    rules: tuple[Rule, ...]
    revision: int
    tenant_revision: int
