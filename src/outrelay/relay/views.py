"""What a relay shows of itself to who looks into it.

Source: commands.md, Ports; ``outrelay.lib.observe.views``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from prometheus_client import CollectorRegistry

from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.views import Json, Views, carried_bytes
from outrelay.lib.values import address_text
from outrelay.relay.controller import Controller
from outrelay.relay.doors import Doors
from outrelay.relay.edge.session import RESUME, Session
from outrelay.relay.pairs import Pair, Pairs
from outrelay.relay.shared import Shared

MOST_AGENTS = 1000
"""Sessions that the status shows; the rest is only counted."""


def views_of(
    *,
    relay_id: str,
    region: str,
    identity: Identity,
    expires: Callable[[], float],
    registry: CollectorRegistry,
    shared: Shared,
    controller: Controller,
    doors: Callable[[], Doors | None],
    unready: Callable[[], list[str]],
) -> Views:
    """The views of a relay.

    Args:
        relay_id: What the registry knows it by.
        region: Where it is.
        identity: Who it is.
        expires: When its certificate ends now, seconds since the epoch.
        registry: Its numbers.
        shared: Its rooms.
        controller: Whom it calls.
        doors: Where it listens, once it does.
        unready: Why nobody should be sent to it.
    """

    def status() -> Json:
        open_doors = doors()
        sessions = list(shared.roster)
        return {
            "relay_id": relay_id,
            "region": region,
            "endpoint": open_doors.endpoint if open_doors else None,
            "quic_engine": (open_doors.engine or None) if open_doors else None,
            "tcp_endpoint": (open_doors.tcp_endpoint or None) if open_doors else None,
            "controller": {"address": controller.target, "plain": controller.kind.plain.is_set()},
            "rules": shared.judge.rules,
            "connected": len(sessions),
            "agents": [_session(each) for each in islice(sessions, MOST_AGENTS)],
            "streams": len(shared.pairs),
            **carried_bytes(registry),
        }

    return Views(
        component="relay",
        registry=registry,
        identity=identity.uri,
        expires=expires,
        unready=unready,
        status=status,
        streams=PairTable(shared.pairs),
    )


def _session(session: Session) -> Json:
    return {
        "agent": session.uri,
        "session": session.id,
        "address": address_text(session.connection.peer_address),
        "carrier": session.connection.carrier,
        "since_unix_ms": session.since_ms,
        "plain": session.plain,
        "resumes": RESUME in session.features,
        "services": sorted(session.services),
        "serving": session.serving,
        "certificate_not_after_unix_ms": int(session.connection.peer_expires * 1000),
    }


class PairTable:
    """The pairs as a table of streams.

    Args:
        pairs: All of them.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def names(self) -> Iterator[str]:
        """See ``StreamTable``: the tenant and the stream's id."""
        return (f"{pair.call.tenant}/{pair.call.stream_id:016x}" for pair in self._pairs)

    def describe(self, name: str) -> Json:
        """See ``StreamTable``."""
        tenant, _, stream_id = name.rpartition("/")
        pair = self._pairs.find(tenant, int(stream_id, 16))
        assert pair is not None, "names were given in this very turn of the loop"
        return _pair(name, pair)


def _pair(name: str, pair: Pair) -> Json:
    call, splice = pair.call, pair.splice
    return {
        "name": name,
        "stream_id": call.stream_name,
        "tenant": call.tenant,
        "consumer": call.caller,
        "provider": pair.provider.uri,
        "service": call.service,
        "method": call.method or None,
        "state": "opening" if splice is None else "spliced",
        "opened_unix_ms": pair.opened_ms or None,
        "path": "relayed",
        "resumable": pair.can_resume,
        "bytes_up": splice.up.bytes if splice else 0,
        "bytes_down": splice.down.bytes if splice else 0,
    }
