"""The rules of each tenant that has agents here, where none can be had of all tenants at once.

A plain controller is asked for one tenant at a time: a tenant's rules are watched from its
first agent on and for a while after its last one has left; then they are forgotten.

Invariant: the judge knows no tenant whose rules are not watched.

Source: control-plane.md, Plain peers.
"""

from __future__ import annotations

import asyncio
from asyncio import Task, TaskGroup
from collections.abc import Callable
from contextlib import suppress

from outrelay.lib.tasks import spawn
from outrelay.relay.controller import Controller, follow
from outrelay.relay.edge.session import Roster
from outrelay.relay.policy.judge import Judge
from outrelay.relay.policy.watch import PolicyWatch

LINGER = 60.0
"""Seconds that a tenant without agents is watched: agents that left often come back."""


class TenantWatches:
    """Watches the rules of the tenants that are here.

    Args:
        controller: Who has the rules.
        judge: Who is to know them.
        roster: Who is here.
        watch_of: Makes the watch of a tenant.
    """

    def __init__(
        self,
        controller: Controller,
        judge: Judge,
        roster: Roster,
        watch_of: Callable[[str], PolicyWatch],
    ) -> None:
        self._controller = controller
        self._judge = judge
        self._roster = roster
        self._watch_of = watch_of
        self._watches: dict[str, Task[None]] = {}
        self._left: dict[str, float] = {}

    async def run(self) -> None:
        """Watch for ever."""
        self._judge.keep_only(self._roster.tenants)
        changed = asyncio.Event()
        self._roster.subscribe(changed.set)
        self._watches, self._left = {}, {}
        async with TaskGroup() as group:
            while True:
                changed.clear()
                pause = self._adjust(group, asyncio.get_running_loop().time())
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()

    def _adjust(self, group: TaskGroup, now: float) -> float | None:
        """Watch who is here, and no longer who left long ago; when to look again, seconds."""
        here = self._roster.tenants
        for tenant in here - self._watches.keys():
            work = follow(self._controller, self._watch_of(tenant))
            self._watches[tenant] = spawn(group, work, name=f"relay: policy watch of {tenant}")
        for tenant in self._watches:
            if tenant in here:
                self._left.pop(tenant, None)
            else:
                self._left.setdefault(tenant, now)
        for tenant in [one for one, since in self._left.items() if since + LINGER <= now]:
            del self._left[tenant]
            self._watches.pop(tenant).cancel()
            self._judge.keep_only(self._watches.keys())
        return min(self._left.values()) + LINGER - now if self._left else None
