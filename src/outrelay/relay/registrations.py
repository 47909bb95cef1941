"""What this relay's agents offer, published to the registry.

Words: an agent is *dirty* while the registry may hold something else for it than what it
offers here. The *reconciler* compares the two and makes the calls that remove the
difference: the order of events does not matter, the latest state wins, and nothing but
the state has to be kept through an outage.

Invariants: a call is repeated until it succeeds, and one agent's does not hold up the
others'; a registry that lost rows (restarted,
restored) gets them again, because what it holds is learnt from its Watch; rows it has put
behind another relay are left alone.

Source: control-plane.md, Registry; protocol.md section 4, 3.
"""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from outrelay.lib.control.v1 import registry_pb2 as registry
from outrelay.lib.errors import ControlError
from outrelay.lib.identity.uri import Identity
from outrelay.lib.observe.logs import get_logger
from outrelay.lib.tasks import spawn
from outrelay.lib.transport.dial import Backoff
from outrelay.relay.controller import AWAY, LONGEST_BACKOFF, Controller
from outrelay.relay.directory import Directory
from outrelay.relay.edge.session import Offer

log = get_logger(__name__)

AT_ONCE = 16
"""Agents reconciled at a time."""

RETRY = 5.0
"""Seconds until what the registry refused is tried again."""

_Offers = dict[str, Offer]
_Held = dict[str, Offer | None]
"""What the registry holds of an agent; None where a call ended without saying."""


class Registrations:
    """Publishes the offers of the agents attached here.

    Args:
        controller: Where to.
        directory: What is offered.
        relay_id: This relay's.
    """

    def __init__(self, controller: Controller, directory: Directory, relay_id: str) -> None:
        self._controller = controller
        self._directory = directory
        self._relay_id = relay_id
        self._published: dict[str, _Held] = {}
        self._dirty: dict[str, None] = {}
        self._refused: set[str] = set()
        self._retry_at: float | None = None
        self._changed = asyncio.Event()
        self._clean = asyncio.Event()
        self._clean.set()
        directory.subscribe(self._touch)

    # ---- what the registry says ----------------------------------------------------------

    def observed(self, rows: Iterable[registry.Provider]) -> None:
        """The registry holds exactly ``rows``, of all relays."""
        held: dict[str, _Held] = {}
        for row in rows:
            name = row.service_id.partition("/")[2]
            if row.relay_id == self._relay_id:
                offer = Offer(local_addr=row.local_addr, weight=row.weight, priority=row.priority)
                held.setdefault(row.agent_uri, {})[name] = offer
                self._directory.expect(row)
            elif (ours := self._directory.offers_of(row.agent_uri).get(name)) is not None:
                held.setdefault(row.agent_uri, {})[name] = ours  # the agent is elsewhere, too
        for uri, before in self._published.items():
            for name, known_offer in before.items():
                if known_offer is None:  # a call is under way that these rows do not know of
                    held.setdefault(uri, {}).setdefault(name, None)
        known = self._published.keys() | held.keys()
        self._published = held
        for uri in known:
            self._touch(uri)

    def removed(self, uri: str, name: str) -> None:
        """The registry no longer holds a row."""
        held = self._published.get(uri, {})
        if name in held:
            del held[name]
            self._touch(uri)

    def again(self, tenant: str) -> None:
        """The registry may have lost what it held of a tenant: publish all of it once more."""
        for uri, held in self._published.items():
            if Identity.parse(uri).realm == tenant:
                held.update(dict.fromkeys(held))
                self._touch(uri)

    # ---- the reconciler ------------------------------------------------------------------

    async def run(self) -> None:
        """Publish for ever."""
        backoff = Backoff()
        while True:
            await self._until_dirty()
            while self._dirty:
                if await self._reconcile_some():
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.delay(LONGEST_BACKOFF))
            self._clean.set()

    @property
    def waiting(self) -> int:
        """Agents of which the registry may hold something else than what they offer here."""
        differing = {
            uri for uri, held in self._published.items() if held != self._directory.offers_of(uri)
        }
        return len(self._dirty.keys() | differing)

    async def wait_published(self) -> None:
        """Return when the registry holds what is offered here."""
        await self._clean.wait()

    def _touch(self, uri: str) -> None:
        """Have a look at an agent."""
        self._dirty[uri] = None
        self._clean.clear()
        self._changed.set()

    async def _until_dirty(self) -> None:
        """Wait until there may be something to do: what was refused is tried again later."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._retry_at):
                await self._changed.wait()
        self._changed.clear()
        if self._retry_at is not None and asyncio.get_running_loop().time() >= self._retry_at:
            self._retry_at = None
            for uri in self._refused:
                self._touch(uri)

    async def _reconcile_some(self) -> bool:
        """Reconcile the agents that wait longest; False when the controller is away."""
        batch = list(islice(self._dirty, AT_ONCE))
        for uri in batch:
            del self._dirty[uri]
        async with TaskGroup() as group:
            tasks = [spawn(group, self._reconcile(uri), name="relay: publish") for uri in batch]
        return all(task.result() for task in tasks)

    async def _reconcile(self, uri: str) -> bool:
        """Make the registry hold what an agent offers; False when the controller is away."""
        held = self._published.setdefault(uri, {})
        wanted = self._directory.offers_of(uri)
        try:
            await self._deregister(uri, held, wanted)
            for name, offer in wanted.items():
                if held.get(name) != offer:
                    held[name] = None
                    await self._register(uri, name, offer)
                    held[name] = offer
        except ControlError as error:
            if error.status in AWAY:
                self._touch(uri)
                return False
            self._refuse(uri, error)
            return True
        self._refused.discard(uri)
        if not held and self._published.get(uri) is held:
            del self._published[uri]
        return True

    async def _register(self, uri: str, name: str, offer: Offer) -> None:
        request = registry.RegisterServiceRequest(
            tenant=Identity.parse(uri).realm,
            service_name=name,
            agent_uri=uri,
            relay_id=self._relay_id,
            local_addr=offer.local_addr,
            weight=offer.weight,
            priority=offer.priority,
        )
        await self._controller.call(
            lambda services, timeout: services.registry.RegisterService(request, timeout=timeout)
        )

    async def _deregister(self, uri: str, held: _Held, wanted: _Offers) -> None:
        """Remove from the registry what of ``held`` is not ``wanted``."""
        gone = [name for name in held if name not in wanted]
        if not gone:
            return
        if not wanted:
            await self._deregister_agent(uri, held)
            return
        try:
            for name in gone:
                await self._deregister_service(uri, name)
                held.pop(name, None)
        except ControlError as error:
            if error.status != "UNIMPLEMENTED":
                raise
            await self._deregister_agent(uri, held)  # what is wanted is registered again

    async def _deregister_service(self, uri: str, name: str) -> None:
        request = registry.DeregisterServiceRequest(
            tenant=Identity.parse(uri).realm,
            service_name=name,
            agent_uri=uri,
            relay_id=self._relay_id,
        )
        await self._controller.call(
            lambda services, timeout: services.registry.DeregisterService(request, timeout=timeout)
        )

    async def _deregister_agent(self, uri: str, held: _Held) -> None:
        request = registry.DeregisterAgentRequest(
            tenant=Identity.parse(uri).realm, agent_uri=uri, relay_id=self._relay_id
        )
        await self._controller.call(
            lambda services, timeout: services.registry.DeregisterAgent(request, timeout=timeout)
        )
        held.clear()

    def _refuse(self, uri: str, error: ControlError) -> None:
        """The registry does not want it: try again, but hold up nobody meanwhile."""
        if uri not in self._refused:
            self._refused.add(uri)
            log.error("registration is not published", agent=uri, reason=str(error))
        if self._retry_at is None:
            self._retry_at = asyncio.get_running_loop().time() + RETRY
