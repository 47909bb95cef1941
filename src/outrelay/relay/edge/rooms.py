"""The rooms that serve agents, put together."""

from __future__ import annotations

from outrelay.relay.edge.accept import Edge
from outrelay.relay.edge.control import ControlLoop
from outrelay.relay.edge.open import Opener
from outrelay.relay.edge.resume import Resumer
from outrelay.relay.edge.seek import Elsewhere, Seeker
from outrelay.relay.shared import Shared


def edge_of(shared: Shared, *, relay_id: str, elsewhere: Elsewhere, tenant: str) -> Edge:
    """The edge of a relay.

    Args:
        shared: What its rooms share.
        relay_id: What the registry knows it by.
        elsewhere: Asked behind which relays a service is that nobody offers here.
        tenant: Whose agents it serves; empty: everybody's.
    """
    return Edge(
        roster=shared.roster,
        directory=shared.directory,
        control=_control(shared),
        opener=_opener(shared, _seeker(shared, relay_id, elsewhere), _resumer(shared)),
        metrics=shared.metrics.carrier,
        limits=shared.limits,
        tenant=tenant,
    )


def _control(shared: Shared) -> ControlLoop:
    return ControlLoop(
        directory=shared.directory,
        judge=shared.judge,
        pairs=shared.pairs,
        services=shared.quotas.services,
        trail=shared.trail,
        metrics=shared.metrics.registrations,
        limits=shared.limits,
    )


def _seeker(shared: Shared, relay_id: str, elsewhere: Elsewhere) -> Seeker:
    return Seeker(
        relay_id=relay_id,
        directory=shared.directory,
        elsewhere=elsewhere,
        judge=shared.judge,
        pairs=shared.pairs,
        metrics=shared.metrics.providers,
        limits=shared.limits,
    )


def _resumer(shared: Shared) -> Resumer:
    return Resumer(
        roster=shared.roster,
        judge=shared.judge,
        pairs=shared.pairs,
        quotas=shared.quotas,
        trail=shared.trail,
        metrics=shared.metrics.streams,
        limits=shared.limits,
    )


def _opener(shared: Shared, seeker: Seeker, resumer: Resumer) -> Opener:
    return Opener(
        seeker=seeker,
        resumer=resumer,
        judge=shared.judge,
        pairs=shared.pairs,
        quotas=shared.quotas,
        trail=shared.trail,
        metrics=shared.metrics.streams,
        limits=shared.limits,
    )
