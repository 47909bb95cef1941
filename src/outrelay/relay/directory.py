"""Who offers which service: the agents attached here, and a copy of the registry.

Words: a *row* is one provider of one service as the registry has it; the *copy* is all
rows a Watch has told us of. Agents attached to this relay are known at once, without the
controller; the copy tells of those attached elsewhere. A service whose provider was lost is
*expected*: for a while somebody who asks for it waits.

Invariant: a name is looked up within one tenant, and nothing of another tenant shows.

Source: control-plane.md, Registry; protocol.md section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.relay.arrivals import Arrivals
from outrelay.relay.edge.session import Offer, Roster, Session
from outrelay.relay.quotas import Quota

Copy = dict[str, dict[str, registry.Provider]]
"""Rows by service id (``<tenant>/<name>``) and agent URI."""


def service_id(tenant: str, name: str) -> str:
    """What the registry calls a service."""
    return f"{tenant}/{name}"


class Directory:
    """Look-ups for opening streams, and what this relay has to publish.

    Args:
        roster: The sessions there are.
        services: Counts what agents offer here; None: nobody does.
        window: Seconds a service is expected.
    """

    def __init__(self, roster: Roster, services: Quota | None = None, window: float = 30.0) -> None:
        self._roster = roster
        self._arrivals = Arrivals(window, _now)
        self._services = services
        self._on_change: Callable[[str], None] = _nobody
        self._attached: dict[str, dict[str, None]] = {}
        self._copy: Copy = {}
        self.complete = False
        """Whether the copy is all that the registry has."""
        self.loaded = asyncio.Event()
        """Set once it has been."""

    def subscribe(self, on_change: Callable[[str], None]) -> None:
        """Tell ``on_change`` the URI of each agent whose offers here change."""
        self._on_change = on_change

    # ---- agents attached here ------------------------------------------------------------

    def offer(self, session: Session, name: str, offer: Offer) -> None:
        """``session`` offers a service, or offers it otherwise than before."""
        session.services[name] = offer
        key = service_id(session.tenant, name)
        uris = self._attached.setdefault(key, {})
        if session.uri not in uris:
            uris[session.uri] = None
            if self._services is not None:
                self._services.take(session.uri, session.tenant)
        self._arrivals.come(key)
        self._on_change(session.uri)

    def withdraw(self, session: Session, name: str) -> None:
        """``session`` no longer offers a service, if it did."""
        if session.services.pop(name, None) is not None:
            session.standings.pop(name, None)
            self._forget(session, name)
            self._on_change(session.uri)

    def left(self, session: Session) -> None:
        """``session`` has left the roster."""
        for name in session.services:
            self._forget(session, name)
            if (key := service_id(session.tenant, name)) not in self._attached:
                self._arrivals.expect(key)
        if session.services:
            self._on_change(session.uri)

    def offers_of(self, uri: str) -> dict[str, Offer]:
        """What an agent offers here, over all its sessions; the newest one's word counts."""
        return {
            name: offer
            for session in self._roster.of(uri)
            for name, offer in session.services.items()
        }

    def is_offered(self, session: Session, name: str) -> bool:
        """Whether the agent of ``session`` offers a service, by this session or another."""
        return session.uri in self._attached.get(service_id(session.tenant, name), ())

    def providers(self, tenant: str, name: str) -> list[tuple[int, Session]]:
        """The sessions that offer the service here: one for each process that does.

        Each comes with the number of newer processes of the same agent among them.
        """
        uris = self._attached.get(service_id(tenant, name), ())
        return [found for uri in uris for found in enumerate(self._processes(uri, name))]

    def _processes(self, uri: str, name: str) -> Iterator[Session]:
        """An agent's sessions that offer the service, the newest first.

        Those that name no instance count as one process, which has connected anew.
        """
        has_nameless = False
        for session in reversed(self._roster.of(uri)):
            if name not in session.services or (has_nameless and not session.instance):
                continue
            has_nameless = has_nameless or not session.instance
            yield session

    def _newest(self, uri: str, name: str) -> Session | None:
        sessions = reversed(self._roster.of(uri))
        return next((session for session in sessions if name in session.services), None)

    def _forget(self, session: Session, name: str) -> None:
        key = service_id(session.tenant, name)
        uris = self._attached.get(key, {})
        if session.uri in uris and self._newest(session.uri, name) is None:
            del uris[session.uri]
            if self._services is not None:
                self._services.give(session.uri, session.tenant)
            if not self._attached[key]:
                del self._attached[key]

    # ---- agents on their way -------------------------------------------------------------

    def expect(self, row: registry.Provider) -> None:
        """The registry has the provider here: it was, until this relay was restarted."""
        if row.service_id not in self._attached:
            self._arrivals.expect(row.service_id)

    def expects(self, tenant: str, name: str) -> bool:
        """Whether somebody may offer the service here soon, who did until lately."""
        return self._arrivals.expects(service_id(tenant, name))

    async def arrival(self, tenant: str, name: str) -> None:
        """Return when somebody next begins to offer the service here."""
        await self._arrivals.wait(service_id(tenant, name))

    # ---- the copy of the registry --------------------------------------------------------

    def relays_of(self, tenant: str, name: str) -> set[str]:
        """The relays behind which the registry knows providers of the service."""
        rows = self._copy.get(service_id(tenant, name), {})
        return {row.relay_id for row in rows.values()}

    def endpoints_of(self, tenant: str) -> set[str]:
        """Where the relays are that the registry knows agents of the tenant behind."""
        return {
            row.relay_endpoint
            for key, rows in self._copy.items()
            if key.partition("/")[0] == tenant
            for row in rows.values()
            if row.healthy and row.relay_endpoint
        }

    def replace(self, copy: Copy) -> None:
        """Hold exactly these rows, in one step: they are all there are."""
        self._copy = copy
        self.complete = True
        self.loaded.set()

    def forget(self) -> None:
        """Hold no rows: nobody will tell how they change."""
        self._copy = {}
        self.complete = False

    def add(self, row: registry.Provider) -> None:
        """Hold a row, in the place of the agent's earlier one."""
        add_row(self._copy, row)

    def remove(self, row: registry.Provider) -> bool:
        """Drop a row; False when the registry has put another in its place before."""
        rows = self._copy.get(row.service_id, {})
        held = rows.get(row.agent_uri)
        if held is None or held.relay_id != row.relay_id:
            return False
        del rows[row.agent_uri]
        if not rows:
            del self._copy[row.service_id]
        return True


def _nobody(_uri: str) -> None:
    """Nobody has subscribed."""


def _now() -> float:
    return asyncio.get_running_loop().time()


def add_row(copy: Copy, row: registry.Provider) -> None:
    """Put a row into a copy."""
    copy.setdefault(row.service_id, {})[row.agent_uri] = row
