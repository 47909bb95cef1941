"""What the relay follows of its controller, by what kind of controller that is.

An extended controller is followed by three calls: the rules, the registry, the commands of
operators. A plain one has rules only, tenant by tenant; where a service is, it is asked when
somebody wants to know. Which kind is there shows in its answers, any time; then the one way
of following takes the place of the other.

Source: control-plane.md, Plain peers; ``docs/decisions/0005-plain-controllers.md``.
"""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections.abc import Iterable
from dataclasses import dataclass

from outrelay.lib.observe.logs import get_logger
from outrelay.lib.tasks import beside, spawn
from outrelay.relay.controller import Controller, follow
from outrelay.relay.directory import Directory
from outrelay.relay.directory_watch import DirectoryWatch
from outrelay.relay.edge.session import Roster
from outrelay.relay.fleet import FleetWatch
from outrelay.relay.policy.judge import Judge
from outrelay.relay.policy.tenants import TenantWatches
from outrelay.relay.policy.watch import PolicyWatch
from outrelay.relay.registrations import Registrations

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """Follows the controller.

    Args:
        controller: Whom to follow.
        tenant: Whose rules and rows to follow; empty: everybody's.
        judge: Learns the rules.
        directory: Learns the rows.
        registrations: Learn what the registry holds, or may have lost.
        roster: Who is here.
        fleet: Answers the commands.
    """

    controller: Controller
    tenant: str
    judge: Judge
    directory: Directory
    registrations: Registrations
    roster: Roster
    fleet: FleetWatch

    async def run(self) -> None:
        """Follow for ever."""
        kind = self.controller.kind
        while True:
            async with beside(self._follow_extended(), name="relay: extended controller"):
                await kind.plain.wait()
            log.info("the controller is a plain one: it knows only the common contract")
            self.directory.forget()
            async with beside(self._follow_plain(), name="relay: plain controller"):
                await kind.extended.wait()
            log.info("the controller is no longer a plain one")

    async def wait_loaded(self) -> None:
        """Return when what can be known before an agent has come is known.

        Of a plain controller of many tenants that is only what kind it is.
        """
        async with TaskGroup() as group:
            either = [
                spawn(group, _wait_all(events), name="relay: first snapshots")
                for events in self._enough()
            ]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            for task in either:
                task.cancel()

    @property
    def is_loaded(self) -> bool:
        """Whether that is known."""
        return any(all(event.is_set() for event in events) for events in self._enough())

    def _enough(self) -> tuple[list[asyncio.Event], list[asyncio.Event]]:
        """What must have happened, with an extended controller and with a plain one."""
        plain = [self.controller.kind.plain] + ([self.judge.loaded] if self.tenant else [])
        return [self.judge.loaded, self.directory.loaded], plain

    async def _follow_extended(self) -> None:
        directory = DirectoryWatch(self.directory, self.registrations, self.tenant)
        async with TaskGroup() as group:
            policy = follow(self.controller, self._watch_of(self.tenant))
            spawn(group, policy, name="relay: policy watch")
            spawn(group, follow(self.controller, directory), name="relay: directory watch")
            spawn(group, follow(self.controller, self.fleet), name="relay: fleet")

    async def _follow_plain(self) -> None:
        if self.tenant:
            await follow(self.controller, self._watch_of(self.tenant))
        else:
            watches = TenantWatches(self.controller, self.judge, self.roster, self._watch_of)
            await watches.run()

    def _watch_of(self, tenant: str) -> PolicyWatch:
        return PolicyWatch(
            self.judge, tenant, self.controller.kind, on_plain=self.registrations.again
        )


async def _wait_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()
