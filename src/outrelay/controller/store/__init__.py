"""The controller's database behind typed methods: the one place that knows SQL.

``open_store`` gives a Store; its parts are the registry's ``bindings``, the ``policies`` and
the ``audit`` events. Each part publishes what it committed to its ``feed``.

Source: control-plane.md, Storage.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from outrelay.controller.store.audit import Audit, AuditQuery, StoredEvent
from outrelay.controller.store.bindings import Bindings
from outrelay.controller.store.database import IN_MEMORY, Database, open_database
from outrelay.controller.store.policies import Policies
from outrelay.controller.store.records import (
    Binding,
    BindingChange,
    ListedRelay,
    PolicyBatch,
    PolicyChange,
    PolicyChangeKind,
    PolicySnapshot,
    Relay,
    RelayStatus,
    Service,
)
from outrelay.controller.store.session import Session

__all__ = [
    "IN_MEMORY",
    "Audit",
    "AuditQuery",
    "Binding",
    "BindingChange",
    "Bindings",
    "ListedRelay",
    "Policies",
    "PolicyBatch",
    "PolicyChange",
    "PolicyChangeKind",
    "PolicySnapshot",
    "Relay",
    "RelayStatus",
    "Service",
    "Store",
    "StoredEvent",
    "open_store",
]


_COUNT = """
SELECT (SELECT COUNT(*) FROM policies) AS policies,
       (SELECT COUNT(*) FROM services) AS services,
       (SELECT COUNT(*) FROM relay_instances) AS relays,
       COALESCE((SELECT MAX(seq) FROM audit_events) - (SELECT MIN(seq) FROM audit_events) + 1, 0)
           AS audit
"""  # to count all audit events would read all of their index


class Store:
    """Everything the controller remembers."""

    def __init__(self, database: Database) -> None:
        self.bindings = Bindings(database)
        self.policies = Policies(database)
        self.audit = Audit(database)
        self._database = database

    async def count_rows(self) -> dict[str, int]:
        """How many rows there are, by what they are; audit events by the span of their numbers."""

        async def work(session: Session) -> dict[str, int]:
            row = await session.row(_COUNT)
            assert row is not None
            return dict(row)

        return await self._database.read(work)

    def close_feeds(self) -> None:
        """End every watch."""
        self.bindings.feed.close()
        self.policies.feed.close()
        self.audit.mark.close()


@asynccontextmanager
async def open_store(path: str) -> AsyncIterator[Store]:
    """The store in this database; see ``open_database``."""
    async with open_database(path) as database:
        yield Store(database)
