"""How much of the relay each agent and each tenant uses, and how much it may.

Words: a *quota* bounds what is held at a time, a *pace* how often something happens. Either is
kept for agents and for tenants. An agent's own is looked at first, so that one who does too
much takes nothing from the others of its tenant. What is refused is counted by the name of
the limit: ``streams_per_agent``.

Invariant: what is counted is what is held; who holds nothing is forgotten.

Source: protocol.md section 3, code 429.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from outrelay.lib.errors import RejectCode, StreamRejected
from outrelay.lib.observe.metrics import LimitMetrics
from outrelay.lib.rates import Rates
from outrelay.relay.limits import Bounds, Limits

AGENT = "agent"
TENANT = "tenant"


class Quota:
    """Bounds of what is held.

    Args:
        name: What it is, in one word.
        things: The same in a sentence: "the agent has 5 ...".
        bounds: How many.
        metrics: Told what is held and what is refused.
    """

    def __init__(self, name: str, things: str, bounds: Bounds, metrics: LimitMetrics) -> None:
        self._name = name
        self._things = things
        self._bounds = bounds
        self._metrics = metrics
        self._in_use = metrics.in_use.labels(name)
        self._agents: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._agents.total()

    def check(self, agent: str, tenant: str) -> None:
        """See whether there is room for one more.

        Args:
            agent: The agent's URI.
            tenant: Whose agent it is.

        Raises:
            StreamRejected: There is none (429).
        """
        self._check(AGENT, self._agents[agent], self._bounds.agent)
        self._check(TENANT, self._tenants[tenant], self._bounds.tenant)

    def take(self, agent: str, tenant: str) -> None:
        """Count one more."""
        self._agents[agent] += 1
        self._tenants[tenant] += 1
        self._in_use.inc()

    def give(self, agent: str, tenant: str) -> None:
        """Count one less."""
        _give(self._agents, agent)
        _give(self._tenants, tenant)
        self._in_use.dec()

    @contextmanager
    def place(self, agent: str, tenant: str) -> Iterator[Place]:
        """Hold one until the end of the body, or until the place is left before.

        Raises:
            StreamRejected: There is no room.
        """
        self.check(agent, tenant)
        place = Place(self, agent, tenant)
        try:
            yield place
        finally:
            place.leave()

    def _check(self, scope: str, held: int, most: int) -> None:
        if held >= most:
            self._metrics.reached.labels(f"{self._name}_per_{scope}").inc()
            reason = f"the {scope} has {most} {self._things}, the most allowed"
            raise StreamRejected(RejectCode.LIMIT, reason)


class Place:
    """One thing held; made by ``Quota.place``."""

    __slots__ = ("_agent", "_left", "_quota", "_tenant")

    def __init__(self, quota: Quota, agent: str, tenant: str) -> None:
        self._quota = quota
        self._agent = agent
        self._tenant = tenant
        self._left = False
        quota.take(agent, tenant)

    def leave(self) -> None:
        """Hold it no longer. Idempotent."""
        if not self._left:
            self._left = True
            self._quota.give(self._agent, self._tenant)


class Pace:
    """Bounds of how often something happens: in the long run, and twice as many at once.

    Args:
        name: What it is, in one word.
        doing: The same in a sentence: "the agent ..."; ``{}`` stands for the bound.
        bounds: Times a second.
        metrics: Told what is refused.
    """

    def __init__(self, name: str, doing: str, bounds: Bounds, metrics: LimitMetrics) -> None:
        self._name = name
        self._doing = doing
        self._bounds = bounds
        self._metrics = metrics
        self._agents = _rates(bounds.agent)
        self._tenants = _rates(bounds.tenant)

    def spend(self, agent: str, tenant: str, now: float) -> None:
        """It happens once more.

        Args:
            agent: The agent's URI.
            tenant: Whose agent it is.
            now: Monotonic seconds.

        Raises:
            StreamRejected: It has happened too often (429); this time does not count.
        """
        if not self._agents.allows(agent, now):
            self._refuse(AGENT, self._bounds.agent)
        if not self._tenants.spend(tenant, now):
            self._refuse(TENANT, self._bounds.tenant)
        self._agents.spend(agent, now)

    def _refuse(self, scope: str, most: int) -> None:
        self._metrics.reached.labels(f"{self._name}_per_{scope}").inc()
        raise StreamRejected(RejectCode.LIMIT, f"the {scope} {self._doing.format(most)}")


@dataclass(frozen=True, slots=True)
class Quotas:
    """All of one relay."""

    streams: Quota
    opening: Quota
    halves: Quota
    services: Quota
    opens: Pace

    @classmethod
    def of(cls, limits: Limits, metrics: LimitMetrics) -> Quotas:
        """Those that ``limits`` tells."""
        return cls(
            streams=Quota("streams", "streams open", limits.streams, metrics),
            opening=Quota("opening", "streams being opened", limits.opening, metrics),
            halves=Quota("halves", "streams that wait to be resumed", limits.halves, metrics),
            services=Quota("services", "services", limits.services, metrics),
            opens=Pace(
                "opens", "opens more than {} streams a second", limits.opens_per_second, metrics
            ),
        )


def _give(held: Counter[str], who: str) -> None:
    held[who] -= 1
    if not held[who]:
        del held[who]


def _rates(per_second: int) -> Rates[str]:
    return Rates[str](per_second=per_second, burst=2 * per_second)
