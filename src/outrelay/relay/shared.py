"""What the rooms of one relay share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from outrelay.lib.observe.metrics import RelayMetrics
from outrelay.relay.audit.trail import Trail
from outrelay.relay.directory import Directory
from outrelay.relay.edge.session import Roster
from outrelay.relay.limits import Limits
from outrelay.relay.pairs import Pairs
from outrelay.relay.policy.judge import Judge
from outrelay.relay.quotas import Quotas


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the rooms of one relay share.

    Args:
        limits: What one peer may use of it.
        metrics: What it counts.
        trail: Where everything is recorded.
        quotas: What agents and tenants use.
        roster: The agents that are connected.
        directory: Who offers what.
        judge: What policy says.
        pairs: The streams.
    """

    limits: Limits
    metrics: RelayMetrics
    trail: Trail
    quotas: Quotas
    roster: Roster
    directory: Directory
    judge: Judge
    pairs: Pairs

    @classmethod
    def of(cls, limits: Limits, metrics: RelayMetrics, trail: Trail, *, allow_all: bool) -> Self:
        """Those of a relay that has just started.

        Args:
            limits: What one peer may use of it.
            metrics: What it counts.
            trail: Where everything is recorded.
            allow_all: Ask no policy; for development.
        """
        quotas = Quotas.of(limits, metrics.limits)
        roster = Roster(limits.connections_per_agent)
        return cls(
            limits=limits,
            metrics=metrics,
            trail=trail,
            quotas=quotas,
            roster=roster,
            directory=Directory(roster, quotas.services, limits.resume_window),
            judge=Judge(metrics.policy, allow_all=allow_all),
            pairs=Pairs(quotas.streams),
        )
