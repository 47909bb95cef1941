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


class Store:
    """Everything the controller remembers."""

    def __init__(self, database: Database) -> None:
        self.bindings = Bindings(database)
        self.policies = Policies(database)
        self.audit = Audit(database)

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
