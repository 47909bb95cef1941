"""Relays and the services behind them.

Every change that alters what is live is published: one BindingChange per binding, all of
one transaction with the same revision.

Source: control-plane.md, Registry.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from outrelay.controller.feed import Feed
from outrelay.controller.store.database import Database
from outrelay.controller.store.records import (
    Binding,
    BindingChange,
    ListedRelay,
    Relay,
    RelayStatus,
    Service,
)
from outrelay.controller.store.session import Row, Session, Value

_SELECT = """
SELECT s.tenant, s.name, s.agent_uri, s.relay_id, s.local_addr, s.weight, s.priority,
       s.updated_ms, s.revision, r.region, r.endpoint, r.draining, r.alive
FROM services AS s JOIN relay_instances AS r ON r.id = s.relay_id
"""

_UPSERT_SERVICE = """
INSERT INTO services (tenant, name, agent_uri, relay_id, local_addr, weight, priority,
                      updated_ms, revision)
VALUES (:tenant, :name, :agent_uri, :relay_id, :local_addr, :weight, :priority,
        :updated_ms, :revision)
ON CONFLICT (tenant, name, agent_uri) DO UPDATE SET
    relay_id = excluded.relay_id, local_addr = excluded.local_addr,
    weight = excluded.weight, priority = excluded.priority,
    updated_ms = excluded.updated_ms, revision = excluded.revision
"""

_UPSERT_RELAY = """
INSERT INTO relay_instances (id, holder, region, endpoint, forward_endpoint, tcp_endpoint,
                             intra_endpoint, load, draining, beating, alive)
VALUES (:id, :holder, :region, :endpoint, :forward_endpoint, :tcp_endpoint,
        :intra_endpoint, :load, :draining, :beating, 1)
ON CONFLICT (id) DO UPDATE SET
    holder = excluded.holder, region = excluded.region, endpoint = excluded.endpoint,
    forward_endpoint = excluded.forward_endpoint, tcp_endpoint = excluded.tcp_endpoint,
    intra_endpoint = excluded.intra_endpoint, load = excluded.load,
    draining = excluded.draining, beating = excluded.beating, alive = 1
"""


_LIST_RELAYS = """
SELECT r.*, EXISTS (SELECT 1 FROM services AS s
                    WHERE s.relay_id = r.id AND :tenant IN ('', s.tenant)) AS serves
FROM relay_instances AS r ORDER BY r.id
"""


class Bindings:
    """The registry's tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.feed: Feed[BindingChange] = Feed()

    async def register(self, service: Service, *, holder: str, now_ms: int) -> None:
        """Bind the service's agent to its relay, wherever it was before.

        Args:
            service: What to register.
            holder: URI of the certificate that holds the relay's id; empty for none.
            now_ms: The time.
        """
        row: dict[str, Value] = {**dataclasses.asdict(service), "updated_ms": now_ms}

        async def work(session: Session) -> None:
            if not await session.row(
                "SELECT 1 FROM relay_instances WHERE id = :relay_id", {"relay_id": service.relay_id}
            ):
                await session.change(
                    _UPSERT_RELAY, _relay_row(Relay(id=service.relay_id), holder, beating=False)
                )
            revision = await session.next_revision()
            await session.change(_UPSERT_SERVICE, {**row, "revision": revision})
            (binding,) = await _find(
                session,
                "WHERE s.tenant = :tenant AND s.name = :name AND s.agent_uri = :agent_uri",
                row,
            )
            self._publish(session, revision, [binding], live=True)

        await self._database.write(work)

    async def deregister(
        self, *, tenant: str, agent_uri: str, relay_id: str, name: str | None = None
    ) -> int:
        """Unbind an agent's services that are bound to this relay; how many there were.

        Args:
            tenant: The agent's.
            agent_uri: The agent.
            relay_id: Where it was; what another relay has registered since stays.
            name: The one service to unbind; None: all.
        """
        where = "WHERE s.tenant = :tenant AND s.agent_uri = :agent_uri AND s.relay_id = :relay_id"
        where += "" if name is None else " AND s.name = :name"
        key: dict[str, Value] = {
            "tenant": tenant,
            "agent_uri": agent_uri,
            "relay_id": relay_id,
            "name": name or "",
        }

        async def work(session: Session) -> int:
            gone = await _find(session, where, key)
            if gone:
                revision = await session.next_revision()
                await session.change(f"DELETE FROM services AS s {where}", key)
                self._publish(session, revision, gone, live=False)
            return len(gone)

        return await self._database.write(work)

    async def upsert_relay(self, relay: Relay, *, holder: str, beating: bool) -> None:
        """Note what a relay says of itself; it is alive. Nothing is written when nothing is new.

        Args:
            relay: What it says.
            holder: URI of the certificate that holds its id; empty for none.
            beating: Whether it repeats itself, so that its silence means death.
        """
        new = _relay_row(relay, holder, beating=beating)

        async def work(session: Session) -> None:
            row = await session.row("SELECT * FROM relay_instances WHERE id = :id", new)
            old = dict(row) if row else None
            if old == {**new, "alive": 1}:
                return
            await session.change(_UPSERT_RELAY, new)
            if old and any(old[each] != new.get(each, 1) for each in _SHOWN):
                await self._announce(session, relay.id, live=True)

        await self._database.write(work)

    async def set_alive(self, relay_ids: Sequence[str], *, alive: bool) -> None:
        """Note that relays died or came back: their bindings are live no longer, or again."""

        async def work(session: Session) -> None:
            for relay_id in relay_ids:
                changed = await session.change(
                    "UPDATE relay_instances SET alive = :alive WHERE id = :id AND alive <> :alive",
                    {"alive": int(alive), "id": relay_id},
                )
                if changed:
                    await self._announce(session, relay_id, live=alive)

        await self._database.write(work)

    async def relays(self) -> list[RelayStatus]:
        """Every relay there is."""

        async def work(session: Session) -> list[RelayStatus]:
            rows = await session.rows("SELECT id, holder, beating, alive FROM relay_instances")
            return [_status(row) for row in rows]

        return await self._database.read(work)

    async def list_relays(self, tenant: str) -> list[ListedRelay]:
        """Every relay there is, by id; ``serves`` is of that tenant, or of all when empty."""

        async def work(session: Session) -> list[ListedRelay]:
            return [_listed(row) for row in await session.rows(_LIST_RELAYS, {"tenant": tenant})]

        return await self._database.read(work)

    async def list_services(self, tenant: str, limit: int) -> list[Binding]:
        """At most so many bindings of a tenant (empty: of all), dead ones too, in order."""
        where = "WHERE :tenant IN ('', s.tenant)"
        order = "ORDER BY s.tenant, s.name, s.agent_uri LIMIT :limit"
        key: dict[str, Value] = {"tenant": tenant, "limit": limit}
        return await self._database.read(lambda session: _find(session, f"{where} {order}", key))

    async def resolve(self, tenant: str, name: str) -> list[Binding]:
        """The live bindings of one service."""
        where = "WHERE s.tenant = :tenant AND s.name = :name AND r.alive = 1"
        return await self._database.read(
            lambda session: _find(session, where, {"tenant": tenant, "name": name})
        )

    async def snapshot(self, tenant: str | None) -> tuple[list[Binding], int]:
        """The live bindings of a tenant (None: of all), and the revision they are of."""
        where = "WHERE r.alive = 1" + ("" if tenant is None else " AND s.tenant = :tenant")

        async def work(session: Session) -> tuple[list[Binding], int]:
            revision = await session.revision()
            return await _find(session, where, {"tenant": tenant or ""}), revision

        return await self._database.read(work)

    async def _announce(self, session: Session, relay_id: str, *, live: bool) -> None:
        """Tell watchers of all bindings of a relay."""
        revision = await session.next_revision()
        key: dict[str, Value] = {"relay_id": relay_id, "revision": revision}
        await session.change(
            "UPDATE services SET revision = :revision WHERE relay_id = :relay_id", key
        )
        bindings = await _find(session, "WHERE s.relay_id = :relay_id", key)
        self._publish(session, revision, bindings, live=live)

    def _publish(
        self, session: Session, revision: int, bindings: Sequence[Binding], *, live: bool
    ) -> None:
        for binding in bindings:
            change = BindingChange(revision=revision, binding=binding, live=live)
            session.publish(self.feed, change)


_SHOWN = ("region", "endpoint", "draining", "alive")
"""Columns of a relay that its bindings show."""


async def _find(session: Session, where: str, key: dict[str, Value]) -> list[Binding]:
    return [_binding(row) for row in await session.rows(_SELECT + where, key)]


def _relay_row(relay: Relay, holder: str, *, beating: bool) -> dict[str, Value]:
    return {**dataclasses.asdict(relay), "holder": holder, "beating": int(beating)}


def _status(row: Row) -> RelayStatus:
    return RelayStatus(
        id=row["id"],
        holder=row["holder"],
        beating=bool(row["beating"]),
        alive=bool(row["alive"]),
    )


def _listed(row: Row) -> ListedRelay:
    relay = Relay(
        id=row["id"],
        region=row["region"],
        endpoint=row["endpoint"],
        forward_endpoint=row["forward_endpoint"],
        tcp_endpoint=row["tcp_endpoint"],
        intra_endpoint=row["intra_endpoint"],
        load=row["load"],
        draining=bool(row["draining"]),
    )
    return ListedRelay(relay=relay, status=_status(row), serves=bool(row["serves"]))


def _binding(row: Row) -> Binding:
    return Binding(
        service=Service(
            tenant=row["tenant"],
            name=row["name"],
            agent_uri=row["agent_uri"],
            relay_id=row["relay_id"],
            local_addr=row["local_addr"],
            weight=row["weight"],
            priority=row["priority"],
        ),
        updated_ms=row["updated_ms"],
        revision=row["revision"],
        region=row["region"],
        relay_endpoint=row["endpoint"],
        healthy=not row["draining"],
        alive=bool(row["alive"]),
    )
