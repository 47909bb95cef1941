"""Keeps the directory's copy that of the registry.

A watch begins with all rows; they replace the copy in one step once they are complete.
While the controller is away the copy stays as it is. A plain controller does not begin with
all rows: it is not watched.

Source: control-plane.md, Registry, Watch.
"""

from __future__ import annotations

from typing import Protocol

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ControlError
from outrelay.lib.observe.logs import get_logger
from outrelay.relay.controller import ALL_TENANTS, SNAPSHOT, Answers, Services
from outrelay.relay.directory import Copy, Directory, add_row
from outrelay.relay.lag import DIRECTORY

log = get_logger(__name__)


class Observer(Protocol):
    """Who has to know what the registry holds."""

    def observed(self, rows: list[registry.Provider]) -> None:
        """It holds exactly ``rows``, of all relays."""

    def removed(self, uri: str, name: str) -> None:
        """It no longer holds a row."""


class DirectoryWatch:
    """A ``Watch`` of the rows of one tenant, or of all.

    Args:
        directory: Whose copy to keep.
        observer: Told what the registry holds.
        tenant: Whose rows they are; empty: everybody's.
    """

    name = "directory"
    kind = DIRECTORY

    def __init__(self, directory: Directory, observer: Observer, tenant: str) -> None:
        self._directory = directory
        self._observer = observer
        self._tenant = tenant
        self._fresh: Copy | None = None

    def begin(self) -> None:
        """A call begins: with all rows."""
        self._fresh = {}

    def open(self, services: Services) -> Answers[registry.WatchEvent]:
        """See ``Watch``."""
        self.begin()
        metadata = (SNAPSHOT,) if self._tenant else (SNAPSHOT, ALL_TENANTS)
        request = registry.WatchRequest(tenant=self._tenant)
        return services.registry.Watch(request, metadata=metadata)

    def begun(self, *, extended: bool) -> None:
        """See ``Watch``."""
        if not extended:
            raise ControlError("UNIMPLEMENTED", "it does not begin with all rows")

    def refused(self) -> None:
        """See ``Watch``."""
        self._directory.forget()

    def take(self, event: registry.WatchEvent) -> None:
        """See ``Watch``."""
        match event.kind:
            case registry.EVENT_KIND_REGISTER if self._fresh is not None:
                add_row(self._fresh, event.provider)
            case registry.EVENT_KIND_REGISTER:
                self._directory.add(event.provider)
            case registry.EVENT_KIND_DEREGISTER if self._fresh is None:
                self._remove(event.provider)
            case registry.EVENT_KIND_SNAPSHOT_END:
                self._complete()

    def lost(self) -> None:
        """See ``Watch``."""
        self._fresh = None

    def _remove(self, row: registry.Provider) -> None:
        if self._directory.remove(row):
            self._observer.removed(row.agent_uri, row.service_id.partition("/")[2])

    def _complete(self) -> None:
        if self._fresh is None:
            return
        rows = [row for service in self._fresh.values() for row in service.values()]
        self._directory.replace(self._fresh)
        self._fresh = None
        self._observer.observed(rows)
        log.info("directory loaded", providers=len(rows))
