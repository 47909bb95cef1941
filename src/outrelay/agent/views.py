"""What an agent shows of itself to who looks into it.

Source: commands.md, Ports; ``outrelay.lib.observe.views``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry

from outrelay.agent.intercept.explicit import ExplicitListener
from outrelay.agent.options import AgentOptions, Expose
from outrelay.agent.session.session import Session
from outrelay.agent.session.uplink import Uplink
from outrelay.agent.streams import Streams
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.views import Json, Views, carried_bytes
from outrelay.lib.transport.carrier import Connection
from outrelay.lib.transport.quic.connection import QuicConnection
from outrelay.lib.values import address_text


def views_of(
    *,
    options: AgentOptions,
    identity: Identity,
    engine: str,
    expires: Callable[[], float],
    registry: CollectorRegistry,
    uplink: Uplink,
    streams: Streams,
    listeners: Sequence[ExplicitListener],
) -> Views:
    """The views of an agent.

    Args:
        options: What it is told to do.
        identity: Who it is.
        engine: What builds the packets of its QUIC; empty: nothing does.
        expires: When its certificate ends now, seconds since the epoch.
        registry: Its numbers.
        uplink: Its sessions.
        streams: What it carries.
        listeners: Where applications reach services.
    """

    def unready() -> list[str]:
        if streams.draining:
            return ["this agent is stopping"]
        return _missing(uplink, options)

    def status() -> Json:
        return {
            "quic_engine": engine or None,
            "relays": [
                f"{each.carrier}:{address_text(each.address)}" for each in options.endpoints
            ],
            "sessions": [_session(each, uplink) for each in uplink.sessions],
            "exposed": [_exposed(each, uplink.current) for each in options.expose],
            "consumed": [
                {**each.consume.names, "address": address_text(each.address)} for each in listeners
            ],
            "streams": len(streams),
            **carried_bytes(registry),
        }

    return Views(
        component="agent",
        registry=registry,
        identity=identity.uri,
        expires=expires,
        unready=unready,
        status=status,
        streams=ShownStreams(streams),
    )


def _missing(uplink: Uplink, options: AgentOptions) -> list[str]:
    """What this agent needs for its work and has not."""
    session = uplink.current
    if session is None:
        return [f"no relay is connected: {uplink.fault or 'none has answered yet'}"]
    services = [each.service for each in options.expose if each.service not in session.registered]
    return [f"not registered with the relay yet: {', '.join(services)}"] if services else []


def _exposed(expose: Expose, session: Session | None) -> Json:
    return {
        "service": expose.service,
        "target": address_text(expose.target),
        "registered": session is not None and expose.service in session.registered,
        "refused": session.refused.get(expose.service) if session else None,
    }


def _engine(connection: Connection) -> str | None:
    """Which engine builds its packets; None: it is not over QUIC."""
    if not isinstance(connection, QuicConnection):
        return None
    return connection.engine.name


def _session(session: Session, uplink: Uplink) -> Json:
    connection = session.connection
    return {
        "relay": connection.peer.uri,
        "address": address_text(connection.peer_address),
        "carrier": connection.carrier,
        "engine": _engine(connection),
        "path": "relayed",
        "since_unix_ms": session.since_ms,
        "current": session is uplink.current,
        "leaving": session.is_leaving,
        "plain": session.is_plain,
        "resumes": session.can_resume,
        "registered": sorted(session.registered),
        "streams": session.carries,
        "rtt_ms": None if session.rtt is None else round(session.rtt * 1000, 3),
        "certificate_not_after_unix_ms": int(connection.peer_expires * 1000),
    }


class ShownStreams:
    """An agent's streams as a table.

    Args:
        streams: All of them.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def names(self) -> Iterator[str]:
        """See ``StreamTable``: the stream's id, and which end of it we are."""
        return iter(self._streams.shown)

    def describe(self, name: str) -> Json:
        """See ``StreamTable``."""
        return {"name": name, **self._streams.shown[name]()}
