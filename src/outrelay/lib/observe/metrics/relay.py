"""What only a relay counts: providers, limits, registrations, policy, audit, its watches."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics.declare import counter, gauge

_CODE = {"code": "a refusal's number: `400`, `403`, `404`, `429`, `502`, `503`, `504`"}


class RegistrationMetrics:
    """Registrations of services."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = counter(
            registry,
            "outrelay_registrations_refused_total",
            "Registrations that were refused.",
            _CODE,
            todo="`403`: a rule for the method `REGISTER` denies it, `outrelay-cli policy"
            " explain`. `429`: the agent or its tenant offers too many services.",
            known=("403", "429"),
        )


class ProviderMetrics:
    """Providers as the relay asks them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = counter(
            registry,
            "outrelay_provider_refusals_total",
            "Providers that were asked to serve a stream and did not accept.",
            _CODE,
            todo="`502`: the backend behind the provider's agent does not answer. `504`: the agent"
            " does not. The relay asks the next provider; consumers notice only when all refuse.",
            known=("502", "503", "504"),
        )


class LimitMetrics:
    """What agents and tenants use of a relay, and where that is bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_use = gauge(
            registry,
            "outrelay_in_use",
            "Streams, streams being opened or waiting to be resumed, services offered.",
            {"what": "`streams`, `opening`, `halves`, `services`"},
            todo="`opening` that stays high: providers or policy are slow. `halves` that stays"
            " high: agents that lost a connection do not come back.",
        )
        self.reached = counter(
            registry,
            "outrelay_limits_reached_total",
            "Streams and registrations refused because an agent or a tenant had too many.",
            {"limit": "what is bounded and whose: `streams_per_agent`, `opens_per_tenant`, ..."},
            todo="Find out who it is (the log says so), then stop it or raise the flag of that"
            " name.",
        )


class PolicyMetrics:
    """Policy as the relay applies it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decisions = counter(
            registry,
            "outrelay_policy_decisions_total",
            "Decisions about streams and registrations.",
            {"decision": "`allow` or `deny`"},
            todo="`deny` rises after a change of the rules: `outrelay-cli audit query`, then"
            " `policy explain`.",
            known=("allow", "deny"),
        )
        lookups = counter(
            registry,
            "outrelay_policy_cache_lookups_total",
            "Questions to the rules, by whether the answer was remembered.",
            {"result": "`hit` or `miss`"},
            todo="Mostly misses: rules change all the time, or callers name ever new methods.",
        )
        self.hits, self.misses = lookups.labels("hit"), lookups.labels("miss")
        self.rules = gauge(
            registry,
            "outrelay_policy_rules",
            "Rules held.",
            todo="0 in production: the controller has none, or has told none; every stream is"
            " denied.",
        )


class AuditMetrics:
    """Audit events on their way from the relay to the controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queued = gauge(
            registry,
            "outrelay_audit_queue_events",
            "Audit events waiting in memory.",
            todo="Stays high: the controller is away or slow. Without `--audit-spool` they are lost"
            " when the relay ends.",
        )
        self.spooled = gauge(
            registry,
            "outrelay_audit_spool_events",
            "Audit events waiting in the spool.",
            todo="Grows: the controller is away or slow. When a tenant's part is full, the relay"
            " denies or drops as `--audit-overflow` says.",
        )
        self.dropped = counter(
            registry,
            "outrelay_audit_events_dropped_total",
            "Audit events lost because their tenant had no room.",
            todo="The trail has gaps. Bring the controller back; give `--audit-spool` and room.",
        )
        self.sent = counter(
            registry,
            "outrelay_audit_events_sent_total",
            "Audit events the controller stored.",
            todo="None where streams are opened: see the queue and the spool.",
        )


class WatchMetrics:
    """What the relay follows of its controller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lag = gauge(
            registry,
            "outrelay_watch_lag_seconds",
            "For how long the relay has not been told of changes; 0 while it is.",
            {"watch": "`policy`, `directory` or `fleet`"},
            todo="The relay goes on with what it knew: changes of policy do not arrive. Look"
            " whether the controller runs and can be reached from here; the log has the error.",
        )
