"""What only a controller counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from outrelay.lib.observe.metrics.declare import counter, gauge

_METHOD = "the full name of the rpc"


class RpcMetrics:
    """Calls the controller serves."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.calls = counter(
            registry,
            "outrelay_rpc_calls_total",
            "Calls that ended.",
            {"method": _METHOD, "code": "the name of its gRPC status: `OK`, `UNAVAILABLE`, ..."},
            todo="`UNAUTHENTICATED`, `PERMISSION_DENIED`: somebody calls with a wrong certificate,"
            " the log says from where. `UNAVAILABLE`: the database fails. `INTERNAL`: a bug, with"
            " its trace in the log.",
        )
        self.watchers = gauge(
            registry,
            "outrelay_watchers",
            "Watch streams that are open.",
            {"method": _METHOD},
            todo="Each relay has one of Policy, Registry and Fleet. Fewer than there are relays:"
            " some do not reach this controller.",
        )


class StoreMetrics:
    """What the controller keeps."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = gauge(
            registry,
            "outrelay_rows",
            "Rows of the database, counted once a minute.",
            {"table": "`policies`, `services`, `relays`, `audit`"},
            todo="`audit` grows beyond the disk: shorten `--audit-retention`. `services` are"
            " registrations, one for each agent that offers a service.",
        )


class FleetMetrics:
    """The relays on the line."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attached = gauge(
            registry,
            "outrelay_relays_attached",
            "Relays that are attached to this controller.",
            todo="Fewer than there are: those that are missing are down, cannot reach this"
            " controller, or use another one.",
        )
