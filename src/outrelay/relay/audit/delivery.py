"""The audit room put together: the trail, the spool where there is one, the sender.

Source: control-plane.md, Audit.
"""

from __future__ import annotations

from asyncio import TaskGroup

from outrelay.lib.observe.metrics import AuditMetrics
from outrelay.lib.tasks import spawn
from outrelay.relay.audit.disk import Disk
from outrelay.relay.audit.sender import Sender
from outrelay.relay.audit.spool import Spool
from outrelay.relay.audit.trail import Trail
from outrelay.relay.controller import Controller
from outrelay.relay.options import Overflow


class Delivery:
    """Brings what the trail records to the controller.

    Args:
        controller: Where events go.
        metrics: What is counted.
        relay_id: Who records.
        overflow: What happens where a tenant has no room.
        disk: Where events wait; None: in memory.
    """

    def __init__(
        self,
        controller: Controller,
        metrics: AuditMetrics,
        *,
        relay_id: str,
        overflow: Overflow,
        disk: Disk | None,
    ) -> None:
        shares = None if disk is None else disk.shares
        self.trail = Trail(metrics, relay_id=relay_id, overflow=overflow, spool=shares)
        self._spool = None if disk is None else Spool(self.trail, disk, metrics)
        self._sender = Sender(self._spool or self.trail, controller)

    async def run(self) -> None:
        """Deliver for ever."""
        async with TaskGroup() as group:
            spawn(group, self._sender.run(), name="relay: audit sender")
            if self._spool is not None:
                spawn(group, self._spool.run(), name="relay: audit spool")

    async def settle(self) -> bool:
        """Deliver the rest without delay; see ``Sender.settle``."""
        return await self._sender.settle()

    @property
    def waiting(self) -> int:
        """Events that are not stored."""
        return self._sender.waiting
